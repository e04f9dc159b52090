# SPDX-License-Identifier: MIT
"""xenbackd in a driver domain of the embedded hypervisor: no dom0, no privilege, quotas like any.

Its `embedded_dir` is one in which xenstored's privileged socket is the driver domain's own: whoever
connects there is that domain. The hypervisor is the real one's directory; workers open their
handles as the domain that the supervisor read from xenstore.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.lab import Lab
from embedded.domain import Domain
from embedded.toolstack import create_domain
from shared.xenstore.blocking import BlockingXenstore


class DriverLab(Lab):
    """A lab whose supervisor runs in a domain of its own, made before it starts."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, own_hypervisor=True)
        self._seen = self.directory / "seen"
        self._domain: Domain | None = None
        self.write_config({**config, "hypervisor": "embedded", "embedded_dir": str(self._seen)})

    def start_supervisor(self) -> None:
        """Make the domain if there is none, then start the supervisor in it."""
        if self._domain is None:
            self._domain = Domain.create(self.embedded_dir, "driver")
            self.backend_domid = self._domain.domid
            with self.xenstore() as dom0:
                create_domain(dom0, self.backend_domid, "driver", memory_kib=4096)
            (self._seen / "xenstored").mkdir(parents=True)
            (self._seen / "hypervisor").symlink_to(self.embedded_dir / "hypervisor")
            (self._seen / "xenstored" / "socket").symlink_to(self._own_socket)
        super().start_supervisor()

    def stop(self) -> None:
        """The domain dies with its supervisor."""
        if self._domain is not None:
            self._domain.close()
        super().stop()

    def own_xenstore(self) -> BlockingXenstore:
        """A connection of the driver domain's; the caller closes it."""
        return BlockingXenstore(self._own_socket)

    @property
    def _own_socket(self) -> Path:
        return self.embedded_dir / "xenstored" / "domain" / str(self.backend_domid)
