# SPDX-License-Identifier: MIT
"""The files and locks by which a supervisor finds its predecessor's workers."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from shared.device_id import DeviceId
from shared.device_types import DeviceType, resolve
from supervisor.policy.restart import Memory
from supervisor.workers.records import (
    DIRECTORY,
    Orphan,
    Records,
    WorkerRecord,
    ring_identity,
    start_time,
)

DEVICE = DeviceId("toy", 3, 51712)


def record(pid: int | None, started: int, *, quarantined: bool = False) -> WorkerRecord:
    """Of a process."""
    return WorkerRecord(
        device=DEVICE,
        generation=2,
        handler="toy",
        options="",
        frontend_path="/local/domain/3/device/toy/51712",
        pid=pid,
        start_time=started,
        quarantined=quarantined,
        memory=Memory(counted=(1.5,), streak=1),
    )


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """An empty directory."""
    made = Records(tmp_path)
    assert made.load() == {}
    return made


def names(tmp_path: Path) -> set[str]:
    """What is in the directory."""
    return {path.name for path in (tmp_path / DIRECTORY).iterdir()}


def test_records_living_process_is_found_with_what_was_written(
    records: Records, tmp_path: Path
) -> None:
    """All fields come back, with a descriptor of the process; only our user may read them."""
    written = record(os.getpid(), start_time(os.getpid()))
    records.write(written)
    assert (tmp_path / DIRECTORY / "toy-3-51712").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / DIRECTORY).stat().st_mode & 0o777 == 0o700

    found = records.load()[DEVICE]

    assert found.record == written
    assert found.pidfd is not None
    os.close(found.pidfd)


def test_records_number_given_to_another_process_is_a_dead_worker(records: Records) -> None:
    """Same pid, another start: what was remembered is kept, and there is no process."""
    records.write(record(os.getpid(), start_time(os.getpid()) - 1))

    found = records.load()[DEVICE]

    assert found.pidfd is None
    assert found.record.memory == Memory(counted=(1.5,), streak=1)


def test_records_process_may_call_itself_whatever_it_likes() -> None:
    """A worker that was taken over cannot keep the next supervisor from starting by its name."""
    comm = Path("/proc/self/comm")
    before, expected = comm.read_bytes(), start_time(os.getpid())
    try:
        comm.write_bytes(b"\xff) R 1 2 3")
        assert start_time(os.getpid()) == expected
    finally:
        comm.write_bytes(before.strip())


def test_records_before_the_fork_there_is_nothing_to_find(records: Records, tmp_path: Path) -> None:
    """A worker that was asked for and has no process yet leaves no file behind."""
    records.write(msgspec.structs.replace(record(None, 0), memory=Memory()))

    assert records.load() == {}
    assert names(tmp_path) == set()


FIELDS = b'"handler":"toy","options":"","frontend_path":"/local"'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b'{"device": "toy"}',
        b"[]",
        b'{"x":' + b"[" * 4000,
        b'{"device":["toy",3,51712],"generation":1,"pid":1099511627776,%b}' % FIELDS,
        b'{"device":["toy",3,51712],"generation":-1,"pid":1,%b}' % FIELDS,
        b'{"device":["toy",4,51712],"generation":1,"quarantined":true,%b}' % FIELDS,
        b'{"device":["../toy",3,51712],"generation":1,"quarantined":true,%b}' % FIELDS,
    ],
)
def test_records_file_that_cannot_be_read_counts_as_none(
    records: Records, tmp_path: Path, content: bytes
) -> None:
    """Cut off, of another program, out of bounds, of another device than its name: swept, and the
    device's lock still stands for its worker."""
    lock = records.lock(DEVICE)
    assert lock is not None
    (tmp_path / DIRECTORY / "toy-3-51712").write_bytes(content)

    assert records.load() == {}
    assert names(tmp_path) == {"toy-3-51712.lock"}
    os.close(lock)


def test_records_half_written_file_and_free_lock_are_swept(
    records: Records, tmp_path: Path
) -> None:
    """What a supervisor left that died between two steps."""
    (tmp_path / DIRECTORY / "toy-3-51712.new").write_bytes(b"{")
    lock = records.lock(DEVICE)
    assert lock is not None
    os.close(lock)

    assert records.load() == {}
    assert names(tmp_path) == set()


def test_records_lock_is_one_holders(records: Records) -> None:
    """Taken once, for as long as a descriptor of it is open anywhere."""
    first = records.lock(DEVICE)
    assert first is not None
    inherited = os.dup(first)
    os.close(first)
    assert records.lock(DEVICE) is None
    os.close(inherited)
    again = records.lock(DEVICE)
    assert again is not None
    os.close(again)


def test_records_lock_that_is_held_is_not_taken_away(records: Records, tmp_path: Path) -> None:
    """Of a process that nobody was told of: the next worker has to wait for its end."""
    held = records.lock(DEVICE)
    assert held is not None
    records.remove(DEVICE)

    assert records.lock(DEVICE) is None

    os.close(held)
    records.remove(DEVICE)
    assert names(tmp_path) == set()


def test_records_of_a_quarantine_outlive_the_worker(records: Records) -> None:
    """Nobody runs, and nobody may."""
    records.write(record(None, 0, quarantined=True))

    assert records.load()[DEVICE].record.quarantined


def test_records_of_failures_outlive_the_worker(records: Records) -> None:
    """Nobody runs, and the next supervisor goes on counting."""
    written = record(None, 0)
    records.write(written)

    assert records.load()[DEVICE] == Orphan(written, None)


@pytest.mark.parametrize("name", ["ring-ref", "ring-ref3", "event-channel", "queue-1/ring-ref"])
def test_ring_identity_changes_with_what_says_where_the_ring_is(name: str) -> None:
    """References, channel and protocol count; `state` and features do not."""
    nodes = {"ring-ref": b"8", "event-channel": b"5", "state": b"4", "feature-x": b"1"}
    same = {**nodes, "state": b"3", "feature-x": b"0"}

    assert ring_identity(resolve("toy"), nodes) == ring_identity(resolve("toy"), same)
    assert ring_identity(resolve("toy"), nodes) != ring_identity(
        resolve("toy"), {**nodes, name: b"77"}
    )


def test_ring_identity_of_a_type_without_ring_nodes_never_changes() -> None:
    """Nothing there says where a ring is; above all `state` does not, which changes on its own."""
    type_ = DeviceType(name="plain", backend="", ring_nodes=())
    assert ring_identity(type_, {"state": b"3"}) == ring_identity(type_, {"state": b"4"})
