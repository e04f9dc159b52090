# SPDX-License-Identifier: MIT
"""The C data plane of the rate-critical device types, and its build script."""
