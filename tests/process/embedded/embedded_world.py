# SPDX-License-Identifier: MIT
"""A hypervisor in a process of its own, and processes that can be killed, for process tests."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import resource
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from embedded.hypercalls import Hypercalls
from embedded.hypervisor import HypervisorServer
from tests.fakes.waiting import wait_until


class Child:
    """A forked process that runs `body`, tells what it returns, and stays until it is killed."""

    def __init__(self, body: Callable[[], str]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _run(body, write)
        os.close(write)

    def result(self) -> str:
        """What `body` returned; waits for it. Empty if it failed (its traceback is on stderr)."""
        return os.read(self._read, 4096).decode()

    def kill(self) -> None:
        """SIGKILL, and wait until it is dead. Idempotent."""
        if self._read >= 0:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._read)
            self._read = -1

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()


def _run(body: Callable[[], str], write: int) -> NoReturn:
    # Some die on purpose: no core file, no traceback of pytest's inside.
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        os.write(write, body().encode())
        while True:
            signal.pause()
    except Exception:  # noqa: BLE001 — whatever it was, this process must not go on as pytest
        traceback.print_exc()
    finally:
        os._exit(1)


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose path leaves room for socket names."""
    directory = Path(tempfile.mkdtemp(prefix="xbd"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def running_hypervisor() -> Iterator[Path]:
    """The hypervisor without xenstored, in a child; gives its directory."""
    with short_directory() as directory:
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            _serve(directory, tell)
        os.close(tell)
        try:
            assert os.read(ready, 1) == b"+"
            yield directory
        finally:
            os.close(ready)
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


def _serve(directory: Path, tell: int) -> NoReturn:
    # What earlier tests left to the collector (the memory of dead domains) came along, and is among
    # the descriptors that the server counts: collected here, they would seem to be given back.
    gc.freeze()

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        server = HypervisorServer(directory)
        server.start()
        os.write(tell, b"+")
        await stop.wait()
        server.close()

    try:
        asyncio.run(main())
    except Exception:  # noqa: BLE001 — as above
        traceback.print_exc()
    finally:
        os._exit(0)


@contextmanager
def nothing_leaked(directory: Path) -> Iterator[None]:
    """What the hypervisor holds must be the same afterwards; it hears a while later of an end."""
    with Hypercalls(directory) as hypercalls:
        before = hypercalls.stats()
        yield
        wait_until(
            lambda: hypercalls.stats() == before,
            lambda: f"{hypercalls.stats()} to be {before} again",
        )
