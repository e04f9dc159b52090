# SPDX-License-Identifier: MIT
"""The embedded hypervisor's client side in C: bells, grants, mappings."""
