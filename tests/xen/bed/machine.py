# SPDX-License-Identifier: MIT
"""One emulated machine with Xen and dom0, from power-on to power-off.

QEMU ends with us, however we end; nothing of it is reachable but by sockets in a directory of ours.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tests.fakes.waiting import wait_until
from tests.xen.bed.agent import Agent
from tests.xen.bed.image import Bed
from tests.xen.bed.packages import SYSTEM_PATH

BOOT: Final = 300.0
"""Seconds to dom0's agent; 11 to 25 on an idle machine."""

PATIENCE: Final = 120.0
"""Seconds of the machine's clock for what takes one or two: everything is emulated."""

# TCG's iret from ring 3 goes wrong with SMAP. Vector registers were seen to be lost with XSAVE and
# lazily switched registers: a guest's memory seemed corrupt.
CPU: Final = "max,-smap,-smep,-xsave"
XEN: Final = (
    "console=com1 com1=115200,8n1 dom0_mem=1024M,max:1024M dom0_max_vcpus=2 loglvl=info"
    " guest_loglvl=warning bootscrub=0 spec-ctrl=no,eager-fpu xpti=off pv-l1tf=off watchdog=0"
    " cpuidle=0 noreboot=1 gnttab_max_frames=64"
)
LINUX: Final = (
    "console=hvc0 loglevel=4 xen_scrub_pages=0 mitigations=off tsc=reliable random.trust_cpu=on"
)
MEMORY: Final = 3072
ICOUNT: Final = "shift=1,sleep=off"
"""2 ns an instruction; an idle machine's clock goes straight to its next timer."""
SLOWNESS: Final = 10.0
"""How much longer the host waits for a machine that counts: its seconds are not the host's."""


class Machine:
    """The running machine."""

    def __init__(self, bed: Bed, *, counted: bool = False) -> None:
        """`counted`: its clock is the instructions it has run, so the host's load is not seen in
        it; one CPU runs at a time, and all takes longer."""
        self.bed = bed
        self._counted = counted
        self.slowness = SLOWNESS if counted else 1.0
        self.asked = 0.0
        """Seconds that all requests took, on the machine's own clock."""
        self._run = Path(tempfile.mkdtemp(prefix="xbxen"))
        self.console = bed.logs / "console.log"
        bed.logs.mkdir(exist_ok=True)
        with (bed.logs / "qemu.log").open("wb") as log:
            self._qemu = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._line = socket.socket(socket.AF_UNIX)
        self._agent = Agent(self._line, self.slowness)
        try:
            start = time.monotonic()
            self._connect()
            self._agent.answer(0, BOOT * self.slowness)
            self.booted = time.monotonic() - start
        except BaseException:
            self.stop()
            raise

    def _command(self) -> list[str]:
        bed, run = self.bed, self._run
        kernel = f"{bed.kernel} {LINUX},{bed.dom0_initramfs}"
        drive = "if=virtio,format=raw"
        thread, clock = ("single", ["-icount", ICOUNT]) if self._counted else ("multi", [])
        return [
            *("setpriv", "--pdeathsig", "KILL", "--"),
            shutil.which("qemu-system-x86_64", path=SYSTEM_PATH) or "qemu-system-x86_64",
            *("-M", "pc,usb=off", "-accel", f"tcg,thread={thread},tb-size=512", *clock),
            *("-cpu", CPU),
            *("-smp", "2", "-m", str(MEMORY), "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-display", "none", "-vga", "none", "-nic", "none"),
            *("-kernel", str(bed.xen), "-append", XEN, "-initrd", kernel),
            *("-chardev", f"file,id=con,path={self.console}", "-serial", "chardev:con"),
            *("-drive", f"file={bed.dom0_disk},{drive},snapshot=on,cache=unsafe,discard=unmap"),
            *("-drive", f"file={bed.product_disk},{drive},readonly=on"),
            # A driver domain's root is dom0's, before its first boot.
            *("-drive", f"file={bed.dom0_disk},{drive},snapshot=on,cache=unsafe,discard=unmap"),
            # One port, and no thread of QEMU's that looks for more.
            *("-device", "virtio-serial-pci,max_ports=2,ioeventfd=off"),
            *("-chardev", f"socket,id=agent,path={run}/agent,server=on,wait=off"),
            *("-device", "virtserialport,chardev=agent,name=agent"),
        ]

    def _connect(self) -> None:
        def connected() -> bool:
            if self._qemu.poll() is not None:
                raise RuntimeError(f"QEMU ended at once, see {self.bed.logs / 'qemu.log'}")
            try:
                self._line.connect(str(self._run / "agent"))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return True

        wait_until(connected, "QEMU's socket")

    def request(self, timeout: float, **request: Any) -> dict[str, Any]:
        """One request to dom0's agent and its answer; raises as `Agent.request`."""
        reply = self._agent.request(timeout, **request)
        self.asked += reply["took"]
        return reply

    def ask(self, timeout: float, **request: Any) -> tuple[int, str]:
        """One command: exit status and output; raises as `request`."""
        reply = self.request(timeout, **request)
        return reply["status"], reply["out"]

    def stop(self) -> None:
        """Power off, without asking."""
        self._agent.close()
        if self._qemu.poll() is None:
            self._qemu.send_signal(signal.SIGKILL)
        self._qemu.wait()
        shutil.rmtree(self._run, ignore_errors=True)
