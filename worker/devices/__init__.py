# SPDX-License-Identifier: MIT
"""One folder for each device type; see docs/writing-devices.md."""
