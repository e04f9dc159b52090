# SPDX-License-Identifier: MIT
"""Tells systemd how the service is doing, by the datagram protocol of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket

_log = logging.getLogger("xenbackd.notify")


def notify(text: str) -> bool:
    """Send `READY=1`, `STATUS=…`, `STOPPING=1`; False if no service manager asked for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(address)
            sock.send(text.encode())
    except OSError as error:
        _log.debug("notification of systemd: %s", error)
        return False
    return True
