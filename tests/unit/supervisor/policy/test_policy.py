# SPDX-License-Identifier: MIT
"""Restart policy, exit classification, rate limit, paths, registry, reload: the pure parts."""

from __future__ import annotations

import signal

import msgspec
import pytest

from config.model import Config, RestartConfig, TypeConfig
from shared.device_id import DeviceId
from shared.device_types import DeviceType, resolve
from shared.errors import BackendBug, ConfigError
from shared.lifecycle_types import Hold
from shared.ratelimit import RateLimit
from supervisor.device.changes import Changed, Changes
from supervisor.device.registry import Registry
from supervisor.events import CAPACITY, EventLog
from supervisor.operator.reload import difference, effective
from supervisor.policy.exits import classify, describe
from supervisor.policy.restart import RULES, Decision, ExitKind, RestartPolicy
from supervisor.policy.table import markdown
from supervisor.xenstore.paths import BackendPath, check_frontend, node_below, parse_backend
from tests.root import ROOT

CRASH = ExitKind.CRASH


def policy(chance: float = 0.5, **settings: float) -> RestartPolicy:
    config = msgspec.convert(settings, RestartConfig)
    return RestartPolicy(config, lambda: chance)


def test_policy_first_failure_restarts_at_once() -> None:
    """A single crash is answered without a pause."""
    assert Decision(Hold.NONE) == policy().ended(CRASH, 0.0)


def test_policy_repeated_failures_double_the_pause() -> None:
    """0.5 s, 1 s, 2 s after the first restart at once."""
    restarts = policy(quarantine_failures=100)
    pauses = [restarts.ended(CRASH, float(second)).delay for second in range(5)]
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0]


def test_policy_many_failures_stop_at_the_longest_pause() -> None:
    """The back-off is bounded by `max`, however long it goes on."""
    restarts = policy(quarantine_failures=1000, quarantine_window=1)
    decisions = [restarts.ended(CRASH, 100.0 * n) for n in range(200)]
    assert Decision(Hold.BACKOFF, 60.0) == decisions[-1]


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 0.4), (1.0, 0.6)])
def test_policy_jitter_spreads_the_pause(chance: float, pause: float) -> None:
    """20 % to either side of the pause."""
    restarts = policy(chance)
    restarts.ended(CRASH, 0.0)
    assert pause == pytest.approx(restarts.ended(CRASH, 1.0).delay)


def test_policy_five_failures_in_window_quarantine() -> None:
    """The fifth failure within 300 s holds the device."""
    restarts = policy()
    holds = [restarts.ended(CRASH, 10.0 * n).hold for n in range(5)]
    assert holds == [Hold.NONE, Hold.BACKOFF, Hold.BACKOFF, Hold.BACKOFF, Hold.QUARANTINED]


def test_policy_failures_outside_window_do_not_quarantine() -> None:
    """Five failures in much more than 300 s only back off."""
    restarts = policy()
    assert all(restarts.ended(CRASH, 100.0 * n).hold is not Hold.QUARANTINED for n in range(12))


def test_policy_stable_service_forgets_failures() -> None:
    """After `stable_after` seconds of service the next failure is a first one."""
    restarts = policy()
    restarts.ended(CRASH, 0.0)
    restarts.ended(CRASH, 1.0)
    restarts.connected(2.0)
    assert Decision(Hold.NONE) == restarts.ended(CRASH, 302.0)
    assert restarts.failures == 1


def test_policy_short_service_keeps_failures() -> None:
    """Less than `stable_after` seconds of service forget nothing."""
    restarts = policy()
    restarts.ended(CRASH, 0.0)
    restarts.connected(1.0)
    assert Hold.BACKOFF is restarts.ended(CRASH, 300.9).hold


