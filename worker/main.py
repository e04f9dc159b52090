# SPDX-License-Identifier: MIT
"""Entry point of a worker: from the fork to its exit status.

Exit status: 0 after `Stop` or when the supervisor is gone for good; otherwise that of the error's
class (shared.errors), and 70 for anything nobody expected, with the traceback in the log.

A jailed worker is confined in three places (worker.jail.plan): first thing here, between opening
the handles and their first use, and at the end of the first `Init` (worker.session).

Nothing is opened before the fork: the kernel ties event channels and mappings to the process that
opened the device, and a ZeroMQ context does not survive a fork.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from contextlib import closing

import msgspec
from multiprocess import forkserver
from setproctitle import setproctitle

from shared import logs, scheduling
from shared.commands import Command
from shared.device_types import DeviceType, resolve
from shared.device_types import load as find
from shared.errors import BackendBug, BlamedError, ConfigError
from shared.hypervisor.interface import Handles
from shared.hypervisor.select import open_hypervisor
from shared.logs import DeviceLogger
from shared.messages import TEXT_MAX, Failed, Hello, Nodes
from shared.worker_spec import WorkerSpec
from worker.bus import Bus
from worker.device import Device, DeviceContext
from worker.jail.jail import Jail
from worker.journal import open_journal
from worker.session import Session


def run(spec: bytes) -> None:
    """Be the worker that the encoded `WorkerSpec` describes; ends the process."""
    trouble = scheduling.stay_here()
    decoded = WorkerSpec.decode(spec)
    setproctitle(f"xenbackd: {decoded.device}")
    logs.setup(decoded.log_level, decoded.log_format)
    log = DeviceLogger(decoded.device, decoded.log_level)
    if trouble:
        log.debug("scheduler: %s; starting on all CPUs", trouble)
    try:
        _work(decoded, log)
    except BlamedError as error:
        log.log(error.log_level, "worker ends: %s", error)
        sys.exit(error.exit_code)
    except Exception:
        log.exception("worker ends: an error nobody expected")
        sys.exit(BackendBug.exit_code)


def _work(spec: WorkerSpec, log: DeviceLogger) -> None:
    try:
        type_ = find(spec.handler, spec.manifest) if spec.manifest else resolve(spec.handler)
        device_class = load(type_)
        options = _options(spec, type_)
        jail = _be_born(spec, type_, device_class, options)
    except BlamedError as error:
        with closing(Bus(spec)) as bus:
            _not_alive(bus, error)
        raise
    with closing(Bus(spec)) as bus:
        try:
            # What comes after this is done by only one worker of the device.
            journal = open_journal(spec.journal, spec.device) if spec.journal else -1
            hypervisor = open_hypervisor(spec.hypervisor, spec.embedded_dir, spec.backend_domid)
            handles = hypervisor.open_handles(grants=type_.needs_grants)
        except BlamedError as error:
            _not_alive(bus, error)
            raise
        with closing(handles):
            commands = type_.commands
            live(spec, log, bus, device_class, options, handles, journal, jail, commands)


def load(type_: DeviceType) -> type[Device]:
    """Import a type's class.

    Raises:
        ConfigError: it cannot be imported, or is no `Device`.
    """
    module, _, attribute = type_.backend.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        # Code of somebody else's may raise anything at import; to the operator it is one thing.
        raise ConfigError(f"device type {type_.name!r}: {type_.backend}: {error!r}") from error
    if not (isinstance(found, type) and issubclass(found, Device)):
        raise ConfigError(f"device type {type_.name!r}: {type_.backend}: no worker.device.Device")
    return found


def _be_born(
    spec: WorkerSpec, type_: DeviceType, device_class: type[Device], options: msgspec.Struct
) -> Jail | None:
    """The jail's first half; None without a jail."""
    if spec.jail is None:
        return None
    # The supervisor's lock on the device; without the fork server there is none.
    descriptors = tuple(forkserver.get_inherited_fds() or ())
    max_grants = device_class.max_grants(options) if type_.needs_grants else 0
    jail = Jail(spec, spec.jail, max_grants=max_grants, descriptors=descriptors)
    jail.birth()
    return jail


def _not_alive(bus: Bus, error: BlamedError) -> None:
    bus.send(Failed, stage="alloc", blame=error.blame, text=str(error)[:TEXT_MAX])


def live(
    spec: WorkerSpec,
    log: DeviceLogger,
    bus: Bus,
    device_class: type[Device],
    options: msgspec.Struct,
    handles: Handles,
    journal: int = -1,
    jail: Jail | None = None,
    commands: Iterable[Command] = (),
) -> None:
    """The life of the device with its handles open: `alloc` (S7), Hello, orders, `free`."""

    def publish(nodes: Nodes, rewrite_state: bool) -> None:
        session.publish(nodes, rewrite_state)  # it exists by the time a hook can ask

    context = DeviceContext(spec.device, options, handles, log, publish, spec.drain, journal)
    device = device_class(context)
    session = Session(spec, device, bus, jail, commands)
    try:
        if jail is not None:
            jail.confine(handles)
        device.alloc()
    except BlamedError as error:
        _not_alive(bus, error)
        raise
    try:
        bus.send(Hello)
        session.run()
    finally:
        device.free()


def _options(spec: WorkerSpec, type_: DeviceType) -> msgspec.Struct:
    try:
        return msgspec.convert(spec.options, type_.options)
    except msgspec.ValidationError as error:
        raise ConfigError(f"options: {spec.device}: {error}") from error
