# SPDX-License-Identifier: MIT
"""The worker's own native module: what a process does with fatal signals and with its heap."""
