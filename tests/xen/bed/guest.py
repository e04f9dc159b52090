# SPDX-License-Identifier: MIT
"""A guest with Debian's kernel and its frontends: nothing of ours in it but a shell."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.xen.bed.machine import PATIENCE, Machine

XVDA, XVDB, XVDC = 51712, 51728, 51744
LINUX: Final = (
    "console=hvc0 loglevel=4 xen_scrub_pages=0 mitigations=off tsc=reliable random.trust_cpu=on"
)
CONFIG: Final = """\
name = "{name}"
type = "pv"
kernel = "/bed/vmlinux"
ramdisk = "/bed/guest.cpio"
extra = "{linux} {arguments}"
memory = {memory}
vcpus = 1
on_crash = "preserve"
on_reboot = "restart"
disk = [{disks}]
{more}
"""

INTERRUPTED: Final = 128
"""fio's exit status after SIGTERM."""


class Guest:
    """A running guest, found by its name: a reboot or a restore gives it another number."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine = machine
        self.name = name
        self.created = self.up = 0.0

    @property
    def domid(self) -> int:
        """The number it has now; 0 if there is no such domain."""
        return int(self._machine.request(PATIENCE, domid=self.name)["domid"])

    def wait(self, timeout: float = PATIENCE) -> None:
        """Until its userland answers."""
        self._machine.ask(timeout, guest=self.name)

    def try_run(self, command: str, timeout: float = PATIENCE) -> tuple[int, str]:
        """A shell command in the guest: exit status and what it said."""
        return self._machine.ask(timeout, guest=self.name, run=command)

    def run(self, command: str, timeout: float = PATIENCE) -> str:
        """A shell command in the guest that must work: what it said."""
        status, out = self.try_run(command, timeout)
        assert status == 0, f"in {self.name}: {command}: exit status {status}\n{out}"
        return out

    def until(self, condition: str, what: str, timeout: float = PATIENCE) -> None:
        """Until a shell command in the guest works, tried again and again there."""
        status, out = self.try_run(f"until {condition}; do sleep 0.1; done", timeout)
        assert status == 0, f"in {self.name}: waited {timeout:g} s for {what}\n{out}"

    def device(self, devid: int, kind: str = "vbd") -> str:
        """The name xenbackd gives one of its disks."""
        return f"{kind}/{self.domid}/{devid}"

    def hash(self, device: str) -> str:
        """SHA-256 of a disk as the guest reads it, not as it remembers it."""
        drop = "sync; echo 3 > /proc/sys/vm/drop_caches"
        return self.run(f"{drop}; sha256sum {device}").split()[0]

    def io_errors(self) -> int:
        """What its kernel says of failed requests."""
        return int(self.run("dmesg | grep -ci 'i/o error' || true"))

    # --- verified I/O

    def start_fio(self, device: str, arguments: str, file: str = "") -> None:
        """fio with crc32c verify over a disk (or a file on it), in the background."""
        where = file or f"/dev/{device}"
        self.run(
            f"rm -f /tmp/{device}.*; (fio --name=v --filename={where} --ioengine=libaio"
            f" --direct=1 --verify=crc32c --verify_fatal=1 --output-format=json {arguments}"
            f" >/tmp/{device}.out 2>&1 & echo $! >/tmp/{device}.pid; wait $!;"
            f" echo $? >/tmp/{device}.status) </dev/null >/dev/null 2>&1 &"
        )

    def wait_progress(self, device: str, requests: int = 50) -> None:
        """Until a disk has answered so many more of its requests."""
        # Reads and writes completed are the first and the fifth field.
        done = f"awk '{{print $1 + $5}}' /sys/block/{device}/stat"
        self.run(
            f"end=$(($({done}) + {requests})); while [ $({done}) -lt $end ]; do"
            f" [ -s /tmp/{device}.status ] && exit 1; sleep 0.1; done"
        )

    def end_fio(self, device: str) -> dict[str, Any]:
        """End fio by SIGTERM, which is no failure: its figures of the job."""
        # Not SIGINT, which what a shell runs in the background ignores.
        self.run(f"kill $(cat /tmp/{device}.pid)")
        self.until(f"[ -s /tmp/{device}.status ]", f"fio on {device}")
        out = self.run(f"cat /tmp/{device}.status /tmp/{device}.out")
        status, _, told = out.partition("\n")
        assert int(status) in (0, INTERRUPTED), f"fio on {device}: {told[-2000:]}"
        job: dict[str, Any] = json.loads(told[told.index("{") : told.rindex("}") + 1])["jobs"][0]
        assert job["error"] == 0, f"fio on {device}: {told[-2000:]}"
        assert job["read"]["total_ios"] > 0, f"fio on {device} has verified nothing"
        return job


def worst_ms(job: dict[str, Any]) -> float:
    """fio's longest completion latency, reads or writes, in milliseconds."""
    longest: float = max(job[x]["clat_ns"]["max"] for x in ("read", "write"))
    return longest / 1e6
