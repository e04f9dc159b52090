# SPDX-License-Identifier: MIT
"""`status`, `show` and `events`: what they make of the supervisor's replies."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shared.control import DeviceStatus, Event, ShowReply, StatusReply
from shared.device_types import Counter
from supervisor.cli import events, figures, output, show, status
from tests.fakes.toy.about import TYPE

COUNTERS = TYPE.counters


def device(name: str = "toy/3/51712", **changes: Any) -> DeviceStatus:
    """A toy that is being served."""
    healthy = DeviceStatus(
        device=name,
        backend="Connected",
        frontend="Connected",
        online=True,
        phase="serving",
        hold="",
        pid=4711,
        generation=1,
        restarts=0,
        failures=0,
        error="",
        since=187.0,
        counters={
            "reads": 12345,
            "writes": 10,
            "units_in": 98760,
            "units_out": 80,
            "bad_range": 1,
        },
    )
    return msgspec.structs.replace(healthy, **changes)


def reply(*devices: DeviceStatus, xenstore: str = "connected") -> StatusReply:
    """The status of a supervisor."""
    return StatusReply(
        version="0.1.0",
        pid=100,
        uptime=7500.0,
        xenstore=xenstore,
        hypervisor="embedded",
        types={"toy": "toy"},
        counters={"toy": COUNTERS},
        devices=list(devices),
    )


def text(blocks: list[output.Block]) -> str:
    """Blocks as they are piped."""
    return "".join(output.plain(block) for block in blocks)


def test_status_healthy_device_is_one_line() -> None:
    """Supervisor, counts, and a line with everything of the device."""
    expected = """\
xenbackd 0.1.0, process 100, up 2 h 05 min; hypervisor embedded; xenstore connected
types toy (toy); 1 device: 1 Connected

DEVICE       STATE      FRONTEND   WORKER        RESTARTS       SINCE       I/O  ERROR
toy/3/51712  Connected  Connected  4711 serving         0  3 min 07 s  12.3k/10
"""

    assert expected == text(status.blocks(reply(device())))


def test_status_without_devices_has_no_table() -> None:
    """Nothing to serve is said in one line."""
    assert text(status.blocks(reply())).endswith("types toy (toy); 0 devices\n")


def test_status_problems_come_first_then_numbers_in_order() -> None:
    """Quarantine before back-off before the healthy; those by number, not by text."""
    shown = text(
        status.blocks(
            reply(
                device("toy/10/1"),
                device("toy/9/1"),
                device("toy/8/1", hold="backoff", pid=None, phase="absent", failures=2),
                device("toy/7/1", hold="quarantined", pid=None, error="disk: gone"),
            )
        )
    )
    names = [line.split()[0] for line in shown.splitlines()[4:]]

    assert names == ["toy/7/1", "toy/8/1", "toy/9/1", "toy/10/1"]
    assert "Connected quarantined" in shown
    assert "disk: gone" in shown


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        (0, {}),
        (0, {"hold": "disabled"}),
        (1, {"hold": "backoff"}),
        (1, {"error": "x"}),
        (2, {"hold": "config"}),
        (2, {"hold": "guest"}),
    ],
)
def test_status_severity_follows_who_must_act(expected: int, changes: dict[str, str]) -> None:
    """Two: somebody must act; one: it mends itself; nought: fine."""
    assert expected == status.severity(device(**changes))


def test_status_error_of_a_guest_is_escaped() -> None:
    """Text that came from a guest cannot act on the terminal or add lines."""
    shown = text(status.blocks(reply(device(error="a\x1b[2J\ntoy/0/0 fine"))))

    assert r"a\x1b[2J\x0atoy/0/0 fine" in shown


def test_watch_second_look_shows_rates() -> None:
    """Differences of the counters by the time between."""
    watch = status.Watch()
    before = device(counters={"reads": 100, "writes": 0, "units_in": 800, "units_out": 0})
    after = device(counters={"reads": 2100, "writes": 50, "units_in": 16800, "units_out": 400})
    first = text(watch.look(reply(before), 10.0))
    second = text(watch.look(reply(after), 12.0))

    assert "/s" not in first
    assert "1.0k/25 4.0 MiB/s" in second


def test_watch_new_worker_counts_from_nought() -> None:
    """Counters that went back belong to a new worker; no rate is negative."""
    counters = {"reads": 10, "writes": 0, "units_in": 0, "units_out": 0}

    assert figures.rate_text(COUNTERS, {"reads": 500, "writes": 0}, counters, 1.0) == "10/0 0 B/s"


def test_watch_type_without_disk_counters_shows_no_rate() -> None:
    """Other device types have other counters."""
    others = (Counter("bytes", "bytes"),)
    assert figures.rate_text(others, {}, {"bytes": 3}, 1.0) == ""
    assert figures.totals(others, {"bytes": 3}) == ""


def shown_device(**changes: Any) -> str:
    """`show` of a device."""
    return text(
        show.blocks(
            ShowReply(
                device=device(**changes),
                counters=COUNTERS,
                backend_path="/local/domain/0/backend/toy/3/51712",
                frontend_path="/local/domain/3/device/toy/51712",
                backend_nodes={"state": "4", "hotplug-status": ""},
                frontend_nodes={"ring-ref": "8\x1b[31m\nstate  6"},
                events=[Event(seq=1, time="2024-01-01", kind="state", device="d", text="up")],
            )
        )
    )


def test_show_guest_nodes_are_escaped() -> None:
    """The guest's bytes stand escaped in their one line."""
    assert "  ring-ref  8\\x1b[31m\\x0astate  6\n" in shown_device()


