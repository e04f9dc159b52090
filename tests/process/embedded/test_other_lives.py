# SPDX-License-Identifier: MIT
"""Devices that live in other ways than a disk, from attach to the death of their domain.

One type has no frontend state, one waits for a hotplug script, which the test plays, and one
reconfigures while it is connected. The workers stop in a hook when they are told to (tests/fakes/
lives) and are killed there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from bench.lab import Lab
from embedded.toolstack import (
    NewDevice,
    attach_device,
    backend_path,
    detach_device,
    request_close,
)
from shared.control import DeviceStatus
from shared.xenbus import XenbusState
from shared.xenstore.blocking import BlockingXenstore
from tests.fakes.echo.guest import EchoFrontend
from tests.fakes.installed_distribution import environment_of
from tests.fakes.lives.guest import MovingFrontend, ScriptedFrontend, SilentFrontend
from tests.process.lab_world import World

TIME: Final = 20.0
TYPES: Final = ("silent", "scripted", "moving")
CONFIG: Final[Mapping[str, Any]] = {
    "types": {f"v{name}": {"handler": name} for name in TYPES},
    # Workers are killed one after the other here, and the next one shall not be long in coming.
    "restart": {"initial": 0.01, "max": 0.05, "quarantine_failures": 1000},
    "limits": {"domain_restarts": 1000},
}
PHASE_OF: Final = {"init": "initialising", "initialise": "attaching", "disconnect": "detaching"}


class Other(NamedTuple):
    """One device of one domain, with both of its ends."""

    lab: Lab
    dom0: BlockingXenstore
    domid: int
    frontend: EchoFrontend

    @property
    def name(self) -> str:
        """The device's."""
        return f"{self.frontend.kind}/{self.domid}/0"

    @property
    def backend(self) -> str:
        """Backend directory."""
        return backend_path(self.domid, self.frontend.kind, 0)

    def read(self, node: str) -> bytes | None:
        """A node of the backend directory."""
        return self.dom0.read_or_none(f"{self.backend}/{node}")

    def write(self, node: str, value: str) -> None:
        """The same, as a toolstack or its script."""
        self.dom0.write(f"{self.backend}/{node}", value)

    def wait(self, holds: Callable[[DeviceStatus], bool]) -> DeviceStatus:
        """Wait until the supervisor says so; the frontend does its part meanwhile."""

        def check(device: DeviceStatus) -> bool:
            self.frontend.advance()
            return holds(device)

        return self.lab.wait_device(self.name, check, TIME)

    def works(self, *, frontend: str = "Connected") -> DeviceStatus:
        """Wait until it is Connected and served, and use it."""

        def served(device: DeviceStatus) -> bool:
            states = (device.backend, device.frontend, device.phase)
            return states == ("Connected", frontend, "serving") and self.frontend.connected

        device = self.wait(served)
        assert self.frontend.say("hello") == "HELLO"
        return device

    def stall(self, hook: str) -> None:
        """Have the serving worker stop in a hook, and wait until it knows."""
        self.write("stall", hook)
        told = f"stall: {hook}".encode()
        self.lab.wait(lambda: self.read("greeting") == told, TIME, "the worker to be told")

    def kill(self, phase: str) -> None:
        """SIGKILL to the worker in a phase; the next one stops nowhere."""
        pid = self.wait(lambda device: device.phase == phase).pid
        assert pid is not None
        self.write("stall", "")
        os.kill(pid, signal.SIGKILL)
        self.lab.wait(lambda: not Path(f"/proc/{pid}").exists(), TIME, "its death")

    def unplug(self) -> None:
        """The toolstack closes the device, waits for both ends, and removes it."""
        request_close(self.dom0, self.backend)
        self.wait(lambda device: device.backend == "Closed" and not device.pid)
        assert detach_device(self.dom0, self.domid, self.frontend.kind, 0)
        self.lab.wait(lambda: self.lab.device(self.name) is None, TIME, "it to be forgotten")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A running xenbackd with the three types."""
    places = {name: f"tests.fakes.lives.about:{name.upper()}" for name in TYPES}
    python = environment_of(tmp_path_factory.mktemp("environment"), places)
    with Lab(CONFIG, python=str(python)) as lab:
        yield lab


@contextmanager
def attached(lab: Lab, of: type[EchoFrontend], stall: str = "") -> Iterator[Other]:
    """A new domain with a device, which dies with it in the end and is forgotten."""
    with World(lab).domain() as (dom0, domain, xs):
        frontend = of(domain, xs, 0)
        nodes = {} if of.has_state else frontend.prepare()
        device = NewDevice(
            kind=of.kind,
            backend_kind=of.kind,
            devid=0,
            name="0",
            backend={"name": "hello", "stall": stall},
            frontend=nodes,
            has_state=of.has_state,
        )
        attach_device(dom0, domain.domid, device)
        other = Other(lab, dom0, domain.domid, frontend)
        yield other
        frontend.release()
    lab.wait(lambda: lab.device(other.name) is None, TIME, "a dead domain's device to go")


# --- no frontend state


def test_silent_device_is_served_although_its_frontend_says_nothing(lab: Lab) -> None:
    """Connected with an absent `state`; unplugged without the guest's help; nobody's hotplug."""
    with attached(lab, SilentFrontend) as console:
        console.works(frontend="Unknown")
        assert console.read("hotplug-status") is None
        console.unplug()


@pytest.mark.parametrize("hook", ["init", "initialise"])
def test_silent_device_worker_killed_on_its_way_is_replaced(lab: Lab, hook: str) -> None:
    """Before the ring is served, each step has a successor."""
    with attached(lab, SilentFrontend, hook) as console:
        console.kill(PHASE_OF[hook])
        console.works(frontend="Unknown")


def test_silent_device_worker_killed_while_serving_is_replaced(lab: Lab) -> None:
    """What was sent meanwhile is answered by the successor, which may be killed on its way too."""
    with attached(lab, SilentFrontend) as console:
        console.works(frontend="Unknown")
        console.kill("serving")
        console.works(frontend="Unknown")
        for hook in ("init", "initialise"):
            console.stall(hook)
            pid = console.works(frontend="Unknown").pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            console.kill(PHASE_OF[hook])
            console.works(frontend="Unknown")


def test_silent_device_worker_killed_while_letting_go_still_closes(lab: Lab) -> None:
    """An unplug is carried to its end."""
    with attached(lab, SilentFrontend) as console:
        console.works(frontend="Unknown")
        console.stall("disconnect")
        request_close(console.dom0, console.backend)
        console.kill("detaching")
        console.unplug()


def test_silent_device_that_is_forced_closed_online_is_served_again(lab: Lab) -> None:
    """Its frontend cannot ask for it; the ring is the one of before."""
    with attached(lab, SilentFrontend) as console:
        console.works(frontend="Unknown")
        console.write("state", "6")
        # It is over in milliseconds: a look at the states may miss it.
        again = f"{console.name}: Closed -> Initialising"
        lab.wait(lambda: again in lab.log(), TIME, "it to be closed and begun again")
        console.works(frontend="Unknown")


# --- hotplug


def test_scripted_device_is_connected_when_its_script_says_so(lab: Lab) -> None:
    """InitWait and a running ring until then; what the script fails with is reported."""
    with attached(lab, ScriptedFrontend) as nic:
        nic.wait(lambda device: (device.backend, device.phase) == ("InitWait", "serving"))
        assert nic.read("hotplug-status") is None

        nic.dom0.write_many(
            {
                f"{nic.backend}/hotplug-error": "no bridge xenbr0",
                f"{nic.backend}/hotplug-status": "error",
            }
        )
        failed = nic.wait(lambda device: "no bridge xenbr0" in device.error)
        assert (failed.backend, nic.frontend.connected) == ("InitWait", False)

        nic.write("hotplug-status", "connected")
        assert nic.works().error == ""


@pytest.mark.parametrize("phase", ["initialising", "attaching", "serving"])
def test_scripted_device_worker_killed_before_the_script_is_done_is_replaced(
    lab: Lab, phase: str
) -> None:
    """The successor waits for the same script."""
    hook = next((name for name, of in PHASE_OF.items() if of == phase), "")
    with attached(lab, ScriptedFrontend, hook) as nic:
        nic.kill(phase)
        nic.wait(lambda device: (device.backend, device.phase) == ("InitWait", "serving"))
        nic.write("hotplug-status", "connected")
        nic.works()
        nic.unplug()


def test_scripted_device_connects_again_without_another_run_of_the_script(lab: Lab) -> None:
    """Reboot in order and crash of the kernel: the script is run once for each device."""
    with attached(lab, ScriptedFrontend) as nic:
        nic.write("hotplug-status", "connected")
        nic.works()
        nic.frontend.reconnect(TIME)
        nic.works()
        nic.frontend.restart()
        nic.works()
        nic.kill("serving")
        nic.works()


# --- states 7 and 8


def test_moving_device_reconfigures_and_goes_on(lab: Lab) -> None:
    """The ring is taken up again with the nodes of now, by the same worker."""
    with attached(lab, MovingFrontend) as screen:
        before = screen.works()
        screen.write("name", "changed")
        reconfigure(screen)
        assert screen.works().pid == before.pid
        assert screen.frontend.info == "changed"
        screen.unplug()


def test_moving_device_reconfigures_when_the_toolstack_asks_for_it(lab: Lab) -> None:
    """Backend Reconfiguring, the frontend follows, and both are Connected in the end."""
    with attached(lab, MovingFrontend) as screen:
        screen.works()
        screen.write("name", "changed")
        screen.write("state", "7")
        screen.wait(lambda _: screen.frontend.info == "changed")
        screen.works()


@pytest.mark.parametrize("hook", ["disconnect", "init", "initialise"])
def test_moving_device_worker_killed_while_reconfiguring_is_replaced(lab: Lab, hook: str) -> None:
    """Each step has a successor that finishes the change."""
    with attached(lab, MovingFrontend) as screen:
        screen.works()
        screen.stall(hook)
        screen.write("name", "changed")
        reconfigure(screen)
        screen.kill(PHASE_OF[hook])
        screen.works()
        assert screen.frontend.info == "changed"


@pytest.mark.parametrize("orderly", [True, False])
def test_moving_device_reset_in_the_middle_of_a_change_connects_again(
    lab: Lab, orderly: bool
) -> None:
    """The frontend's kernel reboots or crashes while the worker takes up the ring."""
    with attached(lab, MovingFrontend) as screen:
        screen.works()
        screen.stall("initialise")
        reconfigure(screen)
        screen.wait(lambda device: device.phase == "attaching")
        screen.write("stall", "")
        if orderly:
            screen.frontend.begin_close()
        else:
            screen.frontend.restart()
        screen.kill("attaching")
        if orderly:
            screen.wait(lambda device: device.backend == "Closed")
            screen.frontend.restart()
        screen.works()


def reconfigure(screen: Other) -> None:
    """The frontend changes its configuration."""
    assert isinstance(screen.frontend, MovingFrontend)
    assert screen.frontend.state is XenbusState.CONNECTED
    screen.frontend.reconfigure()
