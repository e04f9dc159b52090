# SPDX-License-Identifier: MIT
"""How a process that the fork server forked begins: its request, what it leaves, its status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from multiprocess import forkserver

from shared import forked


@pytest.fixture
def entry_point(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[bytes], object]], str]:
    """Names a function as an entry point; the environment and multiprocess's state stay."""
    monkeypatch.setattr(forked, "_pruned", True)
    monkeypatch.setattr(forkserver._forkserver, "_inherited_fds", None)
    module = ModuleType("made_here")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def name(function: Callable[[bytes], object]) -> str:
        monkeypatch.setattr(module, "run", function, raising=False)
        return f"{module.__name__}:run"

    return name


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    """Four descriptors, closed by whoever is tested."""
    made = [fd for _ in range(2) for fd in os.pipe()]
    yield made
    for fd in made:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def begin(request: bytes, given: list[int], unused: list[int]) -> int:
    """As in the child: the request lies in a pipe whose other end is closed."""
    read, write = os.pipe()
    os.write(write, request)
    os.close(write)
    return forked.begin(read, given, unused, {})


def test_begin_calls_the_entry_point_with_what_was_asked(
    entry_point: Callable[[Callable[[bytes], object]], str], pipes: list[int]
) -> None:
    """All of it, zero bytes too; what was handed over is there, multiprocess's own is closed."""
    seen: list[tuple[bytes, list[int]]] = []
    handed = os.dup(0)

    def run(argument: bytes) -> None:
        seen.append((argument, forkserver.get_inherited_fds()))

    request = forked.request(entry_point(run), b"spec\0more")
    assert begin(request, [*pipes[:2], handed], pipes[2:]) == 0
    assert seen == [(b"spec\0more", [handed])]
    os.close(handed)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (None, 0),
        (3, 3),
        (SystemExit(), 0),
        (SystemExit(76), 76),
        (SystemExit("in words"), 1),
        (KeyError("nobody expected it"), 1),
    ],
)
def test_begin_says_how_it_ended(
    entry_point: Callable[[Callable[[bytes], object]], str],
    pipes: list[int],
    capsys: pytest.CaptureFixture[str],
    outcome: object,
    status: int,
) -> None:
    """As a process of its own would; an error is written, and does not reach the fork server."""

    def run(_: bytes) -> object:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert begin(forked.request(entry_point(run), b""), pipes[:2], pipes[2:]) == status
    assert ("nobody expected it" in capsys.readouterr().err) == isinstance(outcome, KeyError)


def test_begin_without_a_request_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, pipes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asked died before it had said for what."""
    monkeypatch.setattr(forked, "_pruned", True)
    assert begin(b"", pipes[:2], pipes[2:]) == 1
    assert "Empty module name" in capsys.readouterr().err


def test_prune_environment_leaves_what_workers_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where programs and languages are found, and Python's own; nothing of the supervisor's."""
    monkeypatch.setattr(forked, "_pruned", False)
    kept = {"PATH": "/bin", "PYTHONSAFEPATH": "1"}
    monkeypatch.setattr(os, "environ", {**kept, "NOTIFY_SOCKET": "@n", "HOME": "/root"})
    forked.prune_environment()
    assert os.environ == kept
