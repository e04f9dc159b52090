# SPDX-License-Identifier: MIT
"""The supervisor replaces itself in place: execve(2) of the code that is installed now.

The process stays the same, so its workers see no death (their pidfd of it stays quiet), systemd
sees no new main process, and the children stay children. Everything else is as after a `kill -9`:
what the new image needs stands in the files of `supervisor.records`, the workers' sockets
reconnect, and it adopts them. So there is one path for both, and it is tried each time.

Handed over, in an environment variable that the new image removes at once: the descriptor of the
supervisor's lock (nobody can slip in between) and the pids of children that only the same process
can reap. Signals are blocked over the exec until the new image can take them.

Before that, the same command is run with `--check`: a broken installation or configuration is
found by a process that has nothing to lose, and the old image goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from config.model import Config
from shared.errors import ConfigError, HostError
from shared.handlers import resolve
from supervisor.jails import check_unjailed
from supervisor.spawner import PRELOAD

VARIABLE: Final = "XENBACKD_HANDOVER"

CHECK_TIMEOUT: Final = 60.0
"""Seconds the check of the new code may take."""

REPORT_MAX: Final = 2000
"""Characters of what the check said that are passed on."""

SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2})


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What one image leaves for the next one in the same process."""

    pid: int
    lock: int
    """Descriptor of the runtime directory's lock."""
    children: tuple[int, ...] = ()
    """Fork servers and their helpers; they end with the last of their workers."""
    embedded: int | None = None
    """Process of the embedded hypervisor, if this one started it."""
    upgrades: int = 0
    """How often the process has been replaced in place, this time included."""


def own_command() -> list[str]:
    """The command line this process was started with, as execve wants it."""
    return [sys.executable, *sys.orig_argv[1:]]


def take() -> Handover | None:
    """What the image before this one left, None if there was none. Once only."""
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return None
    handover = msgspec.json.decode(text, type=Handover)
    # Of another process, which left it in an environment that was inherited.
    return handover if handover.pid == os.getpid() else None


def rehearse(config: Config) -> None:
    """Load all that `serve` and its workers load, and nothing more; for `serve --check`.

    Raises:
        ConfigError: a handler is not installed, or workers would be root without a jail.
        ImportError: the installation is not complete.
    """
    for module in ("supervisor.service", *PRELOAD):
        importlib.import_module(module)
    for type_ in config.types.values():
        if type_.enabled:
            resolve(type_.handler)
    check_unjailed(config)


async def check(command: Sequence[str]) -> None:
    """Try the command with `--check`, with the code that is installed now.

    Raises:
        ConfigError: the configuration is wrong for it.
        HostError: it cannot be run, fails, or takes more than `CHECK_TIMEOUT` seconds.
    """
    # A file and no pipe: nobody has to read while it runs.
    output = os.memfd_create("check", os.MFD_CLOEXEC)
    try:
        with subprocess.Popen(  # noqa: ASYNC220 - asyncio would watch it from a thread
            [*command, "--check"], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process:
            try:
                async with asyncio.timeout(CHECK_TIMEOUT):
                    await _end_of(process.pid)
            except TimeoutError:
                process.kill()
        said = os.pread(output, 1 << 16, 0).decode("utf-8", "replace").strip()[-REPORT_MAX:]
    except OSError as error:
        raise HostError(f"upgrade: {command[0]}: {error.strerror}") from error
    finally:
        os.close(output)
    if process.returncode == ConfigError.exit_code:
        raise ConfigError(f"upgrade: refused: {said}")
    if process.returncode:
        raise HostError(f"upgrade: refused: exit status {process.returncode}: {said}")


def replace(command: Sequence[str], handover: Handover) -> None:
    """Become the new image. Returns only by an error, and then nothing has changed.

    Raises:
        HostError: execve failed.
    """
    os.set_inheritable(handover.lock, True)
    os.environ[VARIABLE] = msgspec.json.encode(handover).decode()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        os.execv(command[0], list(command))  # noqa: S606 - our own command line, no shell
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        del os.environ[VARIABLE]
        os.set_inheritable(handover.lock, False)
        raise HostError(f"upgrade: {command[0]}: {error.strerror}") from error


class Predecessors:
    """Children of the images before this one, reaped when they end. Used in the loop's thread."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pidfds: dict[int, int] = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                pidfd = self._pidfds[pid] = os.pidfd_open(pid)
                asyncio.get_running_loop().add_reader(pidfd, self._ended, pid)

    @property
    def pids(self) -> tuple[int, ...]:
        """Those that live."""
        return tuple(self._pidfds)

    def close(self) -> None:
        """Look no more. Idempotent."""
        for pid in list(self._pidfds):
            self._forget(pid)

    def _ended(self, pid: int) -> None:
        self._forget(pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    def _forget(self, pid: int) -> None:
        pidfd = self._pidfds.pop(pid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)


def end_child(pid: int, patience: float) -> None:
    """End a child of this process that an image before started: SIGTERM, then SIGKILL."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if not select.select([pidfd], [], [], patience)[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
        os.waitpid(pid, 0)


async def _end_of(pid: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    pidfd = os.pidfd_open(pid)
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
