# SPDX-License-Identifier: MIT
"""Disks over blkif: the manifest, the backend, its data plane in C, and the guest side."""
