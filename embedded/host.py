# SPDX-License-Identifier: MIT
"""`xenbackd embedded`: the hypervisor and, as a process of its own, its xenstored.

Below the directory:

    lock                    held while one runs
    hypervisor/domain/N     sockets of the domains, 0 is dom0's
    xenstored/              xenstored's socket, journal and lock
    xenstored.pid           the process to end if an earlier host was killed

xenstored may be killed at any time: it is started again and goes on from its journal. When this
process ends on SIGTERM or SIGINT, all domains die and nothing of the above is left. A directory
that a killed host left behind is taken over: its domains died with it, so its store is dropped.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from embedded.hypervisor import HypervisorServer
from embedded.reaper import Reaper
from embedded.xenstored.launch import start_xenstored
from shared.errors import BlamedError, HostError
from shared.xenstore.blocking import BlockingXenstore

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

XENSTORED_STOP_TIMEOUT: Final = 5.0
"""Seconds xenstored has to end; then it is killed."""

RESTART_PAUSE_MAX: Final = 5.0
"""Seconds between attempts to start xenstored, at most."""

_log = logging.getLogger(__name__)


class _Xenstored:
    """Our xenstored: started, kept running, stopped."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "xenstored"
        self._pid_file = directory / "xenstored.pid"
        self.socket = self._directory / "socket"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and write dom0's home; raises HostError."""
        process = start_xenstored(self._directory)
        self._process = process
        self._pid_file.write_text(f"{process.pid}\n")
        with BlockingXenstore(self.socket) as xenstore:
            xenstore.write("/local/domain/0/domid", "0")
            xenstore.write("/local/domain/0/name", "Domain-0")

    async def keep_running(self, reaper: Reaper) -> None:
        """Start it again each time it dies, until cancelled."""
        while True:
            assert self._process is not None
            await _wait_for_end(self._process)
            _log.error("xenstored: process %d: ended, starting it again", self._process.pid)
            pause = 0.1
            while not await self._restarted():
                await asyncio.sleep(pause)
                pause = min(2 * pause, RESTART_PAUSE_MAX)
            reaper.retry_now()

    async def _restarted(self) -> bool:
        try:
            await asyncio.to_thread(self.start)
        except HostError as error:
            _log.error("%s", error)
            return False
        return True

    def stop(self) -> None:
        """End it and remove its files."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(XENSTORED_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._remove_files()

    def clear_leftovers(self) -> None:
        """End the xenstored of a host process that was killed, and remove its files."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int(self._pid_file.read_text())
            process = os.pidfd_open(pid)
            try:
                # Asked after the process is held: another process may have the number by now.
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if os.fsencode(self._directory) in command:
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    _wait_readable(process)
            finally:
                os.close(process)
        self._remove_files()

    def _remove_files(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._pid_file.unlink(missing_ok=True)


def run(directory: Path, ready_fd: int | None = None) -> int:
    """Run the embedded hypervisor until SIGTERM or SIGINT; returns the exit status, 0.

    Args:
        directory: for the sockets; made if missing. Its path is limited to about 80 bytes.
        ready_fd: gets one byte when guests can be made, and is closed then.

    Raises:
        HostError: another one has the directory, or something could not be started.
        ConfigError: the directory's path is too long.
    """
    _raise_descriptor_limit()
    directory = directory.absolute()
    with _locked(directory):
        xenstored = _Xenstored(directory)
        xenstored.clear_leftovers()
        try:
            asyncio.run(_serve(directory, xenstored, ready_fd))
        finally:
            xenstored.stop()
    return 0


async def _serve(directory: Path, xenstored: _Xenstored, ready_fd: int | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    reaper = Reaper(xenstored.socket, lambda domid: server.reaped(domid))
    server = HypervisorServer(directory, reaper.add)
    tasks: list[asyncio.Task[None]] = []
    try:
        server.start()
        await asyncio.to_thread(xenstored.start)
        tasks += [
            asyncio.create_task(xenstored.keep_running(reaper)),
            asyncio.create_task(reaper.run()),
        ]
        if ready_fd is not None:
            os.write(ready_fd, b"\n")
            os.close(ready_fd)
        ended = asyncio.create_task(stop.wait())
        await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()  # they only end by failing: say so
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Make the directory and hold its lock; afterwards both are gone if they were ours."""
    made = not directory.exists()
    path = directory / "lock"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _take_lock(path)
    except BlockingIOError:
        raise HostError(
            f"start embedded hypervisor: {directory}: another one is running there"
        ) from None
    except OSError as error:
        raise HostError(f"start embedded hypervisor: {directory}: {error.strerror}") from error
    try:
        yield
    finally:
        # Removed before it is released: a process that waits for the old file sees that it is gone.
        path.unlink(missing_ok=True)
        os.close(lock)
        if made:
            with contextlib.suppress(OSError):
                directory.rmdir()


def _take_lock(path: Path) -> int:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), path.stat()):
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


async def _wait_for_end(process: subprocess.Popen[bytes]) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    process.wait()


def _wait_readable(descriptor: int) -> None:
    select.select([descriptor], [], [], XENSTORED_STOP_TIMEOUT)


def _raise_descriptor_limit() -> None:
    """Two bells a channel, one connection a handle: the usual 1024 descriptors are soon gone."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: list[str] | None = None) -> int:
    """Command line of the process; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m embedded.host", description="The embedded hypervisor."
    )
    parser.add_argument("--dir", type=Path, required=True, help="for sockets; made if missing")
    parser.add_argument("--ready-fd", type=int, metavar="N", help="gets one byte when ready")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="embedded: %(message)s")
    try:
        return run(options.dir, options.ready_fd)
    except BlamedError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
