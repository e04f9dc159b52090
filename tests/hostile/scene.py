# SPDX-License-Identifier: MIT
"""A hostile guest beside an innocent one, and the books of what the hostile one leaves behind.

`Scene.hostile()` gives a guest that is the test's to misuse. While it lives, and after it died
without a word, this must hold whatever it did:

- the innocent guest's I/O, verified, goes on without an error in the worker it began with;
- ports, mappings, handles, watches, processes and descriptors are what they were before;
- so are the nodes in xenstore (the toolstack removes a dead domain's own) and the files in the
  runtime directory;
- the log has grown by no more than `LOG_MAX`, the supervisor's memory by no more than `MEMORY_MAX`.

Nothing here measures time. The restart policy is generous, so that many cases fit into one guest's
life; what the policy itself does about guests is tests/unit/supervisor/policy/test_policy.py's.
"""

from __future__ import annotations

import re
import select
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.held import resident
from bench.lab import Lab
from shared.control import DeviceStatus
from shared.xenbus import XenbusState
from tests.process.lab_world import CONFIG, DEADLINE, Guest, Held, World, world_in

LOG_MAX: Final = 32 * 1024
"""Bytes one hostile guest may add to the log, whatever it does in its life."""
MEMORY_MAX: Final = 16 * 1024
"""KiB by which the supervisor may grow meanwhile; the allocator keeps what it once had."""

SCENE_CONFIG: Final[Mapping[str, Any]] = {
    **CONFIG,
    "restart": {
        "initial": 0.01,
        "max": 0.05,
        "guest_faults": 100_000,
        "quarantine_failures": 100_000,
    },
    "limits": {"domain_restarts": 100_000, "restart_burst": 100_000},
}

_APART: Final = ("log", "xenbackd.yaml")
"""What in the lab's directory is the test's own, or is looked at by its size."""


class Books(NamedTuple):
    """What there is outside of processes and the hypervisor."""

    nodes: frozenset[str]
    """Every path in xenstore."""
    files: Counter[str]
    """Below the runtime directory, by name without digits and chance."""
    memory: int
    """Of the supervisor, resident, KiB."""
    log: int
    """Bytes."""


class Scene:
    """A running xenbackd with its innocent guest (`world.neighbour`)."""

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def lab(self) -> Lab:
        """The installation."""
        return self.world.lab

    @contextmanager
    def hostile(self, **options: Any) -> Iterator[Guest]:
        """A guest with one disk, attached and not connected; options as `World.guest`.

        Leaves only after its device is forgotten and everything is as it was (see the module).
        """
        before = self.books()
        with self.world.untouched():
            with self.world.guest(**options) as guest:
                yield guest
            self.lab.wait(lambda: self.lab.device(guest.device) is None, DEADLINE, "forgotten")
        self._settle(before)

    def refused(self, guest: Guest, *said: str) -> DeviceStatus:
        """Wait until the device is Closed for the guest's fault, with these words in xenstore.

        The log is not looked at: it is bounded, and many cases may share one guest; each begins
        with `forget_error`.
        """
        error = guest.error

        def told() -> bool:
            text = (guest.dom0.read_or_none(error) or b"").decode()
            return text.startswith("-71 ") and all(part in text for part in said)

        self.lab.wait(told, DEADLINE, f"error with {said}, now {guest.dom0.read_or_none(error)!r}")
        guest.wait_backend(XenbusState.CLOSED)
        status = self.lab.device(guest.device)
        assert status is not None
        assert status.hold in ("", "guest")
        return status

    def forget_error(self, guest: Guest) -> None:
        """Take away what an earlier case left, lest `refused` finds that."""
        if guest.dom0.read_or_none(guest.error) is not None:
            guest.dom0.rm(guest.error)

    def starts_anew(self, guest: Guest) -> None:
        """The guest begins again as after a reboot and is served: nothing is held against it."""
        # Closed first: offering one ring and at once another is a way to hang one's own disk.
        guest.xs.write(f"{guest.frontend}/state", XenbusState.CLOSED.to_wire())
        guest.wait_backend(XenbusState.CLOSED)
        guest.disk.restart()
        guest.disk.connect(DEADLINE)
        guest.works()

    def holds_no_more_than(self, before: Held) -> None:
        """Wait until ports, mappings, handles, watches and descriptors are as they were."""
        self.lab.wait(
            lambda: self.world.held().no_more_than(before, None), DEADLINE, f"no more than {before}"
        )

    def books(self) -> Books:
        """Count now."""
        assert self.lab.supervisor is not None
        return Books(
            nodes=frozenset(self._nodes()),
            files=Counter(_files(self.lab.directory)),
            memory=resident(self.lab.supervisor.pid),
            log=self.lab.log_path.stat().st_size,
        )

    def _nodes(self) -> Iterator[str]:
        with self.lab.xenstore() as store:
            pending = ["/local", "/vm", "/libxl"]
            while pending:
                path = pending.pop()
                if store.read_or_none(path) is None:
                    continue  # removed since it was listed
                yield path
                pending += [f"{path}/{name}" for name in store.directory(path)]

    def _settle(self, before: Books) -> None:
        end = time.monotonic() + DEADLINE
        while left := _beyond(now := self.books(), before):
            assert time.monotonic() < end, f"left behind: {left}"
            select.select([], [], [], 0.01)
        assert now.memory - before.memory <= MEMORY_MAX, f"{before.memory} -> {now.memory} KiB"
        grown = now.log - before.log
        assert grown <= LOG_MAX, f"{grown} bytes of log\n{self.lab.log()[-grown:][:4000]}"


@contextmanager
def running_scene(config: Mapping[str, Any] = SCENE_CONFIG) -> Iterator[Scene]:
    """A xenbackd on the embedded hypervisor with an innocent guest under I/O."""
    with scene_in(Lab(config)) as scene:
        yield scene


@contextmanager
def scene_in(installation: Lab) -> Iterator[Scene]:
    """The same in an installation that is not started yet."""
    with world_in(installation) as world:
        with world.lab.xenstore() as store:
            # Made once for all devices, by the first that has an error.
            errors = f"/local/domain/{installation.backend_domid}/error/backend/vbd"
            store.mkdir(errors)
            store.set_perms(errors, [f"n{installation.backend_domid}"])
        yield Scene(world)


def _beyond(now: Books, before: Books) -> list[str]:
    return sorted(now.nodes - before.nodes) + sorted((now.files - before.files).elements())


def _files(directory: Path) -> Iterator[str]:
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if not name.startswith(_APART):
            # Of the fork server's socket only the directory says something: its name is chance.
            yield re.sub("[0-9]+", "N", re.sub("^fork/.+", "fork/socket", name))
