# SPDX-License-Identifier: MIT
"""What a worker writes of errors that nobody caught; its stacks need a process that dies."""

from __future__ import annotations

import logging
import sys
import threading
from typing import NoReturn

import pytest

from worker import trace


class Careless:
    """Fails when it goes."""

    def __del__(self) -> None:
        raise KeyError("nothing")


def use_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker has them. Called by the test: pytest installs its own hooks after fixtures."""
    monkeypatch.setattr(sys, "unraisablehook", trace.log_unraisable)
    monkeypatch.setattr(sys, "excepthook", trace.log_uncaught)
    monkeypatch.setattr(threading, "excepthook", trace.log_end_of_thread)
    monkeypatch.setattr(logging.getLogger("xenbackd"), "propagate", True)


def end_thread(error: BaseException) -> None:
    """Let an error end a thread."""

    def fail() -> NoReturn:
        raise error

    thread = threading.Thread(target=fail, name="helper")
    thread.start()
    thread.join()


def test_log_unraisable_error_in_a_destructor_is_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says where, and has the traceback; Python's own hook, which opens files, is not asked."""
    use_hooks(monkeypatch)
    Careless()

    (record,) = caplog.records
    assert "Careless.__del__" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


def test_log_uncaught_error_is_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What would end the process has its traceback in the log."""
    use_hooks(monkeypatch)
    try:
        raise KeyError("nothing")
    except KeyError:
        sys.excepthook(*sys.exc_info())

    (record,) = caplog.records
    assert "nobody caught" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


def test_log_error_that_ends_a_thread_names_the_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Python's own hook for threads opens files too."""
    use_hooks(monkeypatch)
    error = KeyError("nothing")
    end_thread(error)

    (record,) = caplog.records
    assert "thread helper" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_log_thread_that_exits_on_purpose_is_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SystemExit in a thread ends it and nothing else."""
    use_hooks(monkeypatch)
    end_thread(SystemExit(1))

    assert not caplog.records