def test_show_has_facts_nodes_counters_and_events() -> None:
    """Everything that is known of the device."""
    shown = shown_device()

    for expected in (
        "backend   Connected for 3 min 07 s  /local/domain/0/backend/toy/3/51712\n",
        "worker    process 4711, serving, generation 1\n",
        "  hotplug-status  (empty)\n",
        "reads 12345, units_in 98760 (48.2 MiB)\n",
        "  refused requests  bad_range 1\n",
        "  2024-01-01  state  up\n",
    ):
        assert expected in shown


def test_status_says_how_a_worker_does_and_what_the_last_one_died_of() -> None:
    """Late, slow or stalled beside the phase; the kind of the last failure beside the count."""
    one = device(health="stalled", restarts=3, failures=2, last_failure="oom")
    shown = text(status.blocks(reply(one)))

    assert "4711 serving stalled" in shown
    assert "3 (2 oom)" in shown
    assert status.severity(one) == 1


def test_show_says_how_a_worker_does() -> None:
    """The word, what it means, and where to look."""
    shown = shown_device(health="stalled", failures=2, last_failure="oom")

    assert "health" in shown
    assert "stalled: requests are pending and none was finished for long" in shown
    assert "recent failures 2, the last one: oom" in shown


def test_show_held_device_says_what_to_do() -> None:
    """A quarantined device names the command that tries it again."""
    shown = shown_device(hold="quarantined", error="worker: killed", online=False)

    assert "xenbackd clear DEVICE" in shown
    assert "last error  worker: killed" in shown
    assert "no (is being unplugged)" in shown


class FakeClient:
    """Answers `Events` from a list and remembers how many were asked for."""

    def __init__(self, known: list[Event]) -> None:
        self.known = known
        self.asked: list[int] = []

    def ask(self, request: Any, expected: Any) -> Any:
        self.asked.append(request.count)
        return expected(events=self.known[-request.count :])


def event(seq: int) -> Event:
    """An event."""
    return Event(seq=seq, time="t", kind="state", device="", text=str(seq))


@pytest.mark.parametrize(
    ("expected", "seen", "seq"),
    [([5], None, 5), ([5], 4, 5), ([], 5, 5), ([], 9, 5), ([3, 4, 5], 2, 5)],
)
def test_events_follow_fills_gaps_and_drops_doubles(
    expected: list[int], seen: int | None, seq: int
) -> None:
    """What the stream lost is asked for; what was printed is not printed again."""
    client: Any = FakeClient([event(number) for number in range(1, 6)])

    assert expected == [one.seq for one in events.unseen(client, event(seq), seen)]


def test_events_line_stands_in_columns() -> None:
    """Time, kind, device, text; a dash for the supervisor itself."""
    assert events.line(event(1)) == "t  state         -                 1"
