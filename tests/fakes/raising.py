# SPDX-License-Identifier: MIT
"""Errors of every kind that Python shows in its own way, one function each.

In a file of their own, because it is the lines of a file that Python looks for.
"""

from __future__ import annotations

import ast
import enum
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Final

from shared import logs


class Slotted:
    """Has one attribute."""

    __slots__ = ("colour",)


class Few(enum.Enum):
    """Has one member."""

    ONE = 1


class UnprintableError(Exception):
    """Fails again when it is shown."""

    def __str__(self) -> str:
        raise ValueError("no text")


def call(function: Any, *arguments: Any, **named: Any) -> Any:
    """Call what a type checker knows to fail."""
    return function(*arguments, **named)


def several_lines() -> None:
    """A call over several lines, of which each alone is no expression."""
    call(
        int,
        "no number",
    )


def cause() -> None:
    """An error because of another one."""
    try:
        several_lines()
    except ValueError as error:
        raise RuntimeError("for a reason") from error


def group() -> None:
    """Several errors at once, nested."""
    raise ExceptionGroup("many", [ValueError("one"), ExceptionGroup("inner", [KeyError("two")])])


def note() -> None:
    """An error with a note."""
    error = ValueError("noted")
    error.add_note("a note on it")
    raise error


def recursion() -> None:
    """Python shows that the line was repeated."""
    recursion()


def import_module() -> None:
    """A module that was not imported in time."""
    __import__("colorsys")


def import_name() -> None:
    """A name that a module of ours does not have; Python looks for one like it."""
    from shared.logs import setupp  # type: ignore[attr-defined] # noqa: F401


def in_thread() -> None:
    """An error ends a thread, then another one is raised."""
    thread = threading.Thread(target=several_lines)
    thread.start()
    thread.join()
    raise ValueError("after the thread")


def written_by_python() -> None:
    """The hook for errors nobody caught is called, then another one is raised."""
    try:
        several_lines()
    except ValueError:
        sys.excepthook(*sys.exc_info())
        traceback.print_exc()
    raise ValueError("after the hook")


def wrong_log_line() -> None:
    """logging itself writes that a line could not be made, then an error is raised."""
    logs.DeviceLogger(DEVICE).info("%d", "no number")
    raise ValueError("after the line")


def warning() -> None:
    """A warning with its line, then an error."""
    warnings.warn("look out", ResourceWarning, stacklevel=1)
    raise ValueError("after the warning")


DEVICE: Final[Any] = "a device"

KINDS: Final[dict[str, tuple[Callable[[], object], str]]] = {
    "several lines": (several_lines, "ValueError: invalid literal"),
    "cause": (cause, "RuntimeError: for a reason"),
    "group": (group, "ExceptionGroup: many (2 sub-exceptions)"),
    "note": (note, "a note on it"),
    "recursion": (recursion, "RecursionError: maximum recursion depth exceeded"),
    "key": (lambda: call(dict[str, int]().__getitem__, "none"), "KeyError: 'none'"),
    "attribute": (lambda: call(getattr, Slotted(), "color"), "'Slotted' object has no attribute"),
    "attribute of a module": (lambda: call(getattr, logs, "setupp"), "has no attribute 'setupp'"),
    "attribute of a library": (lambda: call(getattr, os, "pathh"), "has no attribute 'pathh'"),
    "name": (lambda: eval("threadin"), "NameError: name 'threadin' is not defined"),
    "import of a module": (import_module, "ModuleNotFoundError: No module named 'colorsys'"),
    "import of a name": (import_name, "ImportError: cannot import name 'setupp'"),
    "syntax": (lambda: eval("1 +"), "SyntaxError: invalid syntax"),
    "syntax of a literal": (lambda: ast.literal_eval("1 + +"), "SyntaxError: invalid syntax"),
    "codec": (lambda: "".encode("cp037"), "LookupError: unknown encoding"),
    "bytes": (lambda: b"\xff".decode(), "UnicodeDecodeError: 'utf-8' codec"),
    "member": (lambda: call(Few, 7), "ValueError: 7 is not a valid Few"),
    "argument": (lambda: call(note, wrong=1), "unexpected keyword argument 'wrong'"),
    "file": (lambda: call(raises, FileNotFoundError(2, "No such", "/x")), "No such: '/x'"),
    "unprintable": (lambda: call(raises, UnprintableError()), "UnprintableError: <exception str"),
    "in a thread": (in_thread, "ValueError: after the thread"),
    "written by Python": (written_by_python, "ValueError: after the hook"),
    "wrong log line": (wrong_log_line, "ValueError: after the line"),
    "warning": (warning, "ValueError: after the warning"),
}
"""Each with what its traceback says."""


def raises(error: BaseException) -> None:
    """Raise it."""
    raise error


def log_all(log: logs.DeviceLogger, when: str, names: Iterable[str] = KINDS) -> None:
    """Log each as an error that nobody expected, then that there is still somebody."""
    for name in names:
        try:
            KINDS[name][0]()
        except Exception:
            log.exception("%s: %s", when, name)
        log.info("%s: lives after: %s", when, name)
