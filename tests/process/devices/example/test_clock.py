# SPDX-License-Identifier: MIT
"""The example of docs/writing-devices.md: built, installed, enabled in YAML, jailed, killed.

A distribution of its own (tests/example); xenbackd finds it by its entry point and knows nothing
else of it.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import struct
import time
from collections.abc import Iterator, Mapping

import pytest

from bench.lab import DEFAULT_CONFIG, Lab
from embedded.domain import Domain
from embedded.guest.channel import GuestChannel
from embedded.guest.frontend import Frontend
from embedded.toolstack import NewDevice, attach_device, create_domain, destroy_domain
from shared.ring import FrontRing
from shared.xenstore.blocking import BlockingXenstore
from tests.fakes.installed_distribution import install_from_source, make_environment
from tests.root import ROOT

EXAMPLE = ROOT / "tests/example"
SLOT = struct.Struct("<QQ")
AHEAD = 1000.0
CONFIG = {
    **DEFAULT_CONFIG,
    "timeouts": {"beat": 0.1, "beat_dead": 10},
    "types": {"vclock": {"handler": "clock", "options": {"ahead": AHEAD}}},
}
DEADLINE = 15.0


class ClockFrontend(Frontend[str]):
    """A guest's end; `info` is the unit that the backend names."""

    kind = "vclock"
    ring: FrontRing
    channel: GuestChannel

    def ask(self, *identities: int) -> None:
        """Put questions into the ring."""
        for identity in identities:
            self.ring.put_request(SLOT.pack(identity, 0))
        if self.ring.push_requests():
            self.channel.event_channels.notify(self.channel.port)

    def answers(self, count: int) -> list[tuple[int, int]]:
        """The next answers: id, and time in nanoseconds."""
        taken: list[tuple[int, int]] = []
        end = time.monotonic() + DEADLINE
        while len(taken) < count:
            while not self.ring.final_check():
                left = end - time.monotonic()
                assert select.select([self.channel.event_channels], [], [], max(0, left))[0]
                while (port := self.channel.event_channels.pending()) is not None:
                    self.channel.event_channels.unmask(port)
            taken.append(SLOT.unpack(self.ring.take_response()))
        return taken

    def _share(self) -> Mapping[str, str]:
        [frame], [reference] = self._pages.ring(0, self.backend_domid)
        self.ring = FrontRing(self._pages.address(frame), SLOT.size)
        self.channel = self._open_channel()
        return {"ring-ref": str(reference), "event-channel": str(self.channel.port)}

    def _read_info(self) -> str | None:
        unit = self._xs.read_or_none(f"{self.backend_path}/unit")
        return None if unit is None else unit.decode()

    def _stop_io(self) -> None:
        pass

    def _drop_ring(self) -> None:
        pass


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A running xenbackd in an environment where the example was built and installed."""
    work = tmp_path_factory.mktemp("clock")
    source = work / "source"
    shutil.copytree(EXAMPLE, source)  # a build leaves things beside the sources
    environment = make_environment(work / "environment")
    install_from_source(source, environment, work)
    with Lab(CONFIG, python=str(environment.python)) as lab:
        yield lab


@pytest.fixture
def clock(lab: Lab) -> Iterator[ClockFrontend]:
    """A guest with a clock that is connected."""
    device = NewDevice(
        kind="vclock", backend_kind="vclock", devid=0, name="0", backend={}, frontend={}
    )
    directory = lab.embedded_dir
    with lab.xenstore() as dom0, Domain.create(directory, "guest", 256) as domain:
        create_domain(dom0, domain.domid, "guest", memory_kib=1024)
        attach_device(dom0, domain.domid, device)
        with BlockingXenstore(directory / "xenstored" / "domain" / str(domain.domid)) as xs:
            frontend = ClockFrontend(domain, xs, 0)
            assert frontend.connect(DEADLINE) == "ns"
            yield frontend
            frontend.release()
        destroy_domain(dom0, domain.domid, timeout=2.0)


def name_of(clock: ClockFrontend) -> str:
    """As `status` prints it."""
    return f"vclock/{clock.domain.domid}/0"


def test_example_is_complete_and_at_most_80_lines() -> None:
    """docs/writing-devices.md holds the very files that are installed here."""
    document = (ROOT / "docs/writing-devices.md").read_text()
    sources = sorted((EXAMPLE / "xenbackd_clock").glob("*.py"))
    texts = [path.read_text() for path in sources]

    assert sum(text.count("\n") for text in texts) <= 80
    assert [path.name for path in sources if path.stem != "__init__"] == ["about.py", "backend.py"]
    assert all(
        f"```python\n{path.read_text()}```\n" in document
        for path in sources
        if path.stem != "__init__"
    )
    licence, _, distribution = (EXAMPLE / "pyproject.toml").read_text().partition("\n")
    assert licence == "# SPDX-License-Identifier: MIT"
    assert f"```toml\n{distribution}```\n" in document


def test_example_answers_with_the_options_of_the_file(clock: ClockFrontend, lab: Lab) -> None:
    """The clock is as far ahead as the YAML says; its counters stand in `status` and `show`."""
    clock.ask(7, 8)
    now = time.time()

    answers = clock.answers(2)

    assert [identity for identity, _ in answers] == [7, 8]
    assert all(abs(told / 1e9 - now - AHEAD) < 60 for _, told in answers)
    name = name_of(clock)
    lab.wait_device(name, lambda one: one.counters.get("answers") == 2)
    assert "answers 2" in lab.must("show", name)
    [line] = [line for line in lab.must("status").splitlines() if line.startswith(name)]
    assert " 2/0" in line


def test_example_command_changes_the_clock_until_its_worker_is_another_one(
    clock: ClockFrontend, lab: Lab
) -> None:
    """`set` holds for the next answer; a successor starts with the options of the file."""
    name = name_of(clock)

    listed = lab.must("command", name)
    said = lab.must("command", name, "set", "ahead=100000")

    assert "set      [ahead=<a number>]  put the clock forward or back" in listed
    assert said == "100000 s ahead\n"
    clock.ask(1)
    now = time.time()
    assert abs(clock.answers(1)[0][1] / 1e9 - now - 100000) < 60
    lab.must("restart", name)
    lab.wait_device(name, lambda one: one.generation == 2 and one.phase == "serving")
    clock.ask(2)
    assert abs(clock.answers(1)[0][1] / 1e9 - now - AHEAD) < 60


def test_example_command_that_does_not_fit_is_refused_with_a_proposal(
    clock: ClockFrontend, lab: Lab
) -> None:
    """Of the name, of an argument and of its value; the worker is not asked."""
    name = name_of(clock)
    for words, text in (
        (["sett"], "sett: unknown command; did you mean set?"),
        (["set", "ahed=1"], "ahed: unknown argument; did you mean ahead?"),
        (["set", "ahead=noon"], "ahead: expected a number, got 'noon'"),
    ):
        refused = lab.run("command", name, *words)
        assert (refused.returncode, refused.stdout) == (78, "")
        assert text in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a jail with a user id of its own needs root")
def test_example_is_served_from_inside_the_jail(clock: ClockFrontend, lab: Lab) -> None:
    """All of the jail that a worker of ours has, with what the type may call and no more."""
    status = lab.device(name_of(clock))

    assert status is not None
    assert any("system calls of clock on embedded only" in step for step in status.jail)
    assert any("no files" in step or "root" in step for step in status.jail)
    clock.ask(1)
    assert clock.answers(1)[0][0] == 1


def test_example_worker_that_is_killed_is_succeeded_on_the_live_ring(
    clock: ClockFrontend, lab: Lab
) -> None:
    """Questions put while nobody served are answered by the successor, each once, in order."""
    name = name_of(clock)
    pid = lab.wait_connected(name).pid
    assert pid is not None
    clock.ask(1)
    assert clock.answers(1)[0][0] == 1
    os.kill(pid, signal.SIGSTOP)
    clock.ask(*range(2, 12))
    os.kill(pid, signal.SIGKILL)

    assert [identity for identity, _ in clock.answers(10)] == list(range(2, 12))
    successor = lab.wait_connected(name)
    assert successor.generation == 2
    clock.ask(99)
    assert clock.answers(1)[0][0] == 99


def test_example_hostile_producer_ends_in_its_own_closing(clock: ClockFrontend, lab: Lab) -> None:
    """An index that claims more than the ring holds is the guest's fault, and named as such."""
    clock.ring.words.store_release(0, 2**31)
    clock.channel.event_channels.notify(clock.channel.port)

    device = lab.wait_device(name_of(clock), lambda one: one.hold == "guest")

    assert "ahead" in device.error


def test_example_options_are_checked_against_its_model(lab: Lab) -> None:
    """A misspelled key is found without starting anything, with a proposal."""
    wrong = lab.directory / "wrong.yaml"
    types = {"vclock": {"handler": "clock", "options": {"ahed": 1.0}}}
    wrong.write_text(json.dumps({"types": types}))

    said = lab.run("check-config", str(wrong))

    assert said.returncode == 78
    assert (
        "types.vclock.options.ahed: unknown key; did you mean ahead?" in said.stderr + said.stdout
    )