@pytest.mark.parametrize(
    ("kind", "hold"),
    [
        (ExitKind.CLEAN, Hold.NONE),
        (ExitKind.CONFIG, Hold.CONFIG),
        (ExitKind.GUEST, Hold.GUEST),
        (ExitKind.SECURITY, Hold.QUARANTINED),
        (ExitKind.HOST, Hold.NONE),
        (ExitKind.HANG, Hold.NONE),
        (ExitKind.OOM, Hold.NONE),
        (ExitKind.KILLED, Hold.NONE),
        (ExitKind.SPAWN, Hold.NONE),
    ],
)
def test_policy_first_end_of_each_kind_has_its_hold(kind: ExitKind, hold: Hold) -> None:
    """What a worker died of decides what it is held for."""
    assert hold is policy().ended(kind, 0.0).hold


def test_policy_guest_faults_quarantine_by_themselves() -> None:
    """The third protocol fault within 60 s, and crashes in between do not matter."""
    restarts = policy()
    holds = [restarts.ended(ExitKind.GUEST, 20.0 * n).hold for n in range(2)]
    restarts.ended(CRASH, 30.0)
    assert [*holds, restarts.ended(ExitKind.GUEST, 59.0).hold] == [
        Hold.GUEST,
        Hold.GUEST,
        Hold.QUARANTINED,
    ]


def test_policy_guest_faults_far_apart_do_not_quarantine() -> None:
    """Two in each minute are closed and served again for ever."""
    restarts = policy()
    assert all(restarts.ended(ExitKind.GUEST, 30.0 * n).hold is Hold.GUEST for n in range(50))
    assert restarts.failures == 0


def test_policy_first_three_failures_of_the_host_do_not_count() -> None:
    """Eight temporary failures are five that count; each waits longer than the one before."""
    restarts = policy()
    decisions = [restarts.ended(ExitKind.HOST, 20.0 * n) for n in range(8)]
    assert [one.delay for one in decisions[:7]] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    assert decisions[6].hold is Hold.BACKOFF
    assert decisions[7].hold is Hold.QUARANTINED


def test_policy_failures_of_the_host_far_apart_never_count() -> None:
    """Three in each window are storage that is away now and then."""
    restarts = policy()
    holds = {restarts.ended(ExitKind.HOST, 120.0 * n).hold for n in range(100)}
    assert Hold.QUARANTINED not in holds


@pytest.mark.parametrize(
    "kind", [CRASH, ExitKind.KILLED, ExitKind.OOM, ExitKind.HANG, ExitKind.SPAWN]
)
def test_policy_each_failure_of_ours_backs_off_and_counts(kind: ExitKind) -> None:
    """Crash, stranger's kill, want of memory, hang, spawn: at once, back-off, quarantine."""
    restarts = policy()
    decisions = [restarts.ended(kind, 10.0 * n) for n in range(5)]
    assert [one.delay for one in decisions[:4]] == [0.0, 0.5, 1.0, 2.0]
    assert decisions[4].hold is Hold.QUARANTINED
    assert restarts.last == kind.value


def test_policy_kinds_without_a_rule_there_are_none() -> None:
    """Whatever a worker can die of has its row."""
    assert set(ExitKind) == RULES.keys()


def test_policy_reset_forgets_everything() -> None:
    """After the operator's word the next failure is a first one."""
    restarts = policy()
    for second in range(4):
        restarts.ended(CRASH, float(second))
    restarts.reset()
    assert restarts.last == ""
    assert Decision(Hold.NONE) == restarts.ended(CRASH, 5.0)


def test_policy_table_in_the_documentation_is_the_one_in_force() -> None:
    """docs/supervision.md contains the generated tables."""
    document = ROOT / "docs" / "supervision.md"
    assert markdown() in document.read_text()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0, ExitKind.CLEAN),
        (78, ExitKind.CONFIG),
        (76, ExitKind.GUEST),
        (75, ExitKind.HOST),
        (70, ExitKind.CRASH),
        (1, ExitKind.CRASH),
        (-signal.SIGSEGV, ExitKind.CRASH),
        (-signal.SIGSYS, ExitKind.SECURITY),
        (-signal.SIGKILL, ExitKind.KILLED),
        (None, ExitKind.CRASH),
    ],
)
def test_exits_status_has_its_kind(status: int | None, kind: ExitKind) -> None:
    """Exit codes of the error classes, signals, and what nobody knows."""
    assert kind is classify(status)


