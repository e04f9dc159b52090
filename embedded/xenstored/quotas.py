# SPDX-License-Identifier: MIT
"""What an unprivileged domain may use up. Domain 0 is exempt from all except the last two.

Figures: xenstored's defaults (tools/xenstored/core.c, domain.c). Each says what is answered when
it is exceeded.
"""

from __future__ import annotations

from typing import Final

NODES_MAX: Final = 1000
"""Nodes owned by one domain: ENOSPC."""

ENTRY_SIZE_MAX: Final = 2048
"""Bytes of value, permissions and names of children of one node: ENOSPC."""

PERMISSIONS_MAX: Final = 5
"""Entries in the permissions of one node: ENOSPC."""

WATCHES_MAX: Final = 128
"""Watches of one domain: E2BIG."""

TRANSACTIONS_MAX: Final = 10
"""Transactions open at one time: ENOSPC."""

TRANSACTION_NODES_MAX: Final = 1024
"""Nodes one transaction may touch: ENOSPC."""

REQUESTS_PER_TURN: Final = 1
"""Requests of a domain that are carried out before others have their turn, as in xenstored's own
loop (tools/xenstored/core.c, main). The rest wait, and nothing more is read."""

CONNECTIONS_MAX: Final = 32
"""Connections of one domain (real domains have one): more are closed at once."""

OUTPUT_MAX: Final = 256 * 1024
"""Bytes waiting for one connection; above that, requests are not read and events coalesced."""

EVENTS_MAX: Final = 4096
"""Distinct events waiting for one connection that does not read: it is closed."""
