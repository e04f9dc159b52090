# SPDX-License-Identifier: MIT
"""Rules of the configuration that no type can express: how values must fit together.

Each rule is a generator of (key path, text) over a converted configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from config.model import Config, DeviceTimeouts, JailConfig, RestartConfig

SOCKET_PATH_MAX: Final = 107
"""Bytes of a UNIX socket's path without the closing NUL (unix(7))."""

RESERVED_UIDS: Final = {
    65_534: "nobody, and every user that the kernel cannot name (/proc/sys/kernel/overflowuid)",
    65_535: "the 16-bit form of no user at all",
}

_LONGEST_SOCKET: Final = "/embedded/xenstored/socket"
"""The longest path of a socket below the runtime directory."""

Finding = tuple[str, str]


def broken_rules(config: Config) -> Iterator[Finding]:
    """Yield each broken rule: the key path of the value to change, and why."""
    yield from _paths(config)
    yield from _restart("restart", config.restart)
    for name, of_type in config.types.items():
        if of_type.restart is not None:
            yield from _restart(f"types.{name}.restart", of_type.restart)
        if of_type.timeouts is not None:
            yield from _timeouts(f"types.{name}.timeouts", of_type.timeouts)
        if of_type.jail is not None:
            yield from _jail(f"types.{name}.jail", of_type.jail)
    yield from _timeouts("timeouts", config.timeouts)
    yield from _jail("jail", config.jail)


def remarks(config: Config) -> Iterator[Finding]:
    """Yield what is allowed but weaker than the default: the key path, and what it means."""
    for name, of_type in config.types.items():
        jail = of_type.jail or config.jail
        path = "jail.mode" if of_type.jail is None else f"types.{name}.jail.mode"
        if not of_type.enabled or jail.mode == "enforce":
            continue
        if jail.mode == "log":
            yield path, f"log: {name}: a forbidden system call is logged and allowed"
        elif jail.unjailed_root:
            yield path, f"off: {name}: a guest that takes over its worker has all rights of serve"
        else:
            yield path, f"off: {name}: serve refuses that as root (unless unjailed_root: true)"


def _paths(config: Config) -> Iterator[Finding]:
    paths = {
        "runtime_dir": config.runtime_dir,
        "embedded_dir": config.embedded_dir,
        "xenstore.socket": config.xenstore.socket,
        "xenstore.device": config.xenstore.device,
    }
    for key, path in paths.items():
        if path is not None and not path.startswith("/"):
            yield key, f"expected an absolute path, got {path!r}"
    for key, directory, suffix in (
        ("runtime_dir", config.runtime_dir, _LONGEST_SOCKET),
        ("embedded_dir", config.embedded_dir or "", _LONGEST_SOCKET.removeprefix("/embedded")),
        ("xenstore.socket", config.xenstore.socket, ""),
    ):
        allowed = SOCKET_PATH_MAX - len(suffix)
        if len(directory.encode()) > allowed:
            yield key, f"longer than {allowed} bytes: too long for UNIX sockets"


def _restart(path: str, restart: RestartConfig) -> Iterator[Finding]:
    if restart.max < restart.initial:
        yield (
            f"{path}.max",
            f"must not be below {path}.initial ({restart.max:g} < {restart.initial:g})",
        )


def _jail(path: str, jail: JailConfig) -> Iterator[Finding]:
    first, last = jail.uid_base, jail.uid_base + jail.uids - 1
    # The bounds of both values keep `last` below 2^32 - 1, which is no user (setresuid(2)).
    for uid, who in RESERVED_UIDS.items():
        if first <= uid <= last:
            yield f"{path}.uid_base", f"{first}..{last} contains {uid}: {who}"


def _timeouts(path: str, timeouts: DeviceTimeouts) -> Iterator[Finding]:
    for key in ("hello", "hook"):
        if getattr(timeouts, key) == 0:
            yield f"{path}.{key}", "must be above 0: every worker would be too late"
    if timeouts.beat_dead < 2 * timeouts.beat:
        # One beat may be late at any time; with less than two, healthy workers would be killed.
        yield (
            f"{path}.beat_dead",
            f"must be at least twice {path}.beat ({timeouts.beat_dead:g} < 2 * {timeouts.beat:g})",
        )
    if timeouts.progress_stalled < timeouts.progress_warn:
        yield (
            f"{path}.progress_stalled",
            f"must not be below {path}.progress_warn"
            f" ({timeouts.progress_stalled:g} < {timeouts.progress_warn:g})",
        )
