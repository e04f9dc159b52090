# SPDX-License-Identifier: MIT
"""What a worker writes of errors that nobody can catch; its stacks need a process that dies."""

from __future__ import annotations

import logging
import sys

import pytest

from worker import trace


class Careless:
    """Fails when it goes."""

    def __del__(self) -> None:
        raise KeyError("nothing")


def test_log_unraisable_error_in_a_destructor_is_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says where, and has the traceback; Python's own hook, which opens files, is not asked."""
    monkeypatch.setattr(sys, "unraisablehook", trace.log_unraisable)
    monkeypatch.setattr(logging.getLogger("xenbackd"), "propagate", True)

    Careless()

    (record,) = caplog.records
    assert "Careless.__del__" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
