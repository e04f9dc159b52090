# SPDX-License-Identifier: MIT
"""A device type of another distribution: a clock that a guest can ask for the time."""
