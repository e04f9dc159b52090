# SPDX-License-Identifier: MIT
"""The embedded hypervisor: xenstored, event channels, grant tables, domains, guests."""
