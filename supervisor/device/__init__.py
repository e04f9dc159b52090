# SPDX-License-Identifier: MIT
"""Devices: found in xenstore, taken up, led through their life cycle, and forgotten."""
