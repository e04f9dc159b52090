# SPDX-License-Identifier: MIT
"""dom0 as an administrator has it: a shell, xl, xenbackd.

A process takes a third of a second here and `xenbackd status` some: what is waited for is looked at
through the agent (`look`), which starts none.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.fakes.waiting import wait_until
from tests.xen.bed.guest import CONFIG as GUEST
from tests.xen.bed.guest import LINUX, Guest
from tests.xen.bed.image import PRODUCT
from tests.xen.bed.machine import PATIENCE, Machine

LOG: Final = "/var/log/xenbackd.log"
CONFIG: Final = """\
hypervisor: xen
timeouts: {hello: 60}
# Tests kill more often than a host that is well.
restart: {initial: 0, jitter: 0, stable_after: 0, quarantine_failures: 100000}
limits: {domain_restarts: 100000, restart_rate: 100000, restart_burst: 100000}
types:
  vbd: {handler: block}
  qdisk: {handler: block, enabled: true}
"""
KINDS: Final = ("vbd", "qdisk")
TITLE: Final = "xenbackd: "
CONNECTED: Final = "4"


@dataclass(frozen=True, slots=True)
class Look:
    """What there was at one moment."""

    disks: dict[str, tuple[str, str]]
    """Backend's and frontend's state of each, "" for a node that is not there."""
    processes: dict[int, str]
    nodes: list[str]
    """Below the path that was asked for."""

    @property
    def workers(self) -> dict[str, int]:
        """The process of each device that has one."""
        return {
            line.removeprefix(TITLE): pid
            for pid, line in self.processes.items()
            if line.startswith(TITLE) and "/" in line
        }


class Dom0:
    """The shell of dom0."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.serving = 0.0
        self.pid = 0
        """xenbackd's."""
        self.idle_descriptors = 0
        """What it had open while it served nothing."""

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

    # --- looking

    def look(self, below: str = "") -> Look:
        """All disks' states, all processes, the nodes below a path of xenstore."""
        told = self.machine.request(PATIENCE, look=KINDS, below=below)
        return Look(
            {name: (back, front) for name, (back, front) in told["disks"].items()},
            {int(pid): line for pid, line in told["processes"].items()},
            told["nodes"],
        )

    def wait(self, holds: Callable[[Look], bool], what: str, timeout: float = PATIENCE) -> Look:
        """Look again and again; what was seen when it held."""
        seen: list[Look] = []

        def looked() -> bool:
            seen[:] = [self.look()]
            return holds(seen[0])

        try:
            wait_until(looked, what, timeout * self.machine.slowness)
        except AssertionError as error:
            raise AssertionError(f"{error}; {seen[0].disks}, {seen[0].workers}") from None
        return seen[0]

    def wait_connected(self, *devices: str) -> Look:
        """Until these disks, and no others, are connected and have a worker each."""
        both = (CONNECTED, CONNECTED)
        return self.wait(
            lambda seen: (
                seen.disks == dict.fromkeys(devices, both) and set(seen.workers) == set(devices)
            ),
            f"{', '.join(devices)} connected",
        )

    def wait_successor(self, device: str, before: Look) -> None:
        """Until a disk has another worker than it had."""
        self.wait(
            lambda seen: seen.workers.get(device, 0) not in (0, before.workers[device]),
            f"a successor for {device}",
        )

    def qemus(self) -> list[str]:
        """QEMU processes, of which there should be none."""
        return [x for x in self.look().processes.values() if "qemu-system" in x.split(" ")[0]]

    def descriptors(self) -> int:
        """How many the supervisor has open."""
        return int(self.run(f"ls /proc/{self.pid}/fd | wc -l"))

    def nothing_left(self, domid: int) -> None:
        """The only guest is gone: its nodes, its workers, its memory, and what the supervisor
        had open for it."""
        front = f"/local/domain/{domid}"

        def gone() -> bool:
            seen = self.look(below=front)
            return not seen.nodes and not any(
                f"/{domid}/" in x for x in (*seen.disks, *seen.workers)
            )

        wait_until(
            gone, f"domain {domid} to leave no node and no worker", PATIENCE * self.machine.slowness
        )
        # A grant that is still mapped keeps a dead domain here, as "(null)".
        self.until(f"! xl list | awk '{{print $2}}' | grep -qx {domid}", f"domain {domid} to go")
        self.until(
            f"[ $(ls /proc/{self.pid}/fd | wc -l) -le {self.idle_descriptors} ]",
            f"the supervisor's descriptors to be {self.idle_descriptors} again",
        )

    def until(self, condition: str, what: str, timeout: float = PATIENCE) -> None:
        """Until a shell command in dom0 works, tried again and again there."""
        status, out = self.try_run(f"until {condition}; do sleep 0.2; done", timeout)
        assert status == 0, f"waited {timeout:g} s for {what}: {condition}\n{out}"

    # --- xenbackd

    def serve(self, config: str = CONFIG) -> None:
        """Start xenbackd as its unit does."""
        self.write("/etc/xenbackd.yaml", config)
        self.run(f"ln -sf {PRODUCT}/bin/xenbackd /usr/local/bin/; touch {LOG}")
        start = self.machine.asked
        self.serve_again()
        self.run("xenbackd status")
        self.serving = self.machine.asked - start
        self.idle_descriptors = self.descriptors()

    def serve_again(self) -> None:
        """Start another supervisor, the last one being dead; until it says that it serves."""
        told = f"grep -c ' serving: ' {LOG}"
        before = self.run(f"{told} || true").strip()
        self.pid = int(
            self.run(
                f"{{ setsid xenbackd serve -c /etc/xenbackd.yaml </dev/null >>{LOG} 2>&1 &"
                " echo $!; }"
            )
        )
        self.until(f"[ $({told}) -gt {before} ] || ! [ -d /proc/{self.pid} ]", "xenbackd to serve")
        ended = self.try_run(f"[ -d /proc/{self.pid} ]")[0]
        assert not ended, f"xenbackd does not start:\n{self.run(f'cat {LOG}')}"

    def devices(self) -> dict[str, dict[str, Any]]:
        """What xenbackd says of its devices."""
        told = json.loads(self.run("xenbackd status --json"))
        return {x["device"]: x for x in told["devices"]}

    # --- guests

    def create(
        self,
        name: str,
        disks: Sequence[str],
        more: str = "",
        *,
        memory: int = 192,
        arguments: str = "",
    ) -> Guest:
        """`xl create`, then wait for the guest's userland; `arguments` are its kernel's."""
        listed = ", ".join(f'"{x}"' for x in disks)
        text = GUEST.format(
            name=name, disks=listed, more=more, memory=memory, linux=LINUX, arguments=arguments
        )
        self.write(f"/root/{name}.cfg", text)
        guest = Guest(self.machine, name)
        start = self.machine.asked
        self.run(f"xl create -q /root/{name}.cfg")
        guest.created = self.machine.asked - start
        guest.wait()
        guest.up = self.machine.asked - start
        return guest

    def destroy(self, guest: Guest) -> float:
        """`xl destroy`, if it is there; seconds it took."""
        start = self.machine.asked
        self.try_run(f"xl destroy {guest.name}")
        return self.machine.asked - start

    def image(self, name: str, size: str = "64M") -> str:
        """An empty image, made again: its path."""
        self.run(f"rm -f /srv/{name}; truncate -s {size} /srv/{name}")
        return f"/srv/{name}"

    def hash(self, image: str) -> str:
        """SHA-256 of an image."""
        return self.run(f"sha256sum {image}").split()[0]


def disk(image: str, vdev: str, access: str = "rw", backend: str = "Domain-0") -> str:
    """A disk that libxl leaves to whoever serves `vbd` in a domain; `target` takes all the rest."""
    script = f"backend={backend},backendtype=phy,script={PRODUCT}/bin/xenbackd-block"
    return f"format=raw,vdev={vdev},access={access},{script},target={image}"
