# SPDX-License-Identifier: MIT
"""The supervisor replaced in place, and workers replaced one by one, while guests do I/O."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.held import below, children
from shared.control import Done, Events, EventsReply, RestartRolling, StatusReply
from shared.errors import ConfigError, HostError
from supervisor import upgrade
from supervisor.cli.client import RefusedError, UnavailableError
from tests.process.lab_world import CONFIG, DEADLINE, World, running_world
from worker.devices.block.guest.load import LoadConfig

LOAD = LoadConfig(rw="randrw", depth=8, total=2048 * 4096, verify=True, size=1 << 20)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A hypervisor beside the supervisor, and a neighbour."""
    with running_world({**CONFIG, "restart": {"initial": 5}}, own_hypervisor=True) as it:
        yield it


def answers(world: World, upgrades: int) -> bool:
    """Whether an image of that number serves; the one before it may go away at any moment."""
    try:
        now = world.lab.status()
    except UnavailableError:
        return False
    return now.upgrades >= upgrades and now.xenstore == "connected"


def upgraded(world: World, before: StatusReply) -> StatusReply:
    """Wait for the next image; the neighbour's worker is adopted and its I/O goes on."""
    world.lab.wait(lambda: answers(world, before.upgrades + 1), 60, "the new image")
    now = world.lab.wait_connected(world.neighbour.device)
    assert now.pid == world.neighbour.pid
    world.neighbour.works_on()
    return world.lab.status()


def fork_server(world: World) -> set[int]:
    """Fork servers that are children of the supervisor."""
    assert world.lab.supervisor is not None
    return {
        pid
        for pid in below({world.lab.supervisor.pid})
        if b"fork server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


def test_upgrade_under_io_keeps_process_and_workers(world: World) -> None:
    """Same process, another image, another fork server; a new device gets a worker of that one."""
    before, old_server = world.lab.status(), fork_server(world)
    with world.guest() as guest:
        guest.disk.connect(DEADLINE)
        with subprocess.Popen([*world.lab.command, "upgrade"]) as command:
            while command.poll() is None:
                assert guest.disk.run_load(LOAD).ok
            assert command.returncode == 0
        assert upgraded(world, before).pid == before.pid
        with world.guest() as newcomer:
            newcomer.disk.connect(DEADLINE)
            newcomer.works()
        assert fork_server(world) - old_server


def test_upgrade_by_signal(world: World) -> None:
    """SIGUSR2 does the same; the lock of the runtime directory is held all the time."""
    before = world.lab.status()
    assert world.lab.supervisor is not None
    world.lab.supervisor.send_signal(signal.SIGUSR2)
    assert upgraded(world, before).pid == before.pid
    refused = world.lab.launch()
    assert refused.wait(DEADLINE) == 75


def test_upgrade_with_a_broken_configuration_is_refused(world: World) -> None:
    """The new code does not take the file: said with the line, nothing has changed."""
    before, good = world.lab.status(), world.lab.config_path.read_text()
    world.lab.config_path.write_text(good.replace("handler", "handel"))
    try:
        done = world.lab.run("upgrade")
    finally:
        world.lab.config_path.write_text(good)
    assert done.returncode == ConfigError.exit_code
    assert "handel: unknown key" in done.stderr
    assert world.lab.status().upgrades == before.upgrades
    world.neighbour.works_on()


def test_upgrade_to_broken_code_is_refused() -> None:
    """Code that cannot even be loaded is found by the check, with what it said."""
    program = "import sys; sys.exit('no such library')"
    with pytest.raises(HostError, match="no such library"):
        asyncio.run(upgrade.check([sys.executable, "-c", program]))


def test_upgrade_to_code_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """An installation that was removed."""
    with pytest.raises(HostError, match="No such file"):
        asyncio.run(upgrade.check([str(tmp_path / "python")]))


def test_upgrade_check_that_is_given_up_leaves_no_process() -> None:
    """A supervisor that is told to end does not wait for the check of the new code."""

    async def given_up() -> None:
        command = [sys.executable, "-c", "import signal; signal.pause()"]
        task = asyncio.create_task(upgrade.check(command))
        await asyncio.sleep(0)
        begun = children(os.getpid()) - before
        assert begun
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert not begun & children(os.getpid())

    before = children(os.getpid())
    asyncio.run(given_up())


def test_upgrade_hears_signals_until_they_are_kept_for_the_next_image() -> None:
    """What came before is handled by this image, what comes later by whoever unblocks it."""

    async def held() -> None:
        heard, us = asyncio.Event(), threading.get_ident()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, heard.set)
        try:
            signal.pthread_kill(us, signal.SIGHUP)  # another thread of pytest's would take it
            async with upgrade.signals_held():
                assert heard.is_set()
                heard.clear()
                signal.pthread_kill(us, signal.SIGHUP)
                assert signal.SIGHUP in signal.sigpending()
            await heard.wait()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    asyncio.run(held())


def test_rolling_restart_under_io_replaces_all_that_were_named(world: World) -> None:
    """Each device has a successor, no guest an error, and a device not named its old worker."""
    with ExitStack() as stack:
        guests = [stack.enter_context(world.guest(kind="qdisk")) for _ in range(3)]
        for guest in guests:
            guest.disk.connect(DEADLINE)
            guest.works()
            world.lab.wait_connected(guest.device)
        request = RestartRolling(["qdisk"], parallel=2)
        assert "3 of 3" in world.ask(request, Done).text
        for guest in guests:
            assert guest.disk.run_load(LOAD).ok
            now = world.lab.wait_connected(guest.device)
            assert (now.generation, now.failures, now.error) == (2, 0, "")
        world.neighbour.works_on()


def test_rolling_restart_stops_at_the_first_failure(world: World) -> None:
    """A successor that cannot start: said which and why, and the next device is left alone."""
    with world.guest(kind="qdisk") as first, world.guest(kind="qdisk") as second:
        for guest in (first, second):
            guest.disk.connect(DEADLINE)
            guest.works()
            world.lab.wait_connected(guest.device)
        Path(first.image).rename(first.image + ".away")
        with pytest.raises(RefusedError, match=f"{first.device}.*0 of 2"):
            world.ask(RestartRolling([first.device, second.device]), Done)
        untouched = world.lab.wait_connected(second.device)
        assert untouched.generation == 1
        texts = [one.text for one in world.ask(Events(count=50), EventsReply).events]
        assert any(text.startswith("rolling restart:") for text in texts)
        second.works()
