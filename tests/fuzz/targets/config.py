# SPDX-License-Identifier: MIT
"""The configuration loader: any text is a configuration, or an error that names places in it."""

from __future__ import annotations

from config.errors import ConfigFileError
from config.loader import loads
from config.model import Config
from config.rules import broken_rules


def check(data: bytes) -> None:
    """One file; input that is no UTF-8 is refused before it comes here."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return
    try:
        config = loads(text, "file")
    except ConfigFileError as error:
        _check_error(error, text)
        return
    assert isinstance(config, Config)
    assert list(broken_rules(config)) == []


def _check_error(error: ConfigFileError, text: str) -> None:
    # YAML ends a line at each of these; the parser may name the place behind the last one.
    lines = len(text.splitlines()) + 1
    assert error.problems
    assert str(error)
    for problem in error.problems:
        assert 0 <= problem.line <= lines, problem
        assert problem.text, problem
