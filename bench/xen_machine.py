# SPDX-License-Identifier: MIT
"""One guest on real Xen whose three disks are one image, each served by another backend.

- `xvda`: a worker of ours, `backend/vbd3`. xen-blkback takes every `vbd` and the guest's QEMU every
  `qdisk`, so the third directory is what lets the three live side by side; Xen 4.17's libxl has no
  word for it (4.19 has), so its nodes are written here. The directory's name changes nothing about
  how the ring is served.
- `xvdb`: the QEMU that libxl starts for a qdisk, left as libxl configures it.
- `xvdc`: the kernel's xen-blkback over a loop device.

All three disks have the same file behind them, so bytes, placement and cache are the same; only one
is used at a time, and nobody looks at what is written. How each opened the file is looked up in
/proc and /sys, not believed. dom0 writes nothing back by itself meanwhile.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.xen.bed.dom0 import Dom0
from tests.xen.bed.guest import Guest
from tests.xen.bed.image import Bed, bed_directory

MIB: Final = 1 << 20
PACKAGES: Final = ("qemu-system-xen",)
MODULES: Final = ("loop", "xen-blkback")
IMAGE: Final = "/srv/bench.img"
SIZE_MIB: Final = 128
LONG: Final = 900.0
"""Seconds for what takes some tens when nothing else runs on the machine."""

Backend = Literal["xenbackd", "QEMU", "blkback"]
BACKENDS: Final[tuple[Backend, ...]] = ("xenbackd", "QEMU", "blkback")
DEVICES: Final[dict[Backend, str]] = {"xenbackd": "xvda", "QEMU": "xvdb", "blkback": "xvdc"}
OURS: Final = 51712
CONFIG: Final = """\
hypervisor: xen
timeouts: {{hello: 60}}
types:
  vbd3: {{handler: block, options: {{direct_io: {direct}}}}}
"""

# The guest sees a disk when its `state` appears, so that is written last.
ATTACH: Final = """\
set -e
be=/local/domain/0/backend/vbd3/{domid}/{vdev} fe=/local/domain/{domid}/device/vbd/{vdev}
xenstore-write $be/frontend $fe $be/frontend-id {domid} $be/online 1 $be/removable 0 \\
    $be/bootable 0 $be/dev xvda $be/type vbd3 $be/mode w $be/device-type disk \\
    $be/discard-enable 1 $be/params aio:{image}
xenstore-chmod -r $be n0 r{domid}
xenstore-write $fe/backend $be $fe/backend-id 0 $fe/virtual-device {vdev} \\
    $fe/device-type disk $fe/protocol x86_64-abi
xenstore-chmod -r $fe n{domid} r0
start=$EPOCHREALTIME
xenstore-write $be/state 1
until [ "$(xenstore-read $be/state)" = 2 ]; do :; done
echo $start $EPOCHREALTIME
xenstore-write $fe/state 1
xenstore-chmod $fe/state n{domid} r0
until [ "$(xenstore-read $be/state)" = 4 ]; do :; done
"""
# Whole memory in use, in KiB, without what can be dropped.
MEM_FREE: Final = (
    "sync; echo 3 > /proc/sys/vm/drop_caches; sed -n 's/^MemFree: *\\([0-9]*\\) .*/\\1/p'"
    " /proc/meminfo"
)
# Nanoseconds each thread has run, and the names of processes; those that end meanwhile go missing.
SNAPSHOT: Final = (
    "grep -H . /proc/[0-9]*/comm /proc/[0-9]*/task/[0-9]*/schedstat 2>/dev/null || true"
)
NAME: Final = re.compile(r"/proc/(\d+)/comm:(.*)")
RUN: Final = re.compile(r"/proc/(\d+)/task/(\d+)/schedstat:(\d+) ")
KERNEL: Final = re.compile(r"blkback\.|kworker/u|loop\d")
O_DIRECT: Final = 0o40000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """CPU nanoseconds of dom0's threads since their start, by process, and processes' names."""

    names: dict[int, str]
    run: dict[int, dict[int, int]]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """From what `SNAPSHOT` says; the first figure of a thread's schedstat is its run time,
        the same that utime and stime in `stat` are made of, without their 10 ms steps."""
        names: dict[int, str] = {}
        run: dict[int, dict[int, int]] = {}
        for line in text.splitlines():
            if found := NAME.match(line):
                names[int(found[1])] = found[2]
            elif found := RUN.match(line):
                run.setdefault(int(found[1]), {})[int(found[2])] = int(found[3])
        return cls(names, run)

    def since(self, before: Snapshot, pid: int) -> float:
        """CPU microseconds of a process, its new threads included."""
        then = before.run.get(pid, {})
        return sum(ns - then.get(tid, 0) for tid, ns in self.run[pid].items()) / 1000


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of fio did."""

    ios: float
    rate: float
    """I/Os per second."""

    @classmethod
    def parse(cls, text: str, block: int) -> Load:
        """From fio's terse line, version 3: error at 4; KiB and I/Os per second at 5 and 7 for
        reads, 46 and 48 for writes."""
        line = next((x for x in text.splitlines() if x.startswith("3;")), "")
        fields = line.split(";")
        if len(fields) < 50 or fields[4] != "0":
            raise RuntimeError(f"fio: in the guest: {text[-500:]}")
        kib, rate = (int(fields[n]) + int(fields[n + 41]) for n in (5, 7))
        return cls(kib * 1024 / block, rate)


