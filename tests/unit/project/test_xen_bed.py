# SPDX-License-Identifier: MIT
"""The bed for real Xen, as far as it needs no Xen: what it says when it cannot be had."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.xen import __main__ as test_xen
from tests.xen.bed import image, packages
from tests.xen.bed.agent import Agent, SilenceError
from tests.xen.bed.cpio import Initramfs


def test_need_tools_qemu_missing_and_no_root_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What only root could install is asked for by its Debian name."""
    monkeypatch.setattr(packages, "SYSTEM_PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(packages.Unavailable, match="qemu-system-x86"):
        packages.need_tools(tmp_path / "log")


def test_main_bed_unavailable_says_so_in_one_line_and_exits_77(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Skipped is neither passed nor failed."""

    def refuse(_log: Path) -> None:
        raise packages.Unavailable("missing on this machine: qemu-system-x86")

    monkeypatch.setenv("XENBACKD_XEN_BED", str(tmp_path / "bed"))
    monkeypatch.setattr(image, "need_tools", refuse)
    monkeypatch.setattr(image, "PYTHON", sys.version_info[:2])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert test_xen.main() == 77
    assert capsys.readouterr().out.splitlines() == [
        "test-xen: skipped: missing on this machine: qemu-system-x86"
    ]


def test_bed_in_use_is_locked_for_others(tmp_path: Path) -> None:
    """Who replaces images while a machine runs on them breaks it."""
    bed = image.Bed(tmp_path / "bed")
    with bed.mine(), (bed.directory / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (bed.directory / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_agent_answer_too_late_is_dropped() -> None:
    """After a request that was given up, the next one gets its own answer."""
    ours, theirs = socket.socketpair()
    agent = Agent(ours)
    with theirs:
        with pytest.raises(SilenceError):
            agent.answer(1, timeout=0)
        for number in (0, 1):
            theirs.sendall(json.dumps({"id": number, "out": f"{number}"}).encode() + b"\n")
        assert agent.request(5, run="true")["out"] == "1"
    agent.close()


def test_initramfs_file_in_a_directory_directory_comes_first_and_all_is_aligned() -> None:
    """The kernel unpacks in order and makes no directory by itself."""
    out = io.BytesIO()
    with Initramfs(out) as archive:
        archive.file("lib/deep/file", b"abc", 0o644)
    data, names, at = out.getvalue(), [], 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, length = fields[6], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        if name == "TRAILER!!!":
            break
        names.append(name)
        start = at + (110 + length + 3) // 4 * 4
        if name == "lib/deep/file":
            assert data[start : start + size] == b"abc"
        at = start + (size + 3) // 4 * 4
    assert names[-3:] == ["lib", "lib/deep", "lib/deep/file"]
