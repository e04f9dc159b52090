# SPDX-License-Identifier: MIT
"""The fork server: one process with everything preloaded, of which every worker is a fork.

Built on multiprocess's forkserver, asked for explicitly (its default is plain fork). What differs
from `Process.start()`, and why:

- Nobody waits for the pid. The fork server answers when it has forked, which takes a third of a
  second while it still preloads, and the supervisor's loop must not stand still for that.
- The request goes over the pipe as it is, not as a pickled `Process` (`shared.forked`): nothing is
  unpickled or set up in a worker that it does not need.
- Nothing is terminated or joined behind the supervisor's back at its exit.

Invariants: the supervisor never calls `waitpid(-1)`, which would steal the fork server's status.
A worker's exit status comes through the pipe that the fork server keeps for it, which also says
that the process has been reaped. When the fork server dies, its workers live on: they are forks of
it and do not need it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from multiprocess import forkserver, process, resource_tracker, util

from shared import forked
from shared.device_types import place_of
from shared.errors import HostError

_log = logging.getLogger("xenbackd.spawner")

_ROOT: Final = str(Path(forked.__file__).parent.parent)
"""Directory of our packages: not on the fork server's path when run from a checkout."""

SHORT_LIFE: Final = 1.0
"""Seconds; a fork server that died sooner is started again only when a worker needs it. Devices
back off, so that does not spin."""


class Launch:
    """One child that the fork server is asked for.

    `sentinel` is a descriptor that becomes readable twice: with the pid after the fork, and with
    the exit status after the child was reaped (or with nothing if the fork server died).
    """

    def __init__(
        self, server: ForkServer, target: str, argument: bytes, title: str, inherited: Sequence[int]
    ) -> None:
        """`inherited` are descriptors the child holds a copy of as long as it lives.

        Raises:
            HostError: the fork server cannot be started or reached.
        """
        self._title = title
        self.pid: int | None = None
        self.sentinel, write_end = server.connect(inherited)
        # Far less than a pipe's buffer. If the fork server is dead by now, the sentinel says so.
        with contextlib.suppress(BrokenPipeError), os.fdopen(write_end, "wb", 0) as pipe:
            pipe.write(forked.request(target, argument))

    def read_pid(self) -> int:
        """Take the pid when `sentinel` is readable.

        Raises:
            HostError: the fork server died before it had forked.
        """
        try:
            self.pid = int(forkserver.read_signed(self.sentinel))
        except (OSError, EOFError) as error:
            raise HostError(f"start of worker: {self._title}: the fork server is gone") from error
        return self.pid

    def read_status(self) -> int | None:
        """Take the exit status when `sentinel` is readable again; None if it is not known."""
        try:
            return int(forkserver.read_signed(self.sentinel))
        except (OSError, EOFError):
            return None

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self.sentinel >= 0:
            os.close(self.sentinel)
            self.sentinel = -1