class XenBench:
    """dom0 with the three backends and their guest."""

    def __init__(self, dom0: Dom0, *, direct: bool, seconds: float) -> None:
        """Start everything; afterwards all three disks are connected, each was used for `seconds`,
        and the image is cached."""
        self.dom0 = dom0
        self._direct = direct
        self._seconds = seconds
        self._prepare()
        dom0.serve(CONFIG.format(direct="true" if direct else "false"))
        self._agent = self._pid("-f [d]om0-agent.py")
        self._supervisor = self._pid("-f '^[^ ]*python[^ ]* [^ ]*xenbackd serve'")
        safe = ",direct-io-safe" if direct else ""
        self.guest: Guest = dom0.create(
            "bench", [f"format=raw,vdev=xvdb,access=rw,backendtype=qdisk{safe},target={IMAGE}"]
        )
        self._qemu = self._pid("-f '[x]en-qemu-system'")
        free = self._mem_free()
        self.start_seconds = self._attach_ours()
        self._worker = self._pid("-f '^xenbackd: vbd3/'")
        self._warm_up("xenbackd")
        then, free = free, self._mem_free()
        self.mib_free: dict[Backend, float] = {"xenbackd": (then - free) / 1024}
        self._attach_kernel()
        self._warm_up("blkback")
        self.mib_free["blkback"] = (free - self._mem_free()) / 1024
        self._warm_up("QEMU")
        self._check_caching()
        self._read_image()

    def _prepare(self) -> None:
        # What is written stays in memory: the disk is not what is measured.
        for name, value in (
            ("dirty_writeback_centisecs", 0),
            ("dirty_background_bytes", 512 * MIB),
            ("dirty_bytes", 600 * MIB),
        ):
            self.dom0.run(f"echo {value} > /proc/sys/vm/{name}")
        self.dom0.run(f"dd if=/dev/zero of={IMAGE} bs=1M count={SIZE_MIB} conv=fsync", LONG)

    def _pid(self, what: str) -> int:
        return int(self.dom0.run(f"pgrep {what}").split()[0])

    def _mem_free(self) -> int:
        return int(self.dom0.run(MEM_FREE, LONG))

    def _read_image(self) -> None:
        self.dom0.run(f"cat {IMAGE} > /dev/null", LONG)

    def _attach_ours(self) -> float:
        """Seconds from the toolstack's last node to the worker's InitWait."""
        script = ATTACH.format(domid=self.guest.domid, vdev=OURS, image=IMAGE)
        start, end = self.dom0.run(script, LONG).split()
        return float(end) - float(start)

    def _attach_kernel(self) -> None:
        direct = "on" if self._direct else "off"
        self.dom0.run(f"losetup --direct-io={direct} /dev/loop0 {IMAGE}")
        disk = "format=raw,vdev=xvdc,access=rw,backendtype=phy,target=/dev/loop0"
        self.dom0.run(f"xl block-attach bench {shlex.quote(disk)}", LONG)

    def _warm_up(self, backend: Backend) -> None:
        """The guest has the disk and everything has been done once."""
        name = DEVICES[backend]
        self.guest.run(f"until [ -b /dev/{name} ]; do sleep 0.2; done", LONG)
        self.fio(backend, "randrw", 4096, 16, self._seconds)

    def _check_caching(self) -> None:
        """All three use dom0's page cache, or none does."""
        for pid in (self._worker, self._qemu):
            flags = self.dom0.run(
                f"cd /proc/{pid}/fd; for n in *; do [ $(readlink $n) != {IMAGE} ] ||"
                f" sed -n 's/^flags:\\s*//p' /proc/{pid}/fdinfo/$n; done"
            ).split()
            if not flags or any(bool(int(x, 8) & O_DIRECT) != self._direct for x in flags):
                raise RuntimeError(f"caching: process {pid}: opened with flags {flags}")
        told = self.dom0.run("cat /sys/block/loop0/loop/dio").strip()
        if (told == "1") != self._direct:
            raise RuntimeError(f"caching: /dev/loop0: dio is {told}")

    # --- measuring

    def snapshot(self) -> Snapshot:
        """What everything in dom0 has used up to now."""
        return Snapshot.parse(self.dom0.run(SNAPSHOT, LONG))

    def fio(self, backend: Backend, rw: str, block: int, depth: int, seconds: float) -> Load:
        """One run of fio in the guest."""
        told = self.guest.run(
            f"fio --name=x --filename=/dev/{DEVICES[backend]} --ioengine=libaio --direct=1"
            f" --rw={rw} --bs={block} --iodepth={depth} --runtime={seconds * 1000:.0f}ms"
            " --time_based --norandommap --gtod_reduce=1 --minimal",
            LONG,
        )
        return Load.parse(told, block)

    def backend_us(self, backend: Backend, before: Snapshot, after: Snapshot) -> float:
        """CPU microseconds of a backend between two snapshots.

        For blkback: its threads and the unbound kernel workers, one of which serves the loop
        device (its name changes with its work, and nothing else keeps them busy here).
        """
        if backend == "xenbackd":
            return after.since(before, self._worker)
        if backend == "QEMU":
            return after.since(before, self._qemu)
        return sum(after.since(before, pid) for pid in after.run if self._is_kernel(after, pid))

    def dom0_us(self, before: Snapshot, after: Snapshot) -> float:
        """CPU microseconds of all of dom0, except the agent and what it ran for us: processes
        that came meanwhile."""
        stayed = [
            pid
            for pid in after.run
            if pid != self._agent and (pid in before.run or self._is_kernel(after, pid))
        ]
        return sum(after.since(before, pid) for pid in stayed)

    @staticmethod
    def _is_kernel(snapshot: Snapshot, pid: int) -> bool:
        return KERNEL.match(snapshot.names.get(pid, "")) is not None

    def pss_mib(self) -> dict[Backend, float]:
        """Proportional set size of the two backends that are processes."""
        found: dict[Backend, float] = {}
        pids: dict[Backend, int] = {"xenbackd": self._worker, "QEMU": self._qemu}
        for name, pid in pids.items():
            told = self.dom0.run(f"grep ^Pss: /proc/{pid}/smaps_rollup", LONG)
            found[name] = int(told.split()[1]) / 1024
        return found

    def idle(self, seconds: float) -> dict[str, float]:
        """CPU seconds of who waits, while no guest does I/O."""
        before = self.snapshot()
        self.dom0.run(f"sleep {seconds}", LONG)
        after = self.snapshot()
        pids = {"worker": self._worker, "supervisor": self._supervisor, "QEMU": self._qemu}
        return {name: after.since(before, pid) / 1e6 for name, pid in pids.items()}


def bench_bed() -> Bed:
    """A bed of its own: the tests' dom0 has no QEMU, no blkback and no loop devices."""
    return Bed(Path(f"{bed_directory()}-bench"), PACKAGES, MODULES)
