# SPDX-License-Identifier: MIT
"""The fork server loads device types, which may be foreign code; workers start all the same."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import messages as m
from shared.errors import HostError
from tests.fakes.installed_types import Point, install
from tests.process.supervisor.test_spawner import Owner, host_in


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: sockets lie in it."""
    path = Path(tempfile.mkdtemp(prefix="xbd"))
    yield path
    shutil.rmtree(path)


def test_fork_server_type_that_crashes_at_its_import_keeps_no_worker_from_starting(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the fork server along once; the next one loads no types, and workers start."""
    install(monkeypatch, Point("crashing", "tests.fakes.type_that_crashes:TYPE"))

    async def test() -> None:
        async with host_in(directory, device_types=["crashing"]) as host:
            owner = Owner(host.bus)
            host.start(owner)
            said = await owner.next()
            for _ in range(5):  # as the device does after a failure of the host
                if not isinstance(said, HostError):
                    break
                host.start(owner)
                said = await owner.next()
            assert said == "forked"
            assert isinstance(await owner.next(), m.Hello)
            host.spawner.kill(owner.device)
            assert await owner.next() == ("exited", -9)

    asyncio.run(test())
