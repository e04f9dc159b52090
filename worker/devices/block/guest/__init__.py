# SPDX-License-Identifier: MIT
"""Disks in guests of the embedded hypervisor: the block frontend, load, verification, commands."""
