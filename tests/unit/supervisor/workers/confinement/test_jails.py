# SPDX-License-Identifier: MIT
"""What is laid ready for a worker's jail: whose user id it gets, and who may do without a jail."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.model import Config, JailConfig, TypeConfig
from shared.device_id import DeviceId
from shared.errors import BackendBug, ConfigError, HostError
from shared.worker_spec import JailSpec
from supervisor.operator.reload import difference
from supervisor.workers.confinement.door import make_door, socket_path
from supervisor.workers.confinement.jails import Jails, check_unjailed, warn_of_weak
from supervisor.workers.confinement.user_ids import UserIds
from supervisor.workers.link import JAIL_RETRY
from supervisor.workers.records import Orphan, WorkerRecord, kept_jails
from tests.fakes.clock_loop import in_clock_loop, pass_time, settle
from tests.fakes.supervisor_world import TOY, World

A, B, C = (DeviceId("toy", 1, n) for n in range(3))
RANGE = JailConfig(uid_base=100_000, uids=3)
LOG = JailConfig(uid_base=100_000, uids=2, mode="log")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc whose only process runs as 1000, really, and as 100001, effectively."""
    (tmp_path / "self").mkdir()
    runs(tmp_path, 7, 1000, 100_001)
    (tmp_path / "8").mkdir()  # has ended meanwhile
    return tmp_path


def runs(proc: Path, pid: int, real: int, effective: int) -> None:
    """There is a process of these ids."""
    (proc / str(pid)).mkdir(exist_ok=True)
    text = f"Name:\tUid:\nUid:\t{real}\t{effective}\t{real}\t{real}\nGid:\t0\t0\t0\t0\n"
    (proc / str(pid) / "status").write_text(text)


def ids(proc: Path) -> UserIds:
    """Opened without workers of an earlier supervisor."""
    made = UserIds(proc)
    made.open({})
    return made


def test_user_ids_given_are_the_lowest_that_nobody_has(proc: Path) -> None:
    """The id of a process of somebody else's is passed over."""
    some = ids(proc)
    assert [some.take(A, RANGE), some.take(B, RANGE)] == [100_000, 100_002]
    assert (some.of(A), some.of(B), some.of(C)) == (100_000, 100_002, 0)


def test_user_ids_exhausted_is_the_hosts_error_until_one_is_released(proc: Path) -> None:
    """The third worker waits; a dead one's id is given again."""
    some = ids(proc)
    some.take(A, RANGE)
    some.take(B, RANGE)
    with pytest.raises(HostError, match=r"toy/1/2: all of 100000\.\.100002 are taken"):
        some.take(C, RANGE)
    some.release(A)
    some.release(A)
    assert some.take(C, RANGE) == 100_000


def test_user_ids_exhausted_looks_again_who_runs(proc: Path) -> None:
    """The stranger has ended since the start: its id can be given."""
    some = ids(proc)
    some.take(A, RANGE)
    some.take(B, RANGE)
    runs(proc, 7, 1000, 1000)
    assert some.take(C, RANGE) == 100_001


def test_user_ids_second_worker_of_a_device_is_refused(proc: Path) -> None:
    """The first one is not known dead."""
    some = ids(proc)
    some.take(A, RANGE)
    with pytest.raises(BackendBug, match="not known dead"):
        some.take(A, RANGE)


def test_user_ids_of_an_earlier_supervisors_workers_stay_theirs(proc: Path) -> None:
    """They are taken before the first is given, also where the range is another one now."""
    some = UserIds(proc)
    some.open({A: 100_000, B: 5_000})
    assert some.take(C, RANGE) == 100_002
    assert (some.of(A), some.of(B)) == (100_000, 5_000)


def test_user_ids_of_a_worker_that_could_fork_are_looked_after(proc: Path) -> None:
    """With mode log its child may live on under the id; it is not given before that is over."""
    some = ids(proc)
    assert some.take(A, LOG) == 100_000
    runs(proc, 9, 100_000, 100_000)
    some.release(A)
    with pytest.raises(HostError):
        some.take(A, LOG)
    runs(proc, 9, 0, 0)
    assert some.take(A, LOG) == 100_000


