# SPDX-License-Identifier: MIT
"""What a forked worker gets from the supervisor through the fork server, and how it begins.

multiprocess would send a pickled `Process`. To unpickle it, and to set up what a worker does not
need (a list of children, finalizers, signal handlers, standard input again), costs time at each
start and writes to pages that workers otherwise share. So `begin` replaces multiprocess's own first
step (`shared.forkserver`).

The supervisor names a worker's entry point as a string, so it never imports worker code. The string
is resolved here. Both the supervisor and the fork server use this module, so it imports nothing
from either.
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
"""The module that the fork server must import."""

TYPES_VARIABLE: Final = "XENBACKD_DEVICE_TYPES"
"""Environment variable of the fork server: the device types to load before it forks, each as
`name=place` (`shared.device_types.place_of`), separated by spaces."""

KEPT_VARIABLES: Final = frozenset({"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"})
"""Environment variables that a worker keeps, besides those whose names start with PYTHON."""

_READ: Final = 1 << 16

_pruned = False


def request(entry_point: str, argument: bytes) -> bytes:
    """Everything that is written to the child's pipe, which is closed after that."""
    return entry_point.encode() + b"\0" + argument


def prune_environment() -> None:
    """Remove what workers do not keep; called in the fork server, so that no worker has to."""
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
    """The child's whole life: read the request from `pipe`, carry it out, return the exit status.

    `given` holds two pipes of multiprocess, then what the supervisor passed on. Through these two
    pipes a worker could end the fork server, or make the resource tracker unlink any file as root.
    So they are closed, and so are the `unused` descriptors of the fork server. Its signal handlers
    stay: an interactive ^C goes to the whole foreground group and is ignored, because workers end
    when they are told to.
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
    except BaseException:  # noqa: BLE001 — the process ends with it
        # multiprocess would let the interpreter print it. The interpreter looks for the source in
        # files, and a jailed worker is killed for that.
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
