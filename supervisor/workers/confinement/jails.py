# SPDX-License-Identifier: MIT
"""What each worker is to be confined by, and what the supervisor must prepare for that.

Makes the `JailSpec` of a worker's birth from the configuration:

- the mode;
- a user id of its own (`supervisor.workers.confinement.user_ids`), unless the supervisor is not
  root: then the worker keeps the supervisor's;
- a control group where the host gives us some (`supervisor.workers.confinement.cgroups`);
- the directory of the socket (`supervisor.workers.confinement.door`), which is all that the worker
  keeps of the file system.

What is given for a device is its own until its worker is known dead.

Does not confine anything: the worker does that itself (worker/jail).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from config.model import Config, JailConfig
from shared.device_id import DeviceId
from shared.errors import ConfigError, HostError
from shared.worker_spec import JailSpec
from supervisor.workers.confinement.cgroups import Cgroups
from supervisor.workers.confinement.user_ids import UserIds

_log = logging.getLogger("xenbackd.jails")


class KeptJail(NamedTuple):
    """What a living worker of an earlier supervisor has."""

    uid: int
    """0: it has none of its own."""
    cgroup: str
    """"": it has none of its own."""


class Jails:
    """The jails of one supervisor's workers."""

    def __init__(self, keep: Path, user_ids: UserIds | None, cgroups: Cgroups | None) -> None:
        """`keep`: directory of the workers' socket. Without `user_ids` they keep ours."""
        self._keep = keep
        self._user_ids = user_ids
        self._cgroups = cgroups

    def open(self, kept: Mapping[DeviceId, KeptJail]) -> None:
        """Before any worker is started: what those of an earlier supervisor have stays theirs."""
        if self._user_ids is not None:
            self._user_ids.open({one: jail.uid for one, jail in kept.items() if jail.uid})
        if self._cgroups is not None:
            self._cgroups.open(
                {one: Path(jail.cgroup) for one, jail in kept.items() if jail.cgroup}
            )
            if self._cgroups.missing:
                _log.warning("jail: no control groups for workers: %s", self._cgroups.missing)
            else:
                names = ", ".join(self._cgroups.controllers) or "none"
                _log.info("jail: a control group for each worker, with controllers: %s", names)

    def close(self) -> None:
        """What living workers have stays theirs."""
        if self._cgroups is not None:
            self._cgroups.close()

    def prepare(self, device: DeviceId, generation: int, config: JailConfig) -> JailSpec | None:
        """Prepare everything for the next worker of a device; None: it gets no jail.

        Raises:
            HostError: no user id is left, or no control group can be made; nothing is kept.
        """
        if config.mode == "off":
            return None
        try:
            uid = 0 if self._user_ids is None else self._user_ids.take(device, config)
            leaf = None if self._cgroups is None else self._cgroups.make(device, generation, config)
        except HostError:
            self.release(device)
            raise
        return JailSpec(
            mode=config.mode,
            uid=uid,
            keep=str(self._keep),
            open_files=config.open_files,
            pids=config.pids,
            memory=config.memory,
            cgroup="" if leaf is None else str(leaf),
        )

    def uid_of(self, device: DeviceId) -> int:
        """User id that a device's worker has or will have; 0 if it has none of its own."""
        return 0 if self._user_ids is None else self._user_ids.of(device)

    def release(self, device: DeviceId) -> None:
        """The device's worker is known dead. Idempotent."""
        if self._user_ids is not None:
            self._user_ids.release(device)
        if self._cgroups is not None:
            self._cgroups.release(device)

    def cgroup_of(self, device: DeviceId) -> Path | None:
        """The control group a device's worker has of its own."""
        return None if self._cgroups is None else self._cgroups.of(device)


def make_jails(runtime_dir: Path, keep: Path) -> Jails:
    """What this process can give its workers."""
    user_ids = UserIds() if os.geteuid() == 0 else None
    return Jails(keep, user_ids, Cgroups(runtime_dir))


def jail_of(config: Config, type_: str) -> JailConfig:
    """The jail of a type: its own section, or the general one."""
    own = config.types[type_].jail if type_ in config.types else None
    return own or config.jail


def check_unjailed(config: Config, uid: int | None = None) -> None:
    """Refuse to run workers as root without a jail, unless the file says explicitly that it may be.

    `uid` is the user that the workers would run as; None: ours.

    Raises:
        ConfigError: an enabled type would be served like that.
    """
    if (os.geteuid() if uid is None else uid) != 0:
        return
    for type_, one in config.types.items():
        jail = jail_of(config, type_)
        if one.enabled and jail.mode == "off" and not jail.unjailed_root:
            raise ConfigError(
                f"jail: type {type_}: mode is off: a guest that takes over its worker would be"
                " root; if that is meant: jail.unjailed_root: true"
            )


def warn_of_weak(config: Config) -> None:
    """Log which types are served with less than a jail."""
    for type_, one in config.types.items():
        mode = jail_of(config, type_).mode
        if one.enabled and mode == "log":
            _log.warning(
                "jail: type %s: mode is log: what its workers may not do is logged and done", type_
            )
        elif one.enabled and mode == "off":
            _log.warning("jail: type %s: mode is off: its workers may do what we may", type_)
