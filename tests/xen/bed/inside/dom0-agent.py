# SPDX-License-Identifier: MIT
"""Runs what the host asks for, in dom0 and on guests' consoles: JSON lines on a virtio port.

{"run": COMMAND, "timeout": S} runs a shell command; {"guest": NAME, "run": COMMAND, "timeout": S}
one in a guest, {"guest": NAME, "timeout": S} waits for the guest's agent. The answer is
{"status": N, "out": TEXT} or {"error": TEXT}.
"""

import base64
import glob
import json
import os
import select
import signal
import subprocess
import tempfile
import time
import tty
from typing import Any

CHUNK = 900
"""Bytes of base64 in one line to a guest: a console's ring holds 1024."""


def run(command: str, timeout: float) -> dict[str, Any]:
    """A shell command. What it leaves behind is not waited for."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            ["/bin/bash", "-c", command],
            cwd="/root",
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = 124
        out.seek(0)
        return {"status": status, "out": out.read().decode("utf-8", "replace")}


def told(*command: str) -> str:
    """What a command says, "" if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


class Console:
    """A guest's console, with the agent at its other end."""

    def __init__(self, name: str, timeout: float) -> None:
        self.end = time.monotonic() + timeout
        self.buffer = b""
        while not (domid := told("xl", "domid", name)) or not (
            path := told("xenstore-read", f"/local/domain/{domid}/console/tty")
        ):
            if time.monotonic() > self.end:
                raise TimeoutError(f"{name}: no console")
            time.sleep(0.1)
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.fd)

    def line(self, end: float) -> str:
        """The next line; TimeoutError."""
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise TimeoutError(f"silent console; last: {self.buffer[-200:]!r}")
            self.buffer += os.read(self.fd, 65536)
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.rstrip(b"\r").decode("utf-8", "replace")

    def send(self, line: str) -> None:
        """One line to the agent."""
        data = f"{line}\n".encode()
        while data:
            data = data[os.write(self.fd, data) :]

    def wait(self) -> None:
        """Until the agent answers; what stood there before is dropped."""
        while True:
            tag = f"@{time.monotonic_ns()}"
            self.send(f"{tag} ?")
            try:
                until = min(self.end, time.monotonic() + 2)
                while not self.line(until).endswith(f"{tag} = 0"):
                    pass
            except TimeoutError:
                if time.monotonic() > self.end:
                    raise
            else:
                return

    def run(self, command: str) -> dict[str, Any]:
        """A shell command in the guest."""
        tag = f"@{time.monotonic_ns()}"
        text = base64.b64encode(command.encode()).decode()
        for start in range(0, len(text), CHUNK):
            self.send(f"{tag} + {text[start : start + CHUNK]}")
        self.send(f"{tag} !")
        out = ""
        while True:
            line = self.line(self.end)
            if f"{tag} = " in line:
                status = int(line.rsplit(" ", 1)[1])
                return {
                    "status": status,
                    "out": base64.b64decode(out).decode("utf-8", "replace"),
                }
            if f"{tag} " in line:
                out += line.split(f"{tag} ", 1)[1]


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what one line asks."""
    timeout = float(request["timeout"])
    if "guest" not in request:
        return run(request["run"], timeout)
    console = Console(request["guest"], timeout)
    try:
        console.wait()
        return console.run(request["run"]) if "run" in request else {"status": 0, "out": ""}
    finally:
        os.close(console.fd)


def main() -> None:
    """Answer line by line."""
    port = os.open(glob.glob("/dev/vport*")[0], os.O_RDWR)  # noqa: PTH207
    with os.fdopen(os.dup(port), "rb") as lines, os.fdopen(port, "wb", 0) as replies:
        replies.write(b'{"status": 0, "out": "up"}\n')
        while True:
            line = lines.readline()
            if not line:  # the host is not connected
                time.sleep(0.2)
                continue
            try:
                reply = answer(json.loads(line))
            except Exception as error:  # noqa: BLE001
                reply = {"error": repr(error)}
            data = json.dumps(reply).encode() + b"\n"
            while data:
                data = data[replies.write(data) :]


main()
