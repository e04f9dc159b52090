# SPDX-License-Identifier: MIT
"""Bounds that hold everywhere, each with its unit, reason and consequence."""

from __future__ import annotations

from typing import Final

WORKER_MESSAGE_MAX: Final = 4096
"""Bytes of one message from a worker. ZeroMQ drops the connection of a peer that sends more."""

SUPERVISOR_MESSAGE_MAX: Final = 256 * 1024
"""Bytes of one message to a worker; a snapshot of both directories of a device fits. ZeroMQ drops
the connection of a peer that sends more."""

SNAPSHOT_NODES_MAX: Final = 512
"""Nodes of one directory handed to a worker; a guest that makes more is at fault."""

PUBLISHED_NODES_MAX: Final = 64
"""Nodes one worker may have in its backend directory; a device of most types has about fifteen."""

SNAPSHOT_BYTES_MAX: Final = 96 * 1024
"""Bytes of names and values in one directory handed to a worker: two of them, with what encoding
adds, fit into a message. Nodes within the other bounds could be ten times that."""

NODE_NAME_MAX: Final = 128
"""Characters of a node's path below the device directory."""

NODE_VALUE_MAX: Final = 2048
"""Bytes of a node's value (xenstored's default limit of an entry for unprivileged domains)."""

XENSTORE_PAYLOAD_MAX: Final = 4096
"""Bytes of payload in one xenstore packet (xs_wire.h, XENSTORE_PAYLOAD_MAX)."""

BUS_QUEUE_MAX: Final = 64
"""Messages ZeroMQ may queue for one peer (its default is 1000; -1 would be without bound)."""
