# SPDX-License-Identifier: MIT
"""dom0 as an administrator has it: a shell, xl, xenbackd; and the guests."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.xen.bed.image import PRODUCT
from tests.xen.bed.machine import Machine

PATIENCE: Final = 120.0
"""Seconds for what takes one or two on an idle machine: everything is emulated."""

LOG: Final = "/var/log/xenbackd.log"
CONFIG: Final = """\
hypervisor: xen
timeouts: {hello: 60}
types:
  vbd: {handler: block}
  qdisk: {handler: block, enabled: true}
"""
GUEST: Final = """\
name = "{name}"
type = "pv"
kernel = "/bed/vmlinux"
ramdisk = "/bed/guest.cpio"
extra = "console=hvc0 loglevel=4 xen_scrub_pages=0 mitigations=off tsc=reliable random.trust_cpu=on"
memory = 192
vcpus = 1
on_crash = "preserve"
on_reboot = "restart"
disk = [{disks}]
{more}
"""


class Dom0:
    """The shell of dom0."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.serving = 0.0

    def try_run(self, command: str, timeout: float = PATIENCE) -> tuple[int, str]:
        """A shell command: exit status and what it said."""
        return self.machine.ask(timeout, run=command)

    def run(self, command: str, timeout: float = PATIENCE) -> str:
        """A shell command that must work: what it said."""
        status, out = self.try_run(command, timeout)
        assert status == 0, f"in dom0: {command}: exit status {status}\n{out}"
        return out

    def write(self, path: str, text: str) -> None:
        """A file."""
        self.run(f"printf %s {shlex.quote(text)} > {path}")

    def wait(self, holds: Callable[[], bool], what: str, timeout: float = PATIENCE) -> float:
        """Ask again and again; seconds it took."""
        start = time.monotonic()
        timeout *= self.machine.slowness
        while not holds():
            assert time.monotonic() < start + timeout, f"waited {timeout:g} s for {what}"
        return time.monotonic() - start

    # --- xenbackd

    def serve(self, config: str = CONFIG) -> None:
        """Start xenbackd as its unit does."""
        self.write("/etc/xenbackd.yaml", config)
        self.run(
            f"ln -sf {PRODUCT}/bin/xenbackd /usr/local/bin/ &&"
            f" setsid xenbackd serve -c /etc/xenbackd.yaml </dev/null >>{LOG} 2>&1 &"
        )
        try:
            answers = lambda: self.try_run("xenbackd status")[0] == 0  # noqa: E731
            self.serving = self.wait(answers, "xenbackd status")
        except AssertionError:
            raise AssertionError(f"xenbackd does not start:\n{self.run(f'cat {LOG}')}") from None

    def devices(self) -> dict[str, dict[str, Any]]:
        """What xenbackd says of its devices."""
        told = json.loads(self.run("xenbackd status --json"))
        return {x["device"]: x for x in told["devices"]}

    def workers(self) -> list[str]:
        """Worker processes."""
        return self.run("pgrep -af '^xenbackd: (vbd|qdisk)/' || true").splitlines()

    def qemus(self) -> list[str]:
        """QEMU processes, of which there should be none."""
        return self.run("pgrep -af 'qemu-system|qemu-dm' | grep -v pgrep || true").splitlines()

    def backends(self) -> str:
        """The disks' backend directories in xenstore, one line a node."""
        kinds = ("vbd", "qdisk")
        return "".join(
            self.run(f"xenstore-ls -f /local/domain/0/backend/{x} 2>/dev/null || true")
            for x in kinds
        )

    # --- guests

    def create(self, name: str, disks: Sequence[str], more: str = "") -> Guest:
        """`xl create`, then wait for the guest's userland."""
        listed = ", ".join(f'"{x}"' for x in disks)
        self.write(f"/root/{name}.cfg", GUEST.format(name=name, disks=listed, more=more))
        guest = Guest(self, name)
        start = time.monotonic()
        self.run(f"xl create -q /root/{name}.cfg")
        guest.created = time.monotonic() - start
        guest.wait()
        guest.up = time.monotonic() - start
        return guest


class Guest:
    """A guest with Debian's kernel."""

    def __init__(self, dom0: Dom0, name: str) -> None:
        self.dom0 = dom0
        self.name = name
        self.created = self.up = 0.0

    @property
    def domid(self) -> int:
        """The number it has now."""
        return int(self.dom0.run(f"xl domid {self.name}"))

    def wait(self, timeout: float = PATIENCE) -> None:
        """Until its userland answers."""
        self.dom0.machine.ask(timeout, guest=self.name)

    def try_run(self, command: str, timeout: float = PATIENCE) -> tuple[int, str]:
        """A shell command in the guest: exit status and what it said."""
        return self.dom0.machine.ask(timeout, guest=self.name, run=command)

    def run(self, command: str, timeout: float = PATIENCE) -> str:
        """A shell command in the guest that must work: what it said."""
        status, out = self.try_run(command, timeout)
        assert status == 0, f"in {self.name}: {command}: exit status {status}\n{out}"
        return out

    def device(self, devid: int, kind: str = "vbd") -> str:
        """The name xenbackd gives one of its disks."""
        return f"{kind}/{self.domid}/{devid}"

    def destroy(self) -> float:
        """`xl destroy`, if it is there; seconds it took."""
        start = time.monotonic()
        self.dom0.try_run(f"xl destroy {self.name}")
        return time.monotonic() - start
