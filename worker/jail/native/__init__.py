# SPDX-License-Identifier: MIT
"""The jail's system calls in C, for which Python has no function."""
