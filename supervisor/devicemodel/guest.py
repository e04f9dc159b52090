# SPDX-License-Identifier: MIT
"""The guest of a device model in xenstore: whether it exists and is still the same.

Paths are relative to the own domain's directory, as QEMU's are: in dom0 that is where libxl looks,
in a driver domain where `xl devd` looks.
"""

from __future__ import annotations

import logging
from typing import Final

from shared.errors import HostError
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.errors import AccessDeniedError, ConnectionLostError, NoEntryError

_log = logging.getLogger("device-model")

RELEASE: Final = "@releaseDomain"


class Guest:
    """A domain that may end at any time."""

    def __init__(self, xenstore: BlockingXenstore, domid: int) -> None:
        """Take note of who it is, and be told of ends from now on.

        Raises:
            HostError: xenstored is away, or does not know the domain.
        """
        self._xenstore = xenstore
        self._domid = domid
        try:
            xenstore.watch(RELEASE, "guest")
        except ConnectionLostError:
            raise
        except HostError as error:
            # Outside dom0 it takes a permission; there `xl devd` ends us by a signal.
            _log.warning("watch on %s: %s: the guest's end is told by signal only", RELEASE, error)
        self._vm = self._read_vm()
        if not self._introduced():
            raise HostError(f"device model: domain {domid}: xenstored does not know it")

    def announce(self) -> None:
        """What libxl waits for (60 s) before it goes on with the guest.

        Raises:
            HostError: it cannot be written.
        """
        self._xenstore.write(f"device-model/{self._domid}/state", "running")

    def there(self) -> bool:
        """Whether it is still the guest it was; a number may belong to another one by now.

        Raises:
            ConnectionLostError: xenstored is away, so nobody knows.
        """
        if not self._introduced():
            return False
        # Every guest has another /vm/<uuid>; it is taken away last of all.
        return self._vm is None or self._read_vm() in (None, self._vm)

    def _introduced(self) -> bool:
        try:
            return self._xenstore.is_domain_introduced(self._domid)
        except AccessDeniedError:
            return True

    def _read_vm(self) -> bytes | None:
        try:
            return self._xenstore.read(f"/local/domain/{self._domid}/vm")
        except (NoEntryError, AccessDeniedError):
            return None
