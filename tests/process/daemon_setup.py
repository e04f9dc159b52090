# SPDX-License-Identifier: MIT
"""The supervisor alone in a process of its own, with workers that only answer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from embedded.xenstored.launch import start_xenstored
from shared import control as c
from shared.xenstore.blocking import BlockingXenstore
from supervisor.cli.client import Client
from tests.fakes.waiting import wait_until
from tests.root import ROOT

PROGRAM = """
import asyncio, sys
from pathlib import Path
from config.loader import load
from shared import logs
from shared.errors import BlamedError
from supervisor.daemon import Supervisor

async def bug():
    raise KeyError("nobody expected it")

async def main(path):
    supervisor = Supervisor(load(path), path, entry_point="tests.fakes.trivial_worker:run",
                            preload=("tests.fakes.trivial_worker",))
    if sys.argv[2:] == ["bug"]:
        supervisor._tasks.spawn(bug())
    await supervisor.run()

logs.setup("debug")
try:
    asyncio.run(main(Path(sys.argv[1])))
except BlamedError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""

CONFIG = """
runtime_dir: {directory}
hypervisor: embedded
timeouts: {{drain: 5, hello: 5}}
types:
  {kind}: {{handler: {handler}}}
"""


class Setup:
    """A directory with xenstored, configuration and supervisors."""

    kind, handler = "vbd", "block"

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="xbd"))
        self.config = self.directory / "c.yaml"
        self.config.write_text(
            CONFIG.format(directory=self.directory, kind=self.kind, handler=self.handler)
        )
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log = self.directory / "log"

    def xenstored(self) -> subprocess.Popen[bytes]:
        process = start_xenstored(self.directory / "embedded" / "xenstored")
        self.processes.append(process)
        return process

    def store(self) -> BlockingXenstore:
        return BlockingXenstore(self.directory / "embedded" / "xenstored" / "socket")

    def supervisor(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self.config), *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def plug(self, domid: int, devid: int, state: int = 1) -> None:
        back, front = paths(domid, devid, self.kind)
        with self.store() as store:
            store.introduce(domid)

            def body(tx: int) -> None:
                store.write(f"{front}/state", b"3" if state == 1 else b"4", tx)
                store.write(f"{back}/frontend", front, tx)
                store.write(f"{back}/online", b"1", tx)
                store.write(f"{back}/state", b"%d" % state, tx)

            store.transact(body)

    def state(self, domid: int, devid: int) -> bytes | None:
        with self.store() as store:
            return store.read_or_none(f"{paths(domid, devid, self.kind)[0]}/state")

    def status(self) -> c.StatusReply:
        with Client(self.directory) as client:
            return client.ask(c.Status(), c.StatusReply)

    def device(self, name: str) -> c.DeviceStatus | None:
        return next((d for d in self.status().devices if d.device == name), None)

    def wait_phase(self, name: str, phase: str, generation: int = 1) -> c.DeviceStatus:
        found: list[c.DeviceStatus] = []

        def there() -> bool:
            with contextlib.suppress(Exception):
                found[:] = [d for d in self.status().devices if d.device == name]
            return bool(found) and found[0].phase == phase and found[0].generation >= generation

        wait_until(there, f"{name} {phase}: {found}\n{self.log.read_text()[-3000:]}")
        return found[0]

    def close(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.kill()
            process.wait()
        for path in (self.directory / "workers").glob("*[0-9]"):
            if pid := json.loads(path.read_bytes())["pid"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


def paths(domid: int, devid: int, kind: str = Setup.kind) -> tuple[str, str]:
    """Backend and frontend directory."""
    back = f"/local/domain/0/backend/{kind}/{domid}/{devid}"
    return back, f"/local/domain/{domid}/device/{kind}/{devid}"
