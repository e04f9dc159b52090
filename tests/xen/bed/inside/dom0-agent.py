# SPDX-License-Identifier: MIT
"""Runs what the host asks for, in dom0 and on guests' consoles: JSON lines on a virtio port.

{"id": N, "run": COMMAND, "timeout": S} runs a shell command; {"guest": NAME, "run": COMMAND, …} one
in a guest, {"guest": NAME, …} waits for the guest's agent. The answer is
{"id": N, "status": N, "out": TEXT} or {"id": N, "error": TEXT}. Each answer has "took" too: seconds
on this machine's clock.

{"look": [KIND, …], "below": PATH} answers at once with the states of all disks of these kinds, with
all processes, and with the nodes below a path of xenstore: {"disks": {"KIND/DOMID/DEVID": [BACKEND,
FRONTEND]}, "processes": {PID: COMMAND LINE}, "nodes": [PATH, …]}. It starts no process, for each
takes a third of a second here. {"domid": NAME} answers {"domid": N}, with 0 for none.
"""

import base64
import glob
import json
import os
import select
import signal
import struct
import subprocess
import tempfile
import time
import tty
from typing import Any

CHUNK = 900
"""Bytes of base64 in one line to a guest: a console's ring holds 1024."""

DIRECTORY, READ, ERROR = 1, 2, 16
"""Types of messages (xen/include/public/io/xs_wire.h)."""


class Xenstore:
    """Reads xenstore through the kernel's device."""

    def __init__(self) -> None:
        self.fd = os.open("/dev/xen/xenbus", os.O_RDWR)

    def ask(self, kind: int, path: str) -> bytes | None:
        """One request; None if there is no such node."""
        payload = path.encode() + b"\0"
        os.write(self.fd, struct.pack("<IIII", kind, 0, 0, len(payload)) + payload)
        told, _, _, length = struct.unpack("<IIII", self.take(16))
        reply = self.take(length)
        return None if told == ERROR else reply

    def take(self, length: int) -> bytes:
        """So many bytes of the answer."""
        data = b""
        while len(data) < length:
            data += os.read(self.fd, length - len(data))
        return data

    def read(self, path: str) -> str:
        """A node's value, "" if there is none."""
        return (self.ask(READ, path) or b"").decode("latin-1")

    def names(self, path: str) -> list[str]:
        """A node's children."""
        return [x.decode("latin-1") for x in (self.ask(DIRECTORY, path) or b"").split(b"\0") if x]

    def below(self, path: str) -> list[str]:
        """All nodes below a node, by their paths."""
        children = [f"{path}/{name}" for name in self.names(path)]
        return children + [x for child in children for x in self.below(child)]


def domid_of(store: Xenstore, name: str) -> int:
    """A domain's number, 0 if there is none of that name."""
    # While one of that name is still dying there are two: the newer is meant.
    for domid in sorted(map(int, store.names("/local/domain")), reverse=True):
        if store.read(f"/local/domain/{domid}/name") == name:
            return domid
    return 0


def disks(store: Xenstore, kinds: list[str]) -> dict[str, list[str]]:
    """The backend's and the frontend's state of each disk."""
    found = {}
    for kind in kinds:
        top = f"/local/domain/0/backend/{kind}"
        for domid in store.names(top):
            for devid in store.names(f"{top}/{domid}"):
                path = f"{top}/{domid}/{devid}"
                front = store.read(f"{path}/frontend")
                states = [store.read(f"{path}/state"), store.read(f"{front}/state")]
                found[f"{kind}/{domid}/{devid}"] = states
    return found


def processes(kernel: set[str]) -> dict[str, str]:
    """Command lines by process; `kernel` remembers the threads that have none."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and name not in kernel:
            try:
                with open(f"/proc/{name}/cmdline", "rb", 0) as file:  # noqa: PTH123
                    line = file.read().replace(b"\0", b" ").strip()
            except OSError:  # it ended
                continue
            if line:
                found[name] = line.decode("utf-8", "replace")
            else:
                kernel.add(name)
    return found


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


class Console:
    """A guest's console, with the agent at its other end."""

    def __init__(self, store: Xenstore, name: str, timeout: float) -> None:
        self.end = time.monotonic() + timeout
        self.buffer = b""
        while not (path := self._path(store, name)):
            if time.monotonic() > self.end:
                raise TimeoutError(f"{name}: no console")
            time.sleep(0.1)
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.fd)

    def _path(self, store: Xenstore, name: str) -> str:
        domid = domid_of(store, name)
        return store.read(f"/local/domain/{domid}/console/tty") if domid else ""

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


def answer(store: Xenstore, kernel: set[str], request: dict[str, Any]) -> dict[str, Any]:
    """Do what one line asks."""
    if "look" in request:
        return {
            "disks": disks(store, request["look"]),
            "processes": processes(kernel),
            "nodes": store.below(request["below"]) if request["below"] else [],
        }
    if "domid" in request:
        return {"domid": domid_of(store, request["domid"])}
    timeout = float(request["timeout"])
    if "guest" not in request:
        return run(request["run"], timeout)
    console = Console(store, request["guest"], timeout)
    try:
        console.wait()
        return console.run(request["run"]) if "run" in request else {"status": 0, "out": ""}
    finally:
        os.close(console.fd)


def main() -> None:
    """Answer line by line."""
    port = os.open(glob.glob("/dev/vport*")[0], os.O_RDWR)  # noqa: PTH207
    store = Xenstore()
    kernel: set[str] = set()
    with os.fdopen(os.dup(port), "rb") as lines, os.fdopen(port, "wb", 0) as replies:
        replies.write(b'{"id": 0, "status": 0, "out": "up"}\n')
        while True:
            line = lines.readline()
            if not line:  # the host is not connected
                time.sleep(0.2)
                continue
            request = json.loads(line)
            start = time.monotonic()
            try:
                reply = answer(store, kernel, request)
            except Exception as error:  # noqa: BLE001
                reply = {"error": repr(error)}
            reply |= {"id": request["id"], "took": time.monotonic() - start}
            data = json.dumps(reply).encode() + b"\n"
            while data:
                data = data[replies.write(data) :]


main()
