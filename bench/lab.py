# SPDX-License-Identifier: MIT
"""A whole xenbackd on the embedded hypervisor, in a directory of its own, as a user would start it.

Used by the demo, the benchmarks and the process tests: `with Lab() as lab:` runs
`xenbackd serve --embedded` and takes everything down again. Nothing here reaches into the
supervisor; it is asked over its control socket like by any other client.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from embedded.launch import start_embedded
from shared import control
from shared.xenstore.blocking import BlockingXenstore
from supervisor.cli.client import Client, UnavailableError

DEFAULT_CONFIG: Final[Mapping[str, Any]] = {
    "types": {"vbd": {"handler": "block"}, "qdisk": {"handler": "block"}}
}

_SHARED_MEMORY: Final = "/dev/shm"


class Lab:
    """One supervisor and one embedded hypervisor; the directory is short (socket paths)."""

    def __init__(
        self,
        config: Mapping[str, Any] = DEFAULT_CONFIG,
        *,
        own_hypervisor: bool = False,
        python: str = sys.executable,
    ) -> None:
        """Make the directories; nothing is started.

        Args:
            config: content of the configuration file.
            own_hypervisor: run it beside `serve`, so that it survives the supervisor.
            python: interpreter of the environment that xenbackd runs in.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="xbd", dir=_memory()))
        """What `runtime_dir` is, with configuration and log."""
        self.images = Path(tempfile.mkdtemp(prefix="xbi"))
        """For images of disks and other large files."""
        self.config_path = self.directory / "xenbackd.yaml"
        self.log_path = self.directory / "log"
        self.embedded_dir = self.directory / "embedded"
        self.backend_domid = 0
        """Domain that serves."""
        self.keep = False
        """Leave the directory, with the log, where it is."""
        self._own_hypervisor = own_hypervisor
        self._python = python
        self._hypervisor: subprocess.Popen[bytes] | None = None
        self.supervisor: subprocess.Popen[bytes] | None = None
        self.write_config(config)

    # --- start and stop

    def __enter__(self) -> Lab:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            if self.keep or (kind is not None and os.environ.get("XENBACKD_KEEP_LAB")):
                sys.stderr.write(f"kept: {self.directory}, {self.images}\n")
            else:
                self.remove()

    def remove(self) -> None:
        """Leave no file behind."""
        for directory in (self.directory, self.images):
            shutil.rmtree(directory, ignore_errors=True)

    def start(self) -> None:
        """Start what is not running and wait until the supervisor answers."""
        if self._own_hypervisor and self._hypervisor is None:
            self._hypervisor = start_embedded(self.embedded_dir)
        self.start_supervisor()

    def start_supervisor(self) -> None:
        """Start `serve` and wait until it answers."""
        self.supervisor = self.launch()
        self.wait(self.answers, 60, "the supervisor to answer")

    def launch(self) -> subprocess.Popen[bytes]:
        """Start `serve` and leave it to the caller."""
        embedded = [] if self._own_hypervisor else ["--embedded"]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [*self.command, "serve", "-c", str(self.config_path), *embedded],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop_supervisor(self, number: int = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        process, self.supervisor = self.supervisor, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def stop(self) -> None:
        """Stop supervisor and hypervisor, in this order."""
        try:
            self.stop_supervisor()
        finally:
            self._end_orphans()
            process, self._hypervisor = self._hypervisor, None
            if process is not None:
                process.terminate()
                process.wait(60)

    def _end_orphans(self) -> None:
        """Workers of a supervisor that was killed serve on for minutes."""
        for path in (self.directory / "workers").glob("*[0-9]"):
            record = json.loads(path.read_bytes())
            if record["pid"] is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(record["pid"], signal.SIGKILL)

    # --- asking

    @property
    def command(self) -> list[str]:
        """The command line `xenbackd` for this installation."""
        return [self._python, "-m", "supervisor.cli.main", "--run-dir", str(self.directory)]

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a sub-command to its end."""
        return subprocess.run(
            [*self.command, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def must(self, *arguments: str, timeout: float = 120) -> str:
        """Run a sub-command that has to succeed; its output."""
        done = self.run(*arguments, timeout=timeout)
        if done.returncode:
            raise AssertionError(f"xenbackd {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    @property
    def hypervisor_pid(self) -> int | None:
        """Process of the hypervisor if it runs beside `serve`."""
        return None if self._hypervisor is None else self._hypervisor.pid

    def status(self) -> control.StatusReply:
        """What `xenbackd status` shows."""
        with Client(self.directory, timeout=30) as client:
            return client.ask(control.Status(), control.StatusReply)

    def device(self, name: str) -> control.DeviceStatus | None:
        """One device, None if the supervisor does not know it."""
        return next((one for one in self.status().devices if one.device == name), None)

    def xenstore(self) -> BlockingXenstore:
        """A privileged connection; the caller closes it."""
        return BlockingXenstore(str(self.embedded_dir / "xenstored" / "socket"))

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace the configuration file (JSON is YAML); `reload` applies it."""
        self.config_path.write_text(json.dumps(config, indent=2))

    def log(self) -> str:
        """What the supervisor and its workers have logged."""
        return self.log_path.read_text(errors="replace")

    # --- waiting

    def wait(
        self, holds: Callable[[], bool], timeout: float, what: str, interval: float = 0.02
    ) -> None:
        """Ask every `interval` seconds until it holds.

        Raises:
            AssertionError: it does not within `timeout` seconds; with the end of the log.
        """
        deadline = time.monotonic() + timeout
        while not holds():
            if self.supervisor is not None and self.supervisor.poll() is not None:
                raise AssertionError(f"the supervisor ended\n{self.log()[-4000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout:g} s for {what}\n{self.log()[-4000:]}")
            select.select([], [], [], interval)

    def wait_device(
        self, name: str, holds: Callable[[control.DeviceStatus], bool], timeout: float = 20
    ) -> control.DeviceStatus:
        """Wait until a device is there and as wanted."""
        found: list[control.DeviceStatus] = []

        def check() -> bool:
            device = self.device(name)
            found[:] = [device] if device is not None and holds(device) else []
            return bool(found)

        self.wait(check, timeout, f"{name}, now {self.device(name)}")
        return found[0]

    def wait_connected(self, name: str, timeout: float = 20) -> control.DeviceStatus:
        """Wait until a device is Connected on both sides and its ring is served."""
        return self.wait_device(name, is_serving, timeout)

    def answers(self) -> bool:
        """Whether a supervisor is there and connected."""
        try:
            return self.status().xenstore == "connected"
        except UnavailableError:
            return False


def is_serving(device: control.DeviceStatus) -> bool:
    """Connected on both sides, ring running."""
    return (device.backend, device.frontend, device.phase) == ("Connected", "Connected", "serving")


def processes(pids: Sequence[int]) -> list[int]:
    """Those of the processes that still exist."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def _memory() -> str | None:
    """A directory in memory, as /run is where xenbackd usually has its runtime directory; journals
    are there, and writing to a file on a disk waits for it now and then. None: there is none."""
    return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
