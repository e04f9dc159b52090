# SPDX-License-Identifier: MIT
"""C headers that data planes share, ring indices for Python, and how native modules are built."""
