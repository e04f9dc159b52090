# SPDX-License-Identifier: MIT
"""What every device type does the same way: events, ports, hooks, handlers, numbers of a guest."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, cast

import pytest

from shared import scheduling
from shared.device_id import DeviceId
from shared.device_types import DeviceType, NoOptions, resolve
from shared.errors import BackendBug, ConfigError, GuestFault, HostError
from shared.messages import Init, Message, Nodes, Stop, ToWorker
from shared.untrusted import parse_int
from shared.worker_spec import WorkerSpec
from tests.fakes.handles import FakeHandles, make_context
from tests.fakes.hv import PORT
from tests.fakes.toy.backend import Toy
from worker.bus import Bus
from worker.device import Device
from worker.main import live, load
from worker.nodes import BackendNodes, FrontendNodes


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Ten seconds, where nothing has to be waited for."""

    def waited(_signal: int, _frame: object) -> None:
        raise AssertionError("it waited")

    before = signal.signal(signal.SIGALRM, waited)
    signal.setitimer(signal.ITIMER_REAL, 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Recorder(Device):
    """Counts its events."""

    events = 0

    def event(self) -> None:
        self.events += 1


@pytest.fixture(autouse=True)
def _slice_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """These sessions run in the process of the tests, whose slice all that it starts inherits."""
    monkeypatch.setattr(scheduling, "shorten_slice", lambda: "")


@pytest.fixture
def device(handles: FakeHandles) -> Recorder:
    """A device of a type with one hook."""
    return Recorder(make_context(handles, NoOptions()))


def test_s21_event_of_own_port_unmasks_and_calls_the_hook(
    device: Recorder, handles: FakeHandles, caplog: pytest.LogCaptureFixture
) -> None:
    """The own port is unmasked and the hook called; another port is an error line."""
    device.bind(5)
    handles.hypervisor.send_event(99)
    handles.hypervisor.send_event(PORT)
    logging.getLogger("xenbackd").propagate = True
    with caplog.at_level(logging.ERROR):
        device.run([], 0)

    assert device.events == 1
    assert handles.hypervisor.unmasked == [PORT]
    assert "port 99 is not ours" in caplog.text


def test_s22_event_channel_binds_once_and_unbinds_only_if_bound(
    device: Recorder, handles: FakeHandles
) -> None:
    """A second bind is our bug, a second unbind nothing; notify needs a bound port."""
    with pytest.raises(BackendBug, match="not bound"):
        device.notify()
    device.unbind()
    device.bind(5)
    with pytest.raises(BackendBug, match="bound already"):
        device.bind(5)
    device.notify()
    device.unbind()
    device.unbind()

    assert handles.channels.bound == handles.channels.unbound == [PORT]
    assert handles.hypervisor.notified == [PORT]


def test_device_run_comes_back_for_a_descriptor(device: Recorder) -> None:
    """`run` ends early when a descriptor of the caller's is readable."""
    wake = os.eventfd(1)
    try:
        device.run([wake], 3600)
    finally:
        os.close(wake)


def test_device_that_left_something_gets_event_once_and_without_an_event(
    device: Recorder,
) -> None:
    """`run` does not wait for the frontend either: the rest of the guest's work is at hand."""
    device.more = True
    with waiting_is_an_error():
        device.run([], 3600)
    device.run([], 0)

    assert device.events == 1
    assert not device.more


@pytest.mark.parametrize("times", [1, 2])
def test_s15_disconnect_gives_back_all_that_was_mapped(
    device: Recorder, handles: FakeHandles, times: int
) -> None:
    """Each page once, also where it comes again."""
    handles.hypervisor.grant(8, 1)
    handles.hypervisor.grant(9, 2)
    device.map([8])
    device.map([9])
    assert len(handles.hypervisor.mapped) == 2
    for _ in range(times):
        device.disconnect()

    assert not handles.hypervisor.mapped


def test_s24_device_hooks_have_defaults(device: Recorder) -> None:
    """A type implements the hooks it needs and no other."""
    device.alloc()
    assert device.init({}) == {}
    assert device.initialise({}, {}, resume=False) == {}
    device.connected()
    device.backend_changed("online", b"1")
    device.frontend_changed("state", None)
    assert device.counters() == {}
    device.disconnect()
    device.free()
    about = DeviceType(name="any", backend="any:Device")
    assert (about.needs_grants, about.traits.ignore_frontend_state) == (True, False)


class Hooks(Device):
    """Writes down in which order its hooks are called, and that its handles were open."""

    calls: ClassVar[list[str]] = []
    fault: ClassVar[str] = ""

    def alloc(self) -> None:
        assert self.handles.grant_table is not None
        self.calls.append("alloc")
        if self.fault:
            raise HostError(self.fault)

    def init(self, backend: Nodes) -> Nodes:
        self.calls.append("init")
        return {}

    def disconnect(self) -> None:
        self.calls.append("disconnect")

    def free(self) -> None:
        self.calls.append("free")


class OrdersAtHand:
    """A bus whose orders are all there already; keeps what the worker says."""

    def __init__(self, *orders: ToWorker) -> None:
        self._orders = list(orders)
        self.said: list[str] = []
        self.fileno = os.eventfd(0)

    def receive(self) -> ToWorker | None:
        return self._orders.pop(0) if self._orders else None

    def send(self, kind: type[Message], **fields: object) -> None:
        self.said.append(" ".join([kind.__name__, str(fields.get("stage", ""))]).strip())

    def offer(self, kind: type[Message], **fields: object) -> None:
        pass


def life_of_hooks(handles: FakeHandles, bus: OrdersAtHand) -> None:
    """Be the worker of a device of the type above."""
    context = make_context(handles, NoOptions())
    spec = WorkerSpec(
        device=context.device,
        generation=1,
        backend_domid=0,
        handler="hooks",
        options={},
        endpoint="",
        hypervisor="embedded",
        embedded_dir="",
        supervisor_pid=os.getpid(),
    )
    live(spec, context.log, cast("Bus", bus), Hooks, NoOptions(), handles)


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[OrdersAtHand]:
    """The orders Init and Stop; no hook has been called yet."""
    monkeypatch.setattr(Hooks, "calls", [])
    device = DeviceId("toy", 3, 51712)
    made = OrdersAtHand(
        Init(device=device, generation=1, seq=0, backend={}),
        Stop(device=device, generation=1, seq=1),
    )
    yield made
    os.close(made.fileno)


def test_s07_alloc_is_called_once_before_anything_else(
    handles: FakeHandles, bus: OrdersAtHand
) -> None:
    """With the handles open, before Hello and every other hook; `free` is the last."""
    life_of_hooks(handles, bus)
    assert bus.said == ["Hello", "Initialised"]
    assert Hooks.calls == ["alloc", "init", "disconnect", "free"]


def test_s07_alloc_that_fails_is_reported_instead_of_hello(
    handles: FakeHandles, bus: OrdersAtHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no device then: no other hook is called, and the worker ends with the blame."""
    monkeypatch.setattr(Hooks, "fault", "alloc: no room")
    with pytest.raises(HostError, match="no room"):
        life_of_hooks(handles, bus)
    assert bus.said == ["Failed alloc"]
    assert Hooks.calls == ["alloc"]


def test_device_without_grant_table_says_so(device: Recorder, handles: FakeHandles) -> None:
    """A type that asked for no grant table and uses one is our bug."""
    handles.grant_table = None
    with pytest.raises(BackendBug, match="does not ask for one"):
        _ = device.grant_table


def test_s24_handler_of_a_type_is_found() -> None:
    """Where its manifest says."""
    assert load(resolve("toy")) is Toy


def test_s24_handler_unknown_is_a_config_error() -> None:
    """The message names what is asked for and what there is."""
    with pytest.raises(ConfigError, match=r"nonsense.*toy"):
        resolve("nonsense")


@pytest.mark.parametrize("text", [b"0", b"7", b"0007", b"4294967295"])
def test_parse_int_decimal_is_read(text: bytes) -> None:
    """Plain decimal numbers within the bounds."""
    assert parse_int(text, "node", 0, 2**32 - 1) == int(text)


@pytest.mark.parametrize(
    "text",
    [
        None,
        b"",
        b" 1",
        b"1 ",
        b"+1",
        b"0x1",
        b"1_0",
        b"1e3",
        b"\xd9\xa1",
        b"1\0",
        b"1\n",
        b"9" * 21,
    ],
)
def test_s01_parse_int_malformed_is_a_guest_fault(text: bytes | None) -> None:
    """Whatever int() would also take, and what it would not, is a fault that names the node."""
    with pytest.raises(GuestFault, match=r"^frontend node: ring-ref: "):
        parse_int(text, "frontend node: ring-ref", 0, 2**64)


@pytest.mark.parametrize("text", [b"-1", b"0", b"11", b"18446744073709551616"])
def test_s01_parse_int_out_of_range_is_a_guest_fault(text: bytes) -> None:
    """Bounds are part of reading a number."""
    with pytest.raises(GuestFault, match=r"is not in 1\.\.10"):
        parse_int(text, "node", 1, 10)


def test_s01_parse_int_long_value_is_cut_in_the_message() -> None:
    """A guest cannot fill the log by the value of a node."""
    with pytest.raises(GuestFault) as caught:
        parse_int(b"\x1b[2J" * 500, "node", 0, 1)
    assert len(str(caught.value)) < 200
    assert "\x1b" not in str(caught.value)


def test_s02_nodes_of_the_frontend_are_the_guests_fault() -> None:
    """Absent, default and malformed are told apart; the blame is the guest's."""
    nodes = FrontendNodes({"a": b"5", "flag": b"1", "word": b"x"})

    assert nodes.integer("a", 0, 9) == 5
    assert nodes.integer("b", 0, 9, default=3) == 3
    assert nodes.flag("flag")
    assert not nodes.flag("absent")
    assert nodes.choice("absent", ("x", "y"), "y") == "y"
    with pytest.raises(GuestFault, match="frontend node: b: missing"):
        nodes.integer("b", 0, 9)
    with pytest.raises(GuestFault, match="frontend node: word: 'x' is none of y, z"):
        nodes.choice("word", ("y", "z"), "y")


def test_s02_nodes_of_the_backend_are_the_operators() -> None:
    """The same for the directory the toolstack writes."""
    nodes = BackendNodes({"mode": b"q", "bad": b"\xff"})

    with pytest.raises(ConfigError, match="backend node: params: missing"):
        nodes.text("params")
    with pytest.raises(ConfigError, match="backend node: bad: not UTF-8"):
        nodes.text("bad")
    with pytest.raises(ConfigError, match="backend node: mode: 'q' is none of r, w"):
        nodes.choice("mode", ("r", "w"))
    assert nodes.flag("absent", default=True)
