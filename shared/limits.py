# SPDX-License-Identifier: MIT
"""Limits that hold everywhere, each with its unit, reason and consequence."""

from __future__ import annotations

from typing import Final

WORKER_MESSAGE_MAX: Final = 4096
"""Bytes of one message from a worker. ZeroMQ drops the connection of a peer that sends more."""

SUPERVISOR_MESSAGE_MAX: Final = 256 * 1024
"""Bytes of one message to a worker; snapshots of both directories of a device fit. ZeroMQ drops
the connection of a peer that sends more."""

SNAPSHOT_NODES_MAX: Final = 512
"""Nodes of one directory that a worker is given; a guest that makes more is at fault."""

PUBLISHED_NODES_MAX: Final = 64
"""Nodes that one worker may have published; most device types have about fifteen."""

SNAPSHOT_BYTES_MAX: Final = 96 * 1024
"""Bytes of names and values in one directory that a worker is given. Two directories, encoded, fit
into one message. Without this limit, the nodes that the other limits allow could be ten times
that."""

NODE_NAME_MAX: Final = 128
"""Characters of a node's path below the device directory."""

NODE_VALUE_MAX: Final = 2048
"""Bytes of a node's value (xenstored's default limit for unprivileged domains)."""

XENSTORE_PAYLOAD_MAX: Final = 4096
"""Bytes of payload in one xenstore packet (xs_wire.h, XENSTORE_PAYLOAD_MAX)."""

BUS_QUEUE_MAX: Final = 64
"""Messages that ZeroMQ may queue for one peer (its default is 1000; -1 would mean no limit)."""
