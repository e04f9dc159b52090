# SPDX-License-Identifier: MIT
"""Guests of the embedded hypervisor with real frontends."""
