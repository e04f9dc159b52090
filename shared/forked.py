# SPDX-License-Identifier: MIT
"""What the supervisor writes for the child that the fork server forks, and how that begins.

multiprocess would send a pickled `Process`. To unpickle it, and to set up what a worker has no use
for (a list of children, finalizers, handlers of signals, standard input once more), is work at each
start, and writes to pages that workers otherwise share. So `begin` takes the place of
multiprocess's own first step (`shared.forkserver`).

The supervisor names a worker's entry point as a string, so that it never imports worker code; the
string is resolved here. This module is what the supervisor and the fork server have in common, so
it imports nothing of either.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from multiprocess import forkserver

PRELOAD: Final = "shared.forkserver"
"""Module that the fork server has to import."""

TYPES_VARIABLE: Final = "XENBACKD_DEVICE_TYPES"
"""Environment variable of the fork server: the device types to load before it forks, each as
`name=place` (`shared.device_types.place_of`), separated by spaces."""

KEPT_VARIABLES: Final = frozenset({"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"})
"""Environment variables a worker keeps, besides those whose name starts with PYTHON."""

_READ: Final = 1 << 16

_pruned = False


def request(entry_point: str, argument: bytes) -> bytes:
    """Everything that is written to the child's pipe, which is closed then."""
    return entry_point.encode() + b"\0" + argument


def prune_environment() -> None:
    """Leave of the environment what workers keep; in the fork server, so that none has to."""
    global _pruned
    if _pruned:
        return
    for name in list(os.environ):
        if name not in KEPT_VARIABLES and not name.startswith("PYTHON"):
            del os.environ[name]
    _pruned = True


def begin(
    pipe: int, given: Sequence[int], unused: Sequence[int], _handlers: Mapping[int, object]
) -> int:
    """The child's whole life: read the request from `pipe`, carry it out, say the exit status.

    `given` are two pipes of multiprocess's, then what the supervisor handed over. A worker that
    could write to the two would end the fork server, or have the resource tracker unlink, as root,
    what it is told to; they are closed, as are `unused` ones of the fork server's. Its handlers of
    signals stay: an interactive ^C goes to the whole foreground group and is ignored, for workers
    end when they are told to.
    """
    signal.set_wakeup_fd(-1)
    for descriptor in (*given[:2], *unused):
        os.close(descriptor)
    forkserver._forkserver._inherited_fds = list(given[2:])
    data = b"".join(iter(lambda: os.read(pipe, _READ), b""))
    os.close(pipe)
    entry_point, _, argument = data.partition(b"\0")
    try:
        return _run(entry_point.decode(), argument)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 — whatever it is
        # multiprocess would let the interpreter write it, which looks for the source in files: a
        # jailed worker is killed for that.
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _run(entry_point: str, argument: bytes) -> int:
    prune_environment()
    module_name, _, function_name = entry_point.partition(":")
    module = sys.modules.get(module_name) or importlib.import_module(module_name)
    result = cast("Callable[[bytes], object]", getattr(module, function_name))(argument)
    return result if isinstance(result, int) else 0
