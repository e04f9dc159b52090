# SPDX-License-Identifier: MIT
"""What the command line and the supervisor say to each other: JSON over a ZeroMQ DEALER/ROUTER.

One request, one reply, on `<runtime_dir>/control.sock`. Events are published as JSON on
`<runtime_dir>/events.sock` (XPUB, topic `event`); they are hints, the state comes by `Status`.
"""

from __future__ import annotations

import msgspec

from shared.device_id import DeviceId
from shared.device_types import Counter

CONTROL_SOCKET = "control.sock"
EVENTS_SOCKET = "events.sock"


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag=True):
    """Base of the requests."""


class Status(Request, frozen=True):
    """All devices and the supervisor itself; answered by `StatusReply`."""


class Show(Request, frozen=True):
    """One device with its counters and last events; answered by `ShowReply`."""

    device: str


class Events(Request, frozen=True):
    """The last `count` events; answered by `EventsReply`."""

    count: int = 50


class Restart(Request, frozen=True):
    """Replace the worker of a device (also ends back-off); refused in quarantine; `Done`."""

    device: str


class Clear(Request, frozen=True):
    """End quarantine (or any other hold) of a device and forget its failures; `Done`."""

    device: str


class RestartRolling(Request, frozen=True):
    """Replace the workers of types or devices one after the other, all if none are named; `Done`.

    The reply comes at the end, or after the first failure (`Refused`).
    """

    targets: list[str] = []
    parallel: int = 1


class Upgrade(Request, frozen=True):
    """Replace the supervisor in place by the code now installed; `Done` when that was checked."""


class Reload(Request, frozen=True):
    """Validate the configuration file and apply the difference; `Done`."""


class LogLevel(Request, frozen=True):
    """Change the log level of one device at run time; `Done`."""

    device: str
    level: str


AnyRequest = Status | Show | Events | Restart | RestartRolling | Clear | Reload | LogLevel | Upgrade


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `status`."""

    device: str
    backend: str
    frontend: str
    online: bool
    phase: str
    """Phase of the worker: absent, starting, idle, … serving, stopping."""
    hold: str
    """Why no worker is started: "" | backoff | budget | quarantined | config | guest | disabled;
    "unkillable": the last one does not die."""
    health: str = ""
    """How the worker does: "" | late | slow | stalled."""
    pid: int | None
    generation: int
    restarts: int
    failures: int
    last_failure: str = ""
    """Kind of the last of them: crash, oom, hang, killed, …"""
    error: str
    """The last error's text, "" when there is none since the last time it was Connected."""
    since: float
    """Seconds in the present backend state."""
    counters: dict[str, int] = {}
    jail: tuple[str, ...] = ()
    """What confines the worker, step by step, as it says; empty without a jail."""
    jail_left_out: tuple[str, ...] = ()
    """What this host does not give, and why."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the event stream."""

    seq: int
    time: str
    """Wall clock, ISO 8601 with zone: for people; nothing is decided by it."""
    kind: str
    device: str
    text: str


class Reply(msgspec.Struct, frozen=True, tag_field="reply", tag=True, kw_only=True):
    """Base of the replies."""


class StatusReply(Reply, frozen=True):
    version: str
    pid: int
    uptime: float
    xenstore: str
    """"connected" or why not."""
    hypervisor: str
    types: dict[str, str]
    """Enabled type to its handler."""
    devices: list[DeviceStatus]
    counters: dict[str, tuple[Counter, ...]] = {}
    """What the counters of an enabled type's devices mean."""
    upgrades: int = 0
    """How often the supervisor has been replaced in place."""
    resources: dict[str, int] = {}
    """Watches, open descriptors, … of the supervisor."""


class ShowReply(Reply, frozen=True):
    device: DeviceStatus
    backend_path: str
    frontend_path: str
    backend_nodes: dict[str, str]
    frontend_nodes: dict[str, str]
    events: list[Event]
    counters: tuple[Counter, ...] = ()
    """What the device's counters mean."""


class EventsReply(Reply, frozen=True):
    events: list[Event]


class Done(Reply, frozen=True):
    text: str


class Refused(Reply, frozen=True):
    """The request failed; `exit_code` is what the command line ends with."""

    text: str
    exit_code: int


AnyReply = StatusReply | ShowReply | EventsReply | Done | Refused

_encoder = msgspec.json.Encoder()
_requests: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_replies: msgspec.json.Decoder[AnyReply] = msgspec.json.Decoder(AnyReply)


def encode(message: Request | Reply | Event) -> bytes:
    """Encode either direction."""
    return _encoder.encode(message)


def decode_request(untrusted_data: bytes) -> AnyRequest:
    """Decode a request; raises msgspec.MsgspecError."""
    try:
        return _requests.decode(untrusted_data)
    except (UnicodeDecodeError, RecursionError) as error:
        # msgspec descends into arrays within arrays even to skip them.
        raise msgspec.DecodeError(str(error)) from error


def decode_reply(data: bytes) -> AnyReply:
    """Decode a reply; raises msgspec.MsgspecError."""
    return _replies.decode(data)


def device_of(request: Show | Restart | Clear | LogLevel) -> DeviceId:
    """The device a request names; raises ConfigError."""
    return DeviceId.parse(request.device)
