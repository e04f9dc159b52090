# SPDX-License-Identifier: MIT
"""Imported by the fork server before it forks: everything a worker needs, and nothing alive.

Workers share these pages as long as nobody writes to them. So what every worker would compute for
itself on first use (msgspec's type tables, log formats) is computed here. The garbage collector
keeps its marks in the objects and would write to all of them: everything that exists here is moved
out of its sight (gc.freeze). malloc is told to keep to one arena. The handlers of fatal signals are
installed here for all. Python writes to all that it uses, if only to count references, so what a
worker does until it serves does without what uses much: pathlib, logging, enumerations (each copied
a quarter of a MiB). `make bench-devices` has what is left.

A jailed worker sees no files: what it does not find in memory is missing there. So what Python
and the C library would look for later is used here once: codecs, the time zone, the formatting of
a traceback. The fork server itself is not jailed; it is root where the supervisor is, and nothing
that a guest wrote ever reaches it.

No thread is left and no ZeroMQ context made: neither survives a fork.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import logging
import os
import time
import traceback
from collections.abc import Sequence
from typing import Final

import msgspec
from setproctitle import setproctitle

import worker.main
import worker.trace
from shared import forked, logs
from shared.device_id import DeviceId
from shared.device_types import load
from shared.errors import ConfigError
from shared.hypervisor import select
from shared.messages import Beat, Hello, Init, Jailed, Stop, decode_to_worker, encode
from shared.worker_spec import JailSpec, WorkerSpec
from worker.jail import allowed, filters, network
from worker.jail.jail import Jail
from worker.native._process import lib

__all__ = ["worker"]

_log: Final = logging.getLogger("xenbackd.preload")


def warm_up() -> None:
    """Use once what keeps something for the next use."""
    device = DeviceId("any", 1, 0)
    spec = WorkerSpec(
        device=device,
        generation=1,
        backend_domid=0,
        handler="",
        options={},
        endpoint="/",
        hypervisor="embedded",
        embedded_dir="/",
        supervisor_pid=1,
    )
    WorkerSpec.decode(spec.encode())
    encode(Hello(device=device, generation=1, seq=0))
    encode(Beat(device=device, generation=1, seq=1, counters={"notifies": 1}))
    for order in (
        Stop(device=device, generation=1, seq=0),
        Init(device=device, generation=1, seq=1, backend={"online": b"1"}),
    ):
        decode_to_worker(encode(order))
    record = logging.LogRecord("xenbackd", logging.INFO, __file__, 1, "%s", ("",), None)
    logs.TextFormatter().format(record)
    logs.JsonFormatter().format(record)
    logs.setup()
    _prime_python()
    jail = JailSpec(mode="enforce", uid=1, keep="/", open_files=64, pids=64)
    plan = Jail(spec, jail, max_grants=0, descriptors=()).plan  # not carried out
    steps = tuple(step.describe() for step in plan)
    encode(Jailed(device=device, generation=1, seq=2, steps=steps, left_out=()))
    select.warm_up()


def load_types(types: Sequence[str]) -> None:
    """Load the device types that are to be served, with their options' model and filters.

    What fails here fails in its worker too, which says so to the supervisor. It must not end this
    process, in which the workers of all other types begin.
    """
    for name, _, place in (one.partition("=") for one in types):
        try:
            _load_type(name, place)
        except Exception as error:  # noqa: BLE001 - a type may be foreign code
            _log.warning("preload: type %s: %s: %s", name, type(error).__name__, error)


def _load_type(name: str, place: str) -> None:
    type_ = load(name, place)
    worker.main.load(type_)
    with contextlib.suppress(msgspec.ValidationError):  # a type may demand options
        msgspec.convert({}, type_.options)
    with contextlib.suppress(ConfigError):  # on a machine without lists the worker says so
        for hypervisor in allowed.HYPERVISORS:
            filters.filter_for(name, hypervisor, "enforce")


def _prime_python() -> None:
    """What a worker may use for the first time when it sees no files any more."""
    for name in ("ascii", "latin-1", "utf-8", "utf-16", "utf-32", "idna", "unicode_escape"):
        codecs.lookup(name)
    time.localtime()
    time.strftime("%Z")
    for wrong in ("import _no_such_module", "_no_such_name", "''._no_such_attribute", "{}['']"):
        try:
            exec(wrong)  # noqa: S102 — literals above
        except Exception:  # noqa: BLE001 — each of its own class, which is what they are for
            traceback.format_exc()


lib.heap_keep_small()
worker.trace.install()
# Finds the memory the kernel shows as the command line by walking it from `environ`, which a worker
# changes before it gives itself a title; so it is looked for here, where both still touch.
setproctitle("xenbackd: fork server")
# Early: what workers use of them then lies together, on fewer pages.
load_types(os.environ.get(forked.TYPES_VARIABLE, "").split())
forked.prune_environment()
warm_up()
network.prepare()
gc.collect()
gc.freeze()
