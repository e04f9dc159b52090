# SPDX-License-Identifier: MIT
"""The block backend's data plane in C."""
