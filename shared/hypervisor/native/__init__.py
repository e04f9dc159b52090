# SPDX-License-Identifier: MIT
"""The C side of real Xen: libxen* opened at run time, and the table of calls for data planes."""