def test_jails_worker_that_cannot_have_an_id_starts_when_another_has_died(proc: Path) -> None:
    """Until then its device says what it lacks where an operator looks, and is not quarantined."""
    only_one = JailConfig(uid_base=100_000, uids=1)
    config = Config(types={"toy": TypeConfig(handler="toy", jail=only_one)})
    other = DeviceId("toy", 4, 51712)

    @in_clock_loop
    async def test() -> None:
        world = World(config, user_ids=ids(proc))
        await world.start()
        await world.serving()
        spec = world.workers.specs[TOY].jail
        assert spec is not None
        assert (spec.mode, spec.uid, spec.keep) == ("enforce", 100_000, "/nowhere")
        assert world.records.files[TOY].uid == 100_000
        world.plug(other)
        await settle()
        assert "are taken" in world.status(other).error
        assert [device for device, _ in world.workers.starts] == [TOY]
        await pass_time(600)
        assert world.status(other).hold == "backoff"
        world.store.domain_dies(TOY.domid)
        await settle()
        world.workers.exits(TOY, 0)
        await pass_time(JAIL_RETRY)
        assert other in world.workers.specs
        assert world.status(other).failures == 0

    test()


def test_jails_open_takes_what_living_workers_have(proc: Path, tmp_path: Path) -> None:
    """A record without a process, or of a worker without an id, holds nothing."""
    jails = Jails(tmp_path, UserIds(proc), None)
    jails.open(kept_jails({A: left(A, 100_000, 5), B: left(B, 100_002, None), C: left(C, 0, 5)}))
    assert [jails.uid_of(device) for device in (A, B, C)] == [100_000, 0, 0]


def left(device: DeviceId, uid: int, pidfd: int | None) -> Orphan:
    """What an earlier supervisor wrote of a worker."""
    record = WorkerRecord(
        device=device, generation=1, handler="toy", options="", frontend_path="/", uid=uid
    )
    return Orphan(record, pidfd)


def test_jails_without_root_worker_stays_who_it_is(tmp_path: Path) -> None:
    """Everything else of the jail is as configured; mode off is no jail."""
    jails = Jails(tmp_path, None, None)
    jails.open({})
    spec = jails.prepare(A, 1, JailConfig(mode="log", open_files=99, pids=9, memory=33))
    assert spec == JailSpec(mode="log", uid=0, keep=str(tmp_path), open_files=99, pids=9, memory=33)
    assert jails.prepare(A, 2, JailConfig(mode="off")) is None


def config_of(mode: str, **fields: Any) -> Config:
    """One type with this jail, and one that is switched off without any."""
    jail = msgspec.convert({"mode": mode, **fields}, JailConfig)
    off = TypeConfig(handler="toy", enabled=False, jail=JailConfig(mode="off"))
    return Config(jail=jail, types={"toy": TypeConfig(handler="toy"), "toymodel": off})


def test_check_unjailed_refuses_root_without_a_jail_unless_told() -> None:
    """Only for types that are served, and not for other users."""
    with pytest.raises(ConfigError, match=r"^jail: type toy: mode is off"):
        check_unjailed(config_of("off"), 0)
    for harmless in (config_of("off", unjailed_root=True), config_of("log"), config_of("enforce")):
        check_unjailed(harmless, 0)
    check_unjailed(config_of("off"), 1000)


def test_warn_of_weak_names_the_types_that_are_served_so(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said of a real jail."""
    with caplog.at_level(logging.WARNING, "xenbackd.jails"):
        warn_of_weak(config_of("enforce"))
        assert not caplog.messages
        warn_of_weak(config_of("log"))
        warn_of_weak(config_of("off"))
    assert [text.split(":")[:3] for text in caplog.messages] == [
        ["jail", " type toy", f" mode is {mode}"] for mode in ("log", "off")
    ]


def test_make_door_lets_jailed_workers_in_and_others_not(tmp_path: Path) -> None:
    """The directory above is for its owner alone, whatever the umask; a second time is fine."""
    before = os.umask(0o077)
    try:
        assert make_door(tmp_path) == make_door(tmp_path) == socket_path(tmp_path)
    finally:
        os.umask(before)
    door = socket_path(tmp_path).parent
    assert (door.stat().st_mode & 0o777, door.parent.stat().st_mode & 0o777) == (0o711, 0o700)


def test_make_door_something_in_its_place_is_for_the_operator(tmp_path: Path) -> None:
    """A file where the directory belongs."""
    (tmp_path / "bus").touch()
    with pytest.raises(ConfigError, match="runtime_dir"):
        make_door(tmp_path)


def test_reload_of_the_general_jail_changes_the_types_without_their_own() -> None:
    """What is written for a type counts for it; workers that live keep theirs."""
    types = {"a": TypeConfig(handler="toy"), "b": TypeConfig(handler="toy", jail=RANGE)}
    old, new = Config(types=types), Config(types=types, jail=JailConfig(memory=99))
    assert difference(old, new).changed == ("a",)
