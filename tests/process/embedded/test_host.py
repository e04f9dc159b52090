# SPDX-License-Identifier: MIT
"""The hypervisor's process with its xenstored: start, deaths, restart, stop."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embedded import starting
from embedded.domain import Domain
from embedded.host import run
from embedded.hypercalls import Hypercalls
from embedded.launch import start_embedded
from embedded.toolstack import create_domain
from shared.errors import ConfigError, HostError
from shared.xenstore.blocking import BlockingXenstore
from tests.process.embedded.embedded_world import short_directory

WAIT = 20.0


@contextmanager
def host(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running host process; stopped in order at the end."""
    process = start_embedded(directory)
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(WAIT) == 0


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where a host may run; it makes the directory itself."""
    with short_directory() as parent:
        yield parent / "e"


def xenstore(directory: Path) -> BlockingXenstore:
    """Dom0's connection to the host's xenstored."""
    return BlockingXenstore(directory / "xenstored" / "socket")


def xenstored_pid(directory: Path) -> int:
    """Process of the host's xenstored."""
    return int((directory / "xenstored.pid").read_text())


def wait_until_removed(xs: BlockingXenstore, path: str) -> None:
    """Wait for a node to be gone, by watching it."""
    xs.watch(path, "removed")
    while xs.read_or_none(path) is not None:
        assert xs.wait_event(WAIT) is not None
    xs.unwatch(path, "removed")


def test_host_stopped_leaves_nothing_behind(directory: Path) -> None:
    """Dom0's home is there while it runs; after SIGTERM there is no file, no process, no domain."""
    with host(directory), xenstore(directory) as xs:
        assert xs.read("/local/domain/0/name") == b"Domain-0"
        assert xs.read("/local/domain/0/domid") == b"0"
        process = os.pidfd_open(xenstored_pid(directory))
        guest = Domain.create(directory, pages=64)

    assert select.select([process], [], [], 0)[0]
    assert not directory.exists()
    with pytest.raises(HostError, match="gone"):
        guest.alloc_port()
    guest.close()
    os.close(process)


def test_host_dead_domain_is_released_and_removed_from_xenstore(directory: Path) -> None:
    """A guest that dies without a word leaves no node, and watchers of deaths hear of it."""
    with host(directory), xenstore(directory) as xs:
        guest = Domain.create(directory, "victim", pages=64)
        create_domain(xs, guest.domid, "victim", 256)
        backend = f"/local/domain/0/backend/toy/{guest.domid}"
        xs.write(f"{backend}/51712/state", "4")
        xs.watch("@releaseDomain", "death")
        assert xs.wait_event(WAIT) is not None
        guest.close()

        event = xs.wait_event(WAIT)
        assert event is not None
        assert event.path == "@releaseDomain"
        for path in (f"{backend}/51712/state", f"/local/domain/{guest.domid}"):
            wait_until_removed(xs, path)
        assert not xs.is_domain_introduced(guest.domid)
        assert xs.directory("/vm") == []


def test_host_id_is_given_again_only_when_its_leftovers_are_gone(directory: Path) -> None:
    """A new domain with a dead one's id never loses its nodes to the clearing up."""
    with host(directory), xenstore(directory) as xs:
        for number in range(5):
            with Domain.create(directory, pages=64, domid=9):
                assert xs.read_or_none("/local/domain/9/domid") is None
                create_domain(xs, 9, f"life-{number}", 256)
                assert xs.read("/local/domain/9/name") == f"life-{number}".encode()


def test_host_xenstored_killed_is_started_anew_with_its_contents(directory: Path) -> None:
    """Domains live on, the store is as it was, and deaths meanwhile are made up for."""
    with host(directory):
        with xenstore(directory) as xs:
            guests = [Domain.create(directory, pages=64) for _ in range(2)]
            for guest in guests:
                create_domain(xs, guest.domid, "g", 256)
        os.kill(xenstored_pid(directory), signal.SIGKILL)
        guests[0].close()

        # Its id is free when it has been removed from the store, so the store is back then.
        with (
            Domain.create(directory, pages=64, domid=guests[0].domid),
            xenstore(directory) as xs,
            Hypercalls(directory) as hypercalls,
        ):
            assert xs.directory("/local/domain") == ["0", str(guests[1].domid)]
            assert guests[1].domid in {info.domid for info in hypercalls.list_domains()}
        guests[1].close()


def test_host_killed_is_followed_by_a_fresh_one(directory: Path) -> None:
    """What SIGKILL left behind, files and an orphaned xenstored, is cleared by the next start."""
    first = start_embedded(directory)
    with xenstore(directory) as xs:
        xs.write("/tool/left", "over")
    orphan = os.pidfd_open(xenstored_pid(directory))
    first.kill()
    first.wait()

    with host(directory), xenstore(directory) as xs:
        assert select.select([orphan], [], [], 0)[0]
        assert xs.read_or_none("/tool/left") is None
    os.close(orphan)


def test_host_second_one_on_the_same_directory_is_refused(directory: Path) -> None:
    """One directory, one hypervisor; the first is not disturbed."""
    with host(directory), Domain.create(directory, pages=64) as guest:
        with pytest.raises(HostError, match="another one is running there"):
            run(directory)
        assert guest.alloc_port() == 1


def test_host_with_a_path_too_long_for_sockets_says_so(directory: Path) -> None:
    """The operator is told, and nothing is left."""
    with pytest.raises(ConfigError, match="too long for a socket"):
        run(directory / ("x" * 90))
    assert not (directory / ("x" * 90)).exists()


def test_host_start_interrupted_takes_the_process_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while it starts: nobody else knows of the process, so it is ended."""
    ended: list[subprocess.Popen[bytes]] = []
    end = starting._end

    def noted(process: subprocess.Popen[bytes], timeout: float) -> int:
        ended.append(process)
        return end(process, timeout)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(starting, "_end", noted)
    monkeypatch.setattr(starting, "select", types.SimpleNamespace(select=interrupted))
    with pytest.raises(KeyboardInterrupt):
        start_embedded(tmp_path / "e")

    assert [process.returncode is not None for process in ended] == [True]
