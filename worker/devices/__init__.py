# SPDX-License-Identifier: MIT
"""One module per device type."""
