# SPDX-License-Identifier: MIT
"""A guest's block frontend, following Linux's xen-blkfront: what it shares and what it is told.

The steps are those of `embedded.guest.frontend`. I/O may run in one other thread at a time.
"""

from __future__ import annotations

from typing import Final

from embedded.domain import Domain
from embedded.protocol import GRANT_ENTRIES
from shared.xenstore.blocking import BlockingXenstore
from worker.devices.block.about import SECTOR
from worker.devices.block.guest.disk import name_of
from worker.devices.block.guest.disk_io import DiskInfo, DiskIo
from worker.devices.block.guest.ring import FrontRing

ORDER_MAX: Final = 4
"""2^4 pages of ring: the most that Linux and this backend use."""

BITS: Final = {"x86_64-abi": 64, "arm-abi": 64, "x86_32-abi": 32}
"""Request layout by the guest's protocol."""


class BlockFrontend(DiskIo):
    """The frontend of one disk of a domain."""

    # The ring's size decides which of them there are.
    stale_nodes = ("ring-ref", "ring-page-order")

    def __init__(
        self,
        domain: Domain,
        xs: BlockingXenstore,
        devid: int,
        *,
        protocol: str = "x86_64-abi",
        max_ring_order: int = ORDER_MAX,
        persistent: bool = True,
        first_index: int = 0,
    ) -> None:
        """`xs` is the domain's own connection. Nothing is written before `advance`/`connect`.

        Args:
            protocol: layout of the requests, a key of `BITS`.
            max_ring_order: largest ring to ask for; the backend's offer bounds it as well.
            persistent: offer persistent grants; without, every request is granted and revoked.
            first_index: where the ring's indices start; see `FrontRing`.
        """
        super().__init__(domain, xs, devid)
        self.protocol = protocol
        """Of the next connection; a kernel may follow another one that spoke otherwise."""
        self._max_order = max_ring_order
        self._want_persistent = persistent
        self._first_index = first_index

    @property
    def name(self) -> str:
        """The disk's name in the guest, its vdev."""
        return name_of(self.devid)

    def _share(self) -> dict[str, str]:
        """Steps of talk_to_blkback(): the ring's pages and a port."""
        offered = _number(self._xs.read_or_none(f"{self.backend_path}/max-ring-page-order"))
        order = min(offered or 0, self._max_order)
        persistent = self._xs.read_or_none(f"{self.backend_path}/feature-persistent") == b"1"
        self._persistent = persistent and self._want_persistent
        frames, refs = self._pages.ring(order, self.backend_domid)
        channel = self._open_channel()
        self.ring = FrontRing(
            ring=self._pages.address(frames[0]),
            order=order,
            bits=BITS[self.protocol],
            grant_table=self.domain.grant_table_address,
            grant_count=GRANT_ENTRIES,
            ops=channel.native_ops,
            port=channel.port,
            backend_domid=self.backend_domid,
            handle=self.devid,
            persistent=self._persistent,
            first_index=self._first_index,
        )
        nodes = {"event-channel": str(channel.port), "protocol": self.protocol}
        nodes["feature-persistent"] = "1" if self._want_persistent else "0"
        if order == 0:
            nodes["ring-ref"] = str(refs[0])
        else:
            nodes["ring-page-order"] = str(order)
            nodes |= {f"ring-ref{index}": str(ref) for index, ref in enumerate(refs)}
        return nodes

    def _read_info(self) -> DiskInfo | None:
        base = self.backend_path
        names = ("sectors", "sector-size", "info", "feature-flush-cache", "feature-discard")
        nodes = dict(zip(names, self._xs.read_many([f"{base}/{n}" for n in names]), strict=True))
        sectors = _number(nodes["sectors"])
        if sectors is None or self.ring is None:
            return None
        return DiskInfo(
            sectors=sectors,
            sector_size=_number(nodes["sector-size"]) or SECTOR,
            readonly=bool((_number(nodes["info"]) or 0) & 4),
            flush=nodes["feature-flush-cache"] == b"1",
            discard=nodes["feature-discard"] == b"1",
            persistent=self._persistent,
            slots=self.ring.slots,
        )


def _number(value: bytes | None) -> int | None:
    """A decimal number of the backend's; None for anything else."""
    return int(value) if value is not None and value.isdigit() else None
