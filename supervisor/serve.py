# SPDX-License-Identifier: MIT
"""The process of `xenbackd serve`: what surrounds a supervisor's loop.

Descriptor limit, garbage collector, the embedded hypervisor if one was asked for, exit status.
After an upgrade, what the image before this one left is taken over here.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import subprocess
import types
from pathlib import Path
from typing import Final

from config.model import Config
from shared import logs, scheduling
from shared.errors import BackendBug, BlamedError
from supervisor.daemon import Supervisor
from supervisor.operator.reload import Override
from supervisor.places import embedded_dir
from supervisor.predecessors import end_child
from supervisor.upgrade import Handover, own_command, take

_log = logging.getLogger("xenbackd.supervisor")

GC_ALLOCATIONS: Final = 20_000
"""Containers that were made and not freed since the garbage collector last ran."""

EMBEDDED_STOP: Final = 10.0
"""Seconds that the embedded hypervisor has to end."""


def serve(config: Config, config_path: Path, override: Override, embedded: bool) -> int:
    """Be the supervisor until a signal ends it; returns the exit status.

    `config` and `override` as for `Supervisor`. With `embedded` the embedded hypervisor is started
    before and stopped after.
    """
    logs.setup(config.log.level, config.log.format)
    _raise_descriptor_limit()
    before = signal.signal(signal.SIGTERM, _interrupt)
    _calm_collector()
    handover = take()
    host: subprocess.Popen[bytes] | None = None
    inherited = handover.embedded if handover is not None else None
    try:
        if embedded and inherited is None:
            from embedded.launch import start_embedded

            host = start_embedded(embedded_dir(config))
        embedded_pid = inherited if host is None else host.pid
        _give_way()
        asyncio.run(_run(config, config_path, override, handover, embedded_pid))
    except BlamedError as error:
        _log.log(error.log_level, "%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception:  # noqa: BLE001 - the exit status is what the caller has
        _log.critical("bug in the supervisor; please report it", exc_info=True)
        return BackendBug.exit_code
    finally:
        if host is not None:
            _stop_embedded(host)
        elif inherited is not None:
            end_child(inherited, EMBEDDED_STOP)
        signal.signal(signal.SIGTERM, before)
    return 0


async def _run(
    config: Config,
    config_path: Path,
    override: Override,
    handover: Handover | None,
    embedded_pid: int | None,
) -> None:
    supervisor = Supervisor(
        config,
        config_path,
        override=override,
        handover=handover,
        command=own_command(),
        embedded_pid=embedded_pid,
    )
    await supervisor.run()


def _give_way() -> None:
    """Let workers that serve a guest go first. The fork server and its children inherit this; a
    worker takes it back when it serves."""
    trouble = scheduling.lengthen_slice()
    if trouble:
        _log.debug("scheduler: %s; the usual slice stays", trouble)


def _interrupt(_number: int, _frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


def _stop_embedded(host: subprocess.Popen[bytes]) -> None:
    host.terminate()
    try:
        host.wait(EMBEDDED_STOP)
    except subprocess.TimeoutExpired:
        host.kill()
        host.wait()


def _calm_collector() -> None:
    """What is loaded stays, and nearly all that a device adds stays as long as the device.

    With its usual thresholds the collector walks over all of it for every few new devices.
    """
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)


def _raise_descriptor_limit() -> None:
    """Three descriptors per worker: the usual soft limit of 1024 is reached at 340 devices."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
