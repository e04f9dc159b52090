# SPDX-License-Identifier: MIT
"""One guest of `make chaos`: verified I/O without end, and what happens to the guest itself.

A thread drives it: short loads of changing block size and depth on one disk, a flush after each.
All use one verify unit, so that what one wrote the next ones compare. Reboots are done between two
loads, as a kernel's are: what was written before is compared after them. A guest that is destroyed
reads everything back first, and its successor must find the same bytes.

Invariant: an I/O error, a mismatch, an unanswered request or a guest that does not come up again is
in `wrong`; nothing that a guest saw is retried or forgotten. Only what the toolstack could not do
because xenstored was being killed is done again.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from typing import Final

from bench.chaos_plan import Deed
from bench.lab import Lab
from embedded.guest.client import GuestClient
from embedded.guest.launch import GuestHandle, create_guest
from shared.errors import BlamedError, HostError
from worker.devices.block.guest.client import RemoteDisk
from worker.devices.block.guest.disk import DiskSpec
from worker.devices.block.guest.load import LoadConfig, LoadResult
from worker.devices.block.guest.toolstack import new_disks

DISK: Final = "xvda"
DEVID: Final = 51712
UNIT: Final = 512
IMAGE: Final = 8 << 20
BURST: Final = 0.5
"""Seconds of one load."""
TICK: Final = 0.01
"""Seconds between two groups of I/Os of a paced load."""
PROFILES: Final = ((512, 1), (4096, 8), (65536, 2), (4096, 32), (16384, 4), (1024, 16))
"""Block size and I/Os that begin together, one load after the other."""
MEMORY_PAGES: Final = 4096
PATIENCE: Final = 60.0
"""Seconds for what needs both supervisor and xenstored, which are being killed."""
ATTEMPTS: Final = 5


class ChaosGuest:
    """`start`, `order`, `finish`; the figures are whole after `finish`."""

    def __init__(self, lab: Lab, number: int, seed: int, toolstack: threading.Lock) -> None:
        """`toolstack` is held while xenstored must not be killed."""
        self.number = number
        self.name = f"guest{number}"
        self.domid: int | None = None
        """None while it does not exist."""
        self.paced = True
        self.wrong: list[str] = []
        self.totals = {"I/Os": 0, "flushes": 0, "units verified": 0, "reboots": 0, "recreated": 0}
        self.made: list[tuple[int, int]] = []
        """From when to when it was destroyed, made again and its whole disk compared, monotonic
        nanoseconds: work of this program, which takes a CPU."""
        self.record = lab.images / f"record{number}"
        self._lab = lab
        self._seed = seed
        self._loads = number
        self._image = lab.images / f"disk{number}.img"
        self._toolstack = toolstack
        self._orders: queue.SimpleQueue[Deed] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._handle: GuestHandle
        self._client: GuestClient
        self._disk: RemoteDisk

    @property
    def pid(self) -> int | None:
        """The guest's process, None while it has none."""
        process = self._handle.process
        return None if process is None else process.pid

    def create(self) -> None:
        """Make it with a new disk, and wait until it is connected."""
        with self._image.open("wb") as file:
            file.truncate(IMAGE)
        self.record.touch()
        self._create()

    def start(self) -> None:
        """Begin the I/O."""
        self._thread.start()

    def order(self, deed: Deed) -> None:
        """Have the guest itself do something, after the present load."""
        self._orders.put(deed)

    def finish(self) -> None:
        """Stop, then read back everything; returns when that is done."""
        self._ending.set()
        self._thread.join()

    def reconnect(self) -> None:
        """Reboot it at rest: of its ring and pages, only what any new one has is mapped then."""
        self._reboot(orderly=True)

    def close(self) -> None:
        """Forget the connection to it."""
        self._client.close()

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._ending.is_set() and not self.wrong:
                self._burst()
                while not self._orders.empty():
                    self._obey(self._orders.get())
            self._read_back()
        except BlamedError as error:
            self._say(str(error))

    def _say(self, text: str) -> None:
        self.wrong.append(f"{time.monotonic():.3f} {self.name} (domain {self.domid}): {text}")

    def _burst(self) -> None:
        block_size, depth = PROFILES[self._loads % len(PROFILES)]
        self._load(
            rw="randrw",
            read_percent=67,
            block_size=block_size,
            depth=depth,
            runtime=BURST,
            tick=TICK if self.paced else 0.0,
            readback=False,
            record=str(self.record),
        )
        self._disk.flush()
        self.totals["flushes"] += 1

    def _read_back(self) -> None:
        """Compare everything that is known with what was last written there."""
        self._load(rw="randrw", block_size=65536, depth=4, total=65536, readback=True)

    def _load(self, **figures: object) -> None:
        self._loads += 1
        config = LoadConfig(
            verify=True,
            verify_unit=UNIT,
            seed=self._seed + self._loads,
            stall=PATIENCE,
            **figures,  # type: ignore[arg-type]
        )
        result = self._disk.io(config)
        self.totals["I/Os"] += result.reads + result.writes
        self.totals["units verified"] += result.verified
        if result.end != "done" or not result.ok or result.in_flight:
            self._say(_verdict(result))

    # --- what happens to it

    def _obey(self, deed: Deed) -> None:
        match deed:
            case Deed.REBOOT | Deed.CRASH:
                self.totals["reboots"] += 1
                self._reboot(orderly=deed is Deed.REBOOT)
            case Deed.RECREATE:
                self.totals["recreated"] += 1
                self._recreate()

    def _reboot(self, *, orderly: bool) -> None:
        """Ask again where xenstored was lost half-way, as it is done by hand."""
        for attempt in range(ATTEMPTS):
            try:
                self._client.reboot(orderly=orderly and not attempt, timeout=PATIENCE)
            except HostError:
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                return

    def _recreate(self) -> None:
        """Destroyed with its domain and made again: only the image is the same."""
        begin = time.monotonic_ns()
        self._read_back()
        before = self._digest()
        with self._toolstack:
            self.domid = None
            self._client.close()
            self._handle.destroy()
            self._create()
        if self._digest() != before:
            self._say("the disk's content is not what it was before the guest was made again")
        self.made.append((begin, time.monotonic_ns()))

    def _create(self) -> None:
        spec = DiskSpec(path=str(self._image), vdev=DISK)
        self._handle = create_guest(
            self._lab.embedded_dir,
            self.name,
            new_disks([spec]),
            memory_pages=MEMORY_PAGES,
            timeout=PATIENCE,
        )
        self._client = self._handle.client()
        self._disk = RemoteDisk(self._client, DISK)
        self.domid = self._handle.domid

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for chunk in self._disk.read_out():
            digest.update(chunk)
        return digest.hexdigest()


def _verdict(result: LoadResult) -> str:
    return (
        f"load ended {result.end} {result.error}: {result.errors} I/O errors {result.first_error},"
        f" {result.in_flight} unanswered, {result.mismatches} mismatches {result.mismatch or ''}"
    )
