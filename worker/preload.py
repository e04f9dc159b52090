# SPDX-License-Identifier: MIT
"""Imported by the fork server before it forks: everything a worker needs, and nothing alive.

Workers share these pages as long as nobody writes to them. So what every worker would compute for
itself on first use (msgspec's type tables, log formats) is computed here. The garbage collector
keeps its marks in the objects and would write to all of them: everything that exists here is moved
out of its sight (gc.freeze). malloc is told to keep to one arena. The handlers of fatal signals are
installed here for all.

No thread is started and no ZeroMQ context made: neither survives a fork.
"""

from __future__ import annotations

import gc
import logging

import msgspec
from setproctitle import setproctitle

import shared.entry
import worker.main
import worker.trace
from config.block import BlockOptions
from shared import logs
from shared.device_id import DeviceId
from shared.hypervisor import select
from shared.messages import Beat, Hello, Init, Stop, decode_to_worker, encode
from shared.worker_spec import WorkerSpec
from worker.devices.block import BlockDevice
from worker.handlers import load
from worker.native._block import lib

__all__ = ["shared", "worker"]


def warm_up() -> None:
    """Use once what keeps something for the next use."""
    device = DeviceId("vbd", 1, 51712)
    spec = WorkerSpec(
        device=device,
        generation=1,
        backend_domid=0,
        handler="block",
        options={},
        endpoint="/",
        hypervisor="embedded",
        embedded_dir="/",
        supervisor_pid=1,
    )
    WorkerSpec.decode(spec.encode())
    msgspec.convert({}, BlockOptions)
    encode(Hello(device=device, generation=1, seq=0))
    encode(Beat(device=device, generation=1, seq=1, counters={"rd_req": 1}))
    for order in (
        Stop(device=device, generation=1, seq=0),
        Init(device=device, generation=1, seq=1, backend={"params": b"/"}),
    ):
        decode_to_worker(encode(order))
    record = logging.LogRecord("xenbackd", logging.INFO, __file__, 1, "%s", ("",), None)
    logs.TextFormatter().format(record)
    logs.JsonFormatter().format(record)
    logs.setup()
    assert load("block") is BlockDevice
    select.warm_up()


lib.blk_tune_malloc()
worker.trace.install()
# Finds the memory the kernel shows as the command line by walking it from `environ`, which a worker
# changes before it gives itself a title; so it is looked for here, where both still touch.
setproctitle("xenbackd: fork server")
warm_up()
gc.collect()
gc.freeze()
