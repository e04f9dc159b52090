# SPDX-License-Identifier: MIT
"""The only process that talks to xenstore: watches, registry, life cycle, restart policy, CLI."""