def test_exits_signal_is_named() -> None:
    """The log says SIGSEGV and not -11."""
    assert describe(-11) == "killed by SIGSEGV"
    assert describe(-250) == "killed by signal 250"


def test_ratelimit_burst_then_one_per_period() -> None:
    """Ten at once, then one in six seconds, and what was refused is counted."""
    limit = RateLimit(10, 6.0)
    assert sum(limit.allow(0.0) for _ in range(15)) == 10
    assert not limit.allow(5.0)
    assert limit.allow(6.5)
    assert limit.take_suppressed() == 6
    assert limit.take_suppressed() == 0


TYPE = "/local/domain/0/backend/toy"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (TYPE, BackendPath(None, None, None)),
        (f"{TYPE}/3", BackendPath(3, None, None)),
        (f"{TYPE}/3/51712", BackendPath(3, 51712, None)),
        (f"{TYPE}/3/51712/state", BackendPath(3, 51712, "state")),
        (f"{TYPE}/3/51712/a/b", BackendPath(3, 51712, "a/b")),
        (f"{TYPE}2/3/51712", None),
        (f"{TYPE}/x/51712", None),
        (f"{TYPE}/03/51712", None),
        (f"{TYPE}/-1/51712", None),
        (f"{TYPE}/32752/51712", None),
        (f"{TYPE}/3/4294967296", None),
        (f"{TYPE}/3/disk", None),
        ("/elsewhere", None),
    ],
)
def test_s19_backend_path_is_taken_apart(path: str, expected: BackendPath | None) -> None:
    """A watch event's path gives domain, device and node; odd names give nothing."""
    assert expected == parse_backend(TYPE, path)


def test_s20_frontend_path_must_lie_below() -> None:
    """The next character after the frontend path is a slash, or it is another device's."""
    assert node_below("/a/b", "/a/b") == ""
    assert node_below("/a/b", "/a/b/state") == "state"
    assert node_below("/a/b", "/a/b/q/0") == "q/0"
    assert None is node_below("/a/b", "/a/bc")
    assert None is node_below("/a/b", "/a")


@pytest.mark.parametrize(
    "path",
    ["/local/domain/4/device/toy/1", "/local/domain/3", "/local/domain/33/x", "/local/domain/3//x"],
)
def test_s11_frontend_path_outside_the_domain_is_refused(path: str) -> None:
    """A frontend directory lies in its own domain's part of the store."""
    with pytest.raises(ConfigError, match="toy/3/51712: node frontend"):
        check_frontend(DeviceId("toy", 3, 51712), path)


class Thing:
    def __init__(self, name: str) -> None:
        self._id = DeviceId.parse(name)

    @property
    def id(self) -> DeviceId:
        return self._id


def test_s05_registry_never_holds_two_of_a_name() -> None:
    """The same device cannot be registered twice, and is found by its name."""
    registry: Registry[Thing] = Registry()
    thing = Thing("toy/3/1")
    registry.add(thing)
    with pytest.raises(BackendBug):
        registry.add(Thing("toy/3/1"))
    assert thing is registry.get(DeviceId("toy", 3, 1))
    assert None is registry.get(DeviceId("toy", 3, 2))
    assert len(registry) == 1


def test_s08_registry_forgets_one_or_a_whole_domain() -> None:
    """Deletion of one device, and of all devices of a domain, found by its number."""
    registry: Registry[Thing] = Registry()
    for name in ("toy/3/1", "toy/3/2", "vkbd/3/0", "toy/4/1"):
        registry.add(Thing(name))
    assert registry.remove(DeviceId("toy", 3, 1))
    assert None is registry.remove(DeviceId("toy", 3, 1))
    left = [str(thing.id) for thing in registry.of_domain(3)]
    assert left == ["toy/3/2", "vkbd/3/0"]
    for name in left:
        registry.remove(DeviceId.parse(name))
    assert [str(thing.id) for thing in registry] == ["toy/4/1"]
    assert registry.domains() == [4]


