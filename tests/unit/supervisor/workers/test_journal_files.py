# SPDX-License-Identifier: MIT
"""The journal as a file: a lock that one worker has, and that nobody takes away from under it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.device_id import DeviceId
from shared.errors import HostError
from supervisor.workers.journals import Journals
from worker.journal import open_journal

TOY = DeviceId("toy", 3, 51712)


@pytest.fixture
def journals(tmp_path: Path) -> Journals:
    """A directory for journals."""
    made = Journals(tmp_path)
    made.open()
    return made


@pytest.fixture
def held(journals: Journals) -> Iterator[int]:
    """The journal of a worker that lives."""
    descriptor = open_journal(str(journals.path(TOY)), TOY)
    yield descriptor
    os.close(descriptor)


def test_journal_file_is_named_after_its_device(journals: Journals) -> None:
    """One name per device, which leads back to it."""
    assert journals.path(TOY).name == "toy-3-51712"


@pytest.mark.usefixtures("held")
def test_journal_file_of_a_living_worker_is_refused_to_another(journals: Journals) -> None:
    """The second one is told so, and the file is as it was."""
    with pytest.raises(HostError, match=r"^journal: toy/3/51712: another worker has it"):
        open_journal(str(journals.path(TOY)), TOY)


@pytest.mark.usefixtures("held")
def test_journal_file_of_a_living_worker_is_not_removed(journals: Journals) -> None:
    """Another file under its name would be a second lock."""
    journals.remove(TOY)

    assert journals.path(TOY).exists()


def test_journal_file_of_a_device_that_is_gone_is_removed(journals: Journals) -> None:
    """Once its worker is dead; a second time is no error."""
    os.close(open_journal(str(journals.path(TOY)), TOY))
    journals.remove(TOY)
    journals.remove(TOY)

    assert not journals.path(TOY).exists()


def test_journal_file_removed_while_it_is_opened_is_not_taken_for_the_lock(
    journals: Journals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between open and lock the supervisor removed it: the worker locks the next one."""
    path = journals.path(TOY)
    real, calls = os.open, []

    def open_then_lose(*arguments: object, **options: object) -> int:
        descriptor: int = real(*arguments, **options)  # type: ignore[arg-type]
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_then_lose)
    descriptor = open_journal(str(path), TOY)
    try:
        assert os.fstat(descriptor).st_ino == path.stat().st_ino
    finally:
        os.close(descriptor)


def test_journal_file_link_is_not_followed(journals: Journals, tmp_path: Path) -> None:
    """Nobody leads a worker to another file."""
    journals.path(TOY).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(HostError, match=r"^journal: "):
        open_journal(str(journals.path(TOY)), TOY)
    assert not (tmp_path / "elsewhere").exists()


def test_journal_file_that_cannot_be_removed_is_left_and_said(
    journals: Journals, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What stands in its place is not ours; nobody else pays for it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    journals.path(TOY).symlink_to(elsewhere)

    journals.remove(TOY)

    assert elsewhere.exists()
    assert "left behind" in caplog.text
