# SPDX-License-Identifier: MIT
"""What confines a worker."""
