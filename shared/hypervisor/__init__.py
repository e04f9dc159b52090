# SPDX-License-Identifier: MIT
"""The hypervisor interface a worker sees, and its implementations."""