class ForkServer:
    """Starts the fork server when it is needed, and again when it has died.

    It lives until the process that started it and the last of its workers have both ended: it is
    their parent and reaps them, even when another supervisor runs by then.
    """

    def __init__(
        self, preload: Sequence[str], directory: Path, device_types: Sequence[str] = ()
    ) -> None:
        """`directory` is where its socket is made. `device_types` are loaded too, by name.

        What an earlier fork server left in the directory is removed: one that still waits for its
        last worker is not asked for anything any more.
        """
        self._directory = directory
        self._device_types = " ".join(f"{name}={place_of(name)}" for name in device_types)
        self._server = forkserver.ForkServer()
        self._server.set_forkserver_preload([forked.PRELOAD, *preload])

    @property
    def pid(self) -> int | None:
        """Process of the fork server, None while there is none."""
        pid: int | None = self._server._forkserver_pid
        return pid

    def ensure_running(self) -> None:
        """Start it if it is not there; does not wait until it has preloaded.

        Raises:
            HostError: it cannot be started.
        """
        try:
            self._make_directory()
            with self._environment():
                self._server.ensure_running()
        except ChildProcessError:  # reaped by somebody else: gone all the same
            self._server._forkserver_pid = None
            self.ensure_running()
        except OSError as error:
            raise HostError(f"start of the fork server: {error}") from error

    def _make_directory(self) -> None:
        if self.pid is None:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            for socket in self._directory.iterdir():
                socket.unlink()
        # multiprocess would make one in /tmp, and a process that is killed or replaced by execve
        # leaves it behind.
        process.current_process()._config["tempdir"] = str(self._directory)

    def connect(self, fds: Sequence[int]) -> tuple[int, int]:
        """Ask for a child; returns the status pipe's read end and the data pipe's write end.

        Raises:
            HostError: the fork server cannot be started or reached.
        """
        for _ in range(2):
            try:
                with self._environment():  # it starts the fork server if there is none
                    status, data = self._server.connect_to_new_process(list(fds))
            except ChildProcessError:  # as in ensure_running
                self._server._forkserver_pid = None
            except OSError as error:
                # It may have died between its check and the call; the next check sees that.
                if error.errno not in (errno.ECONNREFUSED, errno.EPIPE, errno.ECONNRESET):
                    raise HostError(f"start of a worker: fork server: {error}") from error
            else:
                return status, data
        raise HostError("start of a worker: fork server: dies as soon as it is started")

    def do_without_types(self) -> bool:
        """Load no device types from the next start on; whether there were any."""
        had, self._device_types = bool(self._device_types), ""
        return had

    def processes(self) -> list[int]:
        """The fork server and multiprocess's helper: they live as long as its workers."""
        helper = resource_tracker._resource_tracker._pid
        return [pid for pid in (self.pid, helper) if pid is not None]

    def close(self, *, wait: bool = True) -> None:
        """End the fork server; with `wait` only after all its workers have ended, as it does."""
        server = self._server
        if server._forkserver_pid is None:
            return
        os.close(server._forkserver_alive_fd)
        if wait:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(server._forkserver_pid, 0)
        address = server._forkserver_address
        if not util.is_abstract_socket_namespace(address):
            Path(address).unlink(missing_ok=True)
        server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """The fork server's: our packages can be imported, the working directory cannot."""
        ours = {
            "PYTHONPATH": _ROOT,
            "PYTHONSAFEPATH": "1",
            forked.TYPES_VARIABLE: self._device_types,
        }
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class ForkWatch:
    """Watches the fork server of one spawner. Used in the loop's thread."""

    def __init__(self, server: ForkServer) -> None:
        self._server = server
        self._pidfd: int | None = None
        self._since = 0.0

    def open(self) -> None:
        """Start the fork server if it does not run, and watch it.

        Raises:
            HostError: it cannot be started.
        """
        self._server.ensure_running()
        self.look()

    def look(self) -> None:
        """Watch it if it runs: a start of a worker may have started it."""
        if self._pidfd is None and self._server.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(self._server.pid)
                loop = asyncio.get_running_loop()
                loop.add_reader(self._pidfd, self._died)
                self._since = loop.time()

    def close(self) -> None:
        """Watch it no longer. Idempotent."""
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def hangs(self) -> None:
        """It does not answer: killed, it is dealt with like one that died."""
        _log.error("fork server: process %s: does not answer: kill", self._server.pid)
        self._without_types()
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _without_types(self) -> bool:
        """Blame the device types for its end, which may be foreign code; whether there were any."""
        if not self._server.do_without_types():
            return False
        _log.error("fork server: goes on without device types: each worker loads its own")
        return True

    def _died(self) -> None:
        _log.error("fork server: process %s: died", self._server.pid)
        self.close()
        short = asyncio.get_running_loop().time() - self._since < SHORT_LIFE
        if short and not self._without_types():
            return
        # Now, so that the next worker does not have to wait for the preloading.
        try:
            self.open()
        except HostError as error:
            _log.error("%s", error)
