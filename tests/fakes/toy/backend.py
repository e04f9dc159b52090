# SPDX-License-Identifier: MIT
"""The backend of the type `toy`: every hook as it is by default."""

from __future__ import annotations

from worker.device import Device


class Toy(Device):
    """One toy."""