def test_changes_own_nodes_are_no_news() -> None:
    """A watch event for a node we wrote ourselves is dropped; others are kept once."""
    changes = Changes()
    changes.own_nodes.add("size")
    changes.note_backend("size")
    assert not changes
    changes.note_backend("params")
    changes.note_backend("params")
    assert Changed(True, "params") == changes.next_node()
    assert None is changes.next_node()


def test_changes_flood_of_names_is_bounded() -> None:
    """A guest that writes ever new names, or very long ones, takes bounded memory."""
    changes = Changes()
    changes.note_frontend("x" * 4000)
    for number in range(100_000):
        changes.note_frontend(f"n{number}")
    count = 0
    while changes.next_node() is not None:
        count += 1
    assert count == 1024


def test_events_ring_is_bounded_and_counts_on() -> None:
    """Old events fall out, numbers go on, and one device's can be asked for."""
    log = EventLog()
    for number in range(CAPACITY + 10):
        log.add("state", f"toy/{number % 2}/1", "x")
    assert len(log.last(10_000)) == CAPACITY
    assert log.last(1)[0].seq == CAPACITY + 10
    assert {"toy/1/1"} == {event.device for event in log.last(5, "toy/1/1")}
    assert log.last(0) == []


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("feature-persistent", True),
        ("size", True),
        ("max-ring-page-order", True),
        ("state", False),
        ("frontend", False),
        ("online", False),
        ("feature-", False),
        ("feature-x/../state", False),
        ("feature-x/y", False),
        ("hotplug-status", False),
        ("", False),
    ],
)
def test_handlers_worker_may_publish_only_its_nodes(name: str, allowed: bool) -> None:
    """What a worker may have written is a closed list of patterns."""
    assert allowed is resolve("toy").may_publish(name)


def test_handlers_declared_pattern_cannot_win_reserved_names() -> None:
    """Not even a handler that asks for everything may write `state`."""
    info = DeviceType(name="any", backend="m:C", publishes=("*",))
    assert info.may_publish("anything")
    assert not info.may_publish("state")


def test_handlers_unknown_name_is_a_config_error() -> None:
    """The error names the handlers there are."""
    with pytest.raises(ConfigError, match="toy"):
        resolve("no-such-handler")


def test_s24_handler_of_a_type_is_found_without_loading_it() -> None:
    """A handler is a name and a place, nothing is imported."""
    assert resolve("toy").backend == "tests.fakes.toy.backend:Toy"


def types(**handlers: str) -> dict[str, TypeConfig]:
    return {name: TypeConfig(handler=handler) for name, handler in handlers.items()}


def test_reload_difference_sorts_types() -> None:
    """On, off, changed and what only a new start can change are told apart."""
    old = Config(types=types(toy="toy", toymodel="toy", a="toy"))
    new = Config(
        types={
            "toy": TypeConfig(handler="toy", options={"poll_us": 0}),
            "a": TypeConfig(handler="other"),
            "b": TypeConfig(handler="toy"),
            "c": TypeConfig(handler="toy", enabled=False),
        },
        hypervisor="xen",
    )
    changes = difference(old, new)
    assert changes.switched_on == ("b",)
    assert changes.switched_off == ("toymodel",)
    assert changes.changed == ("a", "toy")
    assert changes.next_start == ("hypervisor", "types.a.handler")
    kept = effective(old, new)
    assert kept.types["a"].handler == "toy"
    assert kept.hypervisor == "auto"


def test_reload_same_configuration_changes_nothing() -> None:
    """Reading the same file again is nothing."""
    config = Config(types=types(toy="toy"))
    assert str(difference(config, config)) == "nothing changed"
