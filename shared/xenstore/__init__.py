# SPDX-License-Identifier: MIT
"""An asyncio xenstore client over pyxs's packet and connection layers."""
