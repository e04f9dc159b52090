# SPDX-License-Identifier: MIT
"""A device type whose module ends the process that imports it, as a crash in its C would."""

from __future__ import annotations

import os

os._exit(139)
