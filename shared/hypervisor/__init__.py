# SPDX-License-Identifier: MIT
"""The hypervisor interface of a worker, and its implementation over real Xen."""
