# SPDX-License-Identifier: MIT
"""`make demo`: the main job on real input, shown step by step. Exit status 0 only if all held.

Two guests with one disk each, served by two workers. The disks are real ext4 images made from this
repository's own files. Everything is done by the commands a user would type.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.lab import DEFAULT_CONFIG, Lab, processes

ROOT: Final = Path(__file__).resolve().parents[1]
MIB: Final = 1 << 20
IMAGE_MIB: Final = 64
PAYLOAD_MIB: Final = 8
BLOCK: Final = 4096
LOAD_SECONDS: Final = 6
GUESTS: Final = ("alpha", "beta")


@dataclass(frozen=True, slots=True)
class Shown:
    """One line of the table at the end."""

    what: str
    held: bool
    figure: str


def tool(name: str) -> str:
    """Path of a program of e2fsprogs, which is not on a normal user's PATH."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        sys.exit(f"missing: {name} (Debian: apt-get install e2fsprogs)")
    return path


def sha256(path: Path) -> str:
    """Checksum of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def output_of(*command: str) -> str:
    """Run a host program that has to succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Demo:
    """The steps; each prints what it does and notes what it showed."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.say = Console(highlight=False)
        self.shown: list[Shown] = []
        self.images = {name: lab.images / f"{name}.img" for name in GUESTS}

    def note(self, what: str, held: bool, figure: str) -> None:
        """Record and print one result."""
        self.shown.append(Shown(what, held, figure))
        self.say.print(f"  {'[green]ok[/]' if held else '[red]FAILED[/]'}  {what}: {figure}")

    def step(self, text: str) -> None:
        """Announce what comes."""
        self.say.print(f"[bold]{text}[/]")

    # --- the steps

    def make_images(self) -> None:
        """An ext4 file system with this repository's files and a placeholder to be overwritten."""
        self.step(f"Making two ext4 images of {IMAGE_MIB} MiB from this repository's files")
        tree = self.lab.images / "tree"
        for path in repository_files():
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, target)
        (tree / "payload.bin").write_bytes(os.urandom(PAYLOAD_MIB * MIB))
        first, second = self.images.values()
        output_of(
            tool("mke2fs"), "-q", "-t", "ext4", "-b", str(BLOCK), "-d", str(tree), str(first),
            f"{IMAGE_MIB}M",
        )  # fmt: skip
        shutil.copy(first, second)
        shutil.rmtree(tree)

    def create_guests(self) -> None:
        """`xenbackd guest create`, twice."""
        self.step("Creating two guests with one disk each")
        began = time.monotonic()
        for name, image in self.images.items():
            self.lab.must("guest", "create", name, "--disk", str(image))
        took = time.monotonic() - began
        status = self.lab.status()
        serving = [device for device in status.devices if device.backend == "Connected"]
        pids = {device.pid for device in serving}
        self.note(
            "two disks Connected, each by a worker of its own", len(pids) == 2, f"{took:.1f} s"
        )
        self.say.print(self.lab.must("status").rstrip())

    def read_everything(self) -> None:
        """The guest's view of the disk is the image, byte for byte."""
        self.step("Each guest reads its whole disk through the ring")
        for name, image in self.images.items():
            copy = self.lab.images / f"{name}.read"
            began = time.monotonic()
            self.lab.must("guest", "dd", name, "xvda", "--to", str(copy))
            took = time.monotonic() - began
            seen, real = sha256(copy), sha256(image)
            copy.unlink()
            self.note(f"{name}: SHA-256 as the image's", seen == real, f"{seen[:16]}… {took:.1f} s")

    def write_a_file(self) -> None:
        """The guest overwrites a file's blocks; the host finds the content in the file system."""
        self.step(f"Guest alpha writes {PAYLOAD_MIB} MiB into a file's blocks and flushes")
        image = self.images["alpha"]
        content = self.lab.images / "new-content"
        content.write_bytes(os.urandom(PAYLOAD_MIB * MIB))
        done = 0
        for first, count in extents(image, "/payload.bin"):
            part = self.lab.images / "part"
            data = content.read_bytes()[done * BLOCK : (done + count) * BLOCK]
            part.write_bytes(data)
            self.lab.must(
                "guest", "dd", "alpha", "xvda", "--from", str(part), "--seek", str(first * BLOCK)
            )
            done += count
        back = self.lab.images / "dumped"
        output_of(tool("debugfs"), "-R", f"dump /payload.bin {back}", str(image))
        held = done * BLOCK == PAYLOAD_MIB * MIB and sha256(back) == sha256(content)
        self.note("the image on disk holds it", held, f"{done} blocks, {sha256(back)[:16]}…")
        self.check_file_system("alpha")

    def check_file_system(self, name: str) -> None:
        """`e2fsck -fn` on the image."""
        check = subprocess.run(
            [tool("e2fsck"), "-fn", str(self.images[name])],
            capture_output=True,
            text=True,
            check=False,
        )
        last = (check.stdout.strip() or "no output").splitlines()[-1]
        self.note(f"{name}: e2fsck -fn clean", check.returncode == 0, last.split(": ", 1)[-1])

    def kill_a_worker(self) -> None:
        """SIGKILL under load: the other guest does not notice, the device comes back."""
        self.step(
            f"Both guests do verified I/O for {LOAD_SECONDS} s; one worker gets SIGKILL in it"
        )
        loads = {name: self.start_load(name) for name in GUESTS}
        victim = self.device_of("alpha")
        began = time.monotonic()
        while (counters := self.lab.wait_connected(victim).counters).get("rd_req", 0) < 2000:
            if time.monotonic() - began > LOAD_SECONDS / 2:
                break
        pid = self.lab.wait_connected(victim).pid
        assert pid is not None
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self.say.print(f"  killed {victim} (pid {pid}) after {counters.get('rd_req', 0)} reads")
        back = self.lab.wait_device(
            victim, lambda device: device.pid != pid and device.phase == "serving"
        )
        pause = time.monotonic() - killed
        self.note(
            f"{victim} is served again",
            back.backend == "Connected",
            f"pid {back.pid}, {pause:.2f} s",
        )
        results = {
            name: json.loads(load.communicate(timeout=120)[0]) for name, load in loads.items()
        }
        self.note_load("beta", "the other guest's I/O went on", results["beta"])
        self.note_load("alpha", "the killed device's guest saw a pause", results["alpha"])
        for name in GUESTS:
            self.check_file_system(name)

    def start_load(self, name: str) -> subprocess.Popen[str]:
        """`xenbackd guest io` on the placeholder's blocks, in the background."""
        (first, count), *_ = extents(self.images[name], "/payload.bin")
        what = f"--rw randrw --bs {BLOCK} --iodepth 8 --runtime {LOAD_SECONDS} --verify --json"
        where = f"--offset {first * BLOCK} --size {count * BLOCK}"
        return subprocess.Popen(
            [*self.lab.command, "guest", "io", name, "xvda", *what.split(), *where.split()],
            stdout=subprocess.PIPE,
            text=True,
        )

    def note_load(self, name: str, what: str, result: dict[str, Any]) -> None:
        """What the load generator measured."""
        reads, writes = result["reads"], result["writes"]
        bad = result["errors"] + result["mismatches"]
        longest = max(result["read_latency"]["max"], result["write_latency"]["max"]) / 1e6
        self.note(
            f"{name}: {what}",
            result["end"] == "done" and bad == 0 and reads + writes > 1000,
            f"{reads + writes} I/Os, {bad} errors, longest {longest:.0f} ms",
        )

    def device_of(self, name: str) -> str:
        """The device of a guest's disk."""
        guests = json.loads(self.lab.must("guest", "list", "--json"))
        domid = next(guest["domid"] for guest in guests if guest["name"] == name)
        return f"vbd/{domid}/51712"

    def stop(self) -> None:
        """Everything down; nothing may be left."""
        self.step("Stopping everything")
        pids = [device.pid for device in self.lab.status().devices if device.pid is not None]
        for name in GUESTS:
            self.lab.must("guest", "destroy", name)
        left = self.lab.xenstore()
        try:
            domains = left.directory("/local/domain")
        finally:
            left.close()
        began = time.monotonic()
        self.lab.stop()
        rest = [path.name for path in self.lab.directory.iterdir() if path.is_socket()]
        alive = processes(pids)
        held = domains == ["0"] and not rest and not alive
        self.note(
            "no process, socket or xenstore directory left",
            held,
            f"{time.monotonic() - began:.1f} s" if held else f"{domains} {rest} {alive}",
        )

    def table(self, seconds: float) -> int:
        """The table of what was shown; returns the exit status."""
        table = Table(title=f"xenbackd demo: {seconds:.0f} s", title_justify="left")
        for column in ("shown", "", "measured"):
            table.add_column(column)
        for row in self.shown:
            table.add_row(row.what, "yes" if row.held else "NO", row.figure)
        self.say.print(table)
        return 0 if self.shown and all(row.held for row in self.shown) else 1


def repository_files() -> Iterator[Path]:
    """The repository's own files, without what was built."""
    for folder in ("supervisor", "worker", "shared", "embedded", "config", "tests", "docs"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in {".py", ".c", ".h", ".md", ".yaml", ".json"}:
                yield path.relative_to(ROOT)
    yield from (Path(name) for name in ("README.md", "LICENSE", "pyproject.toml"))


def extents(image: Path, name: str) -> list[tuple[int, int]]:
    """First block and number of blocks of each run of a file in an ext4 image."""
    blocks = [
        int(word) for word in output_of(tool("debugfs"), "-R", f"blocks {name}", str(image)).split()
    ]
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and block == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return sorted(runs, key=lambda run: -run[1]) if len(runs) == 1 else runs


def main() -> int:
    """Run the demo."""
    began = time.monotonic()
    config = {**DEFAULT_CONFIG, "log": {"level": "info"}}
    lab = Lab(config)
    with lab:
        demo = Demo(lab)
        try:
            demo.make_images()
            demo.create_guests()
            demo.read_everything()
            demo.write_a_file()
            demo.kill_a_worker()
            demo.stop()
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            demo.note("the demo ran to its end", False, f"{type(error).__name__}: {error}")
        return demo.table(time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
