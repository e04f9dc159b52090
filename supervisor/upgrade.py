# SPDX-License-Identifier: MIT
"""The supervisor replaces itself in place: execve(2) of the code that is installed now.

The process stays the same, so its workers see no death (their pidfd of it stays quiet), systemd
sees no new main process, and the children stay children. Everything else is as after a `kill -9`:
what the new image needs is in the files of `supervisor.workers.records`, the workers' sockets
reconnect, and it adopts the workers. So both take one path, which is tried at each upgrade.

Two things are handed over, in an environment variable that the new image removes at once: the
descriptor of the supervisor's lock (so that nobody can slip in between) and the pids of children
that only the same process can reap. Signals are blocked over the exec until the new image can take
them.

Before that, the same command is run with `--check`: a broken installation or configuration is found
by a process that has nothing to lose, and the old image goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from config.model import Config
from shared.device_types import resolve
from shared.errors import ConfigError, HostError
from supervisor.workers.confinement.jails import check_unjailed
from supervisor.workers.spawner import PRELOAD

VARIABLE: Final = "XENBACKD_HANDOVER"

CHECK_TIMEOUT: Final = 60.0
"""Seconds that the check of the new code may take."""

REPORT_MAX: Final = 2000
"""Characters of the check's output that are passed on."""

SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2})


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What one image leaves for the next one in the same process."""

    pid: int
    lock: int
    """Descriptor of the runtime directory's lock."""
    children: tuple[int, ...] = ()
    """Fork servers and their helpers; they end with the last of their workers."""
    embedded: int | None = None
    """Process of the embedded hypervisor, if this process started it."""
    upgrades: int = 0
    """How often the process has been replaced in place, including this time."""


def own_command() -> list[str]:
    """The command line this process was started with, as execve wants it."""
    return [sys.executable, *sys.orig_argv[1:]]


def take() -> Handover | None:
    """What the image before this one left, None if there was none. Once only."""
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return None
    handover = msgspec.json.decode(text, type=Handover)
    # Another process may have left it in an environment that this one inherited.
    return handover if handover.pid == os.getpid() else None


def rehearse(config: Config) -> None:
    """Load all that `serve` and its workers load, and do nothing with it; for `serve --check`.

    Raises:
        ConfigError: a device type is not installed, or workers would be root without a jail.
        ImportError: the installation is not complete.
    """
    for module in ("supervisor.serve", *PRELOAD):
        importlib.import_module(module)
    for type_ in config.types.values():
        if type_.enabled:
            importlib.import_module(resolve(type_.handler).backend_module)
    check_unjailed(config)


async def check(command: Sequence[str]) -> None:
    """Try the command with `--check`, with the code that is installed now.

    Raises:
        ConfigError: the configuration is wrong for it.
        HostError: it cannot be run, fails, or takes more than `CHECK_TIMEOUT` seconds.
    """
    # A file and not a pipe: nobody has to read while it runs.
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
            except BaseException:
                process.kill()  # the loop must not stand still until it ends
                raise
        said = os.pread(output, 1 << 16, 0).decode("utf-8", "replace").strip()[-REPORT_MAX:]
    except OSError as error:
        raise HostError(f"upgrade: {command[0]}: {error.strerror}") from error
    finally:
        os.close(output)
    if process.returncode == ConfigError.exit_code:
        raise ConfigError(f"upgrade: refused: {said}")
    if process.returncode:
        raise HostError(f"upgrade: refused: exit status {process.returncode}: {said}")


@contextlib.asynccontextmanager
async def signals_held() -> AsyncIterator[None]:
    """Keep `SIGNALS` pending, over an execve too; signals that came before are handled.

    The loop handles a signal two turns after it came: the first reads the byte that the signal left
    in a socket, the second calls the handler.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        for _ in range(3):
            await asyncio.sleep(0)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def replace(command: Sequence[str], handover: Handover) -> None:
    """Become the new image, while `signals_held`. Does not return.

    Raises:
        HostError: execve failed; nothing has changed.
    """
    os.set_inheritable(handover.lock, True)
    os.environ[VARIABLE] = msgspec.json.encode(handover).decode()
    try:
        os.execv(command[0], list(command))  # noqa: S606 - our own command line, no shell
    except OSError as error:
        del os.environ[VARIABLE]
        os.set_inheritable(handover.lock, False)
        raise HostError(f"upgrade: {command[0]}: {error.strerror}") from error


class Upgrade:
    """An upgrade of this process. `wanted`: it was asked for, and the installed code is good."""

    def __init__(
        self, command: Sequence[str], before: Handover | None, embedded_pid: int | None
    ) -> None:
        """`command` replaces this image (empty: nothing can); the last one left `before`."""
        self.count = 0 if before is None else before.upgrades
        """How often the process has been replaced in place."""
        self.wanted = False
        self._command = command
        self._embedded_pid = embedded_pid

    async def prepare(self) -> None:
        """Check the installed code; raises as `check`."""
        if not self._command:
            raise HostError("upgrade: this supervisor was not started by its command line")
        await check(self._command)

    def carry_out(self, lock: int, children: Sequence[int]) -> None:
        """Replace this image, which holds `lock` and has these children; raises as `replace`."""
        handover = Handover(
            pid=os.getpid(),
            lock=lock,
            children=tuple(children),
            embedded=self._embedded_pid,
            upgrades=self.count + 1,
        )
        replace(self._command, handover)


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
