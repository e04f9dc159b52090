# SPDX-License-Identifier: MIT
"""The worker, one process for each device: entry point, session, jail, device types."""
