# SPDX-License-Identifier: MIT
"""C headers every data plane shares, and the ring primitives for Python."""
