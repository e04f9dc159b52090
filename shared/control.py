# SPDX-License-Identifier: MIT
"""The messages between the command line and the supervisor: JSON over ZeroMQ DEALER/ROUTER.

Each request on `<runtime_dir>/control.sock` has one reply. Events are published as JSON on
`<runtime_dir>/events.sock` (XPUB, topic `event`); they are hints, the true state is in the reply to
`Status`.
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
    """Ask for all devices and the supervisor itself; answered by `StatusReply`."""


class Show(Request, frozen=True):
    """Ask for one device with its counters and last events; answered by `ShowReply`."""

    device: str


class Events(Request, frozen=True):
    """Ask for the last `count` events; answered by `EventsReply`."""

    count: int = 50


class Restart(Request, frozen=True):
    """Replace the worker of a device, which also ends back-off; answered by `Done`.

    Refused in quarantine.
    """

    device: str


class Clear(Request, frozen=True):
    """End the quarantine or other hold of a device, forget its failures; answered by `Done`."""

    device: str


class RestartRolling(Request, frozen=True):
    """Replace the workers of types or devices one after the other; all workers if none are named.

    Answered by `Done` at the end, or by `Refused` after the first failure.
    """

    targets: list[str] = []
    parallel: int = 1


class Upgrade(Request, frozen=True):
    """Replace the supervisor in place by the installed code; `Done` once the code was checked."""


class Reload(Request, frozen=True):
    """Check the configuration file and apply the changes; answered by `Done`."""


class LogLevel(Request, frozen=True):
    """Change the log level of one device at run time; answered by `Done`."""

    device: str
    level: str


class Commands(Request, frozen=True):
    """Ask what can be asked of a device; answered by `CommandsReply`."""

    device: str


class Command(Request, frozen=True):
    """Have a device's worker carry out a command of its type; answered by `CommandReply`."""

    device: str
    name: str
    arguments: dict[str, str] = {}
    """As they were typed; the supervisor converts them by the model in the type's manifest."""


AnyRequest = (
    Status
    | Show
    | Events
    | Restart
    | RestartRolling
    | Clear
    | Reload
    | LogLevel
    | Upgrade
    | Commands
    | Command
)


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `status`."""

    device: str
    backend: str
    frontend: str
    online: bool
    phase: str
    """Phase of the worker: absent, starting, idle, … serving, stopping."""
    hold: str
    """Why no worker is started: "" | backoff | budget | quarantined | config | guest | disabled |
    unkillable (the last worker does not die)."""
    health: str = ""
    """What is wrong with the worker: "" | late | slow | stalled."""
    pid: int | None
    generation: int
    restarts: int
    failures: int
    last_failure: str = ""
    """Kind of the last failure: crash, oom, hang, killed, …"""
    error: str
    """Text of the last error since the device was last Connected; "" if there was none."""
    since: float
    """Seconds in the present backend state."""
    counters: dict[str, int] = {}
    jail: tuple[str, ...] = ()
    """What confines the worker, step by step, as the worker says; empty without a jail."""
    jail_left_out: tuple[str, ...] = ()
    """Steps that this host cannot do, and why."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the event stream."""

    seq: int
    time: str
    """Wall clock, ISO 8601 with zone, for people; no decision depends on it."""
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
    """For each enabled kind the name of its device type."""
    devices: list[DeviceStatus]
    counters: dict[str, tuple[Counter, ...]] = {}
    """For each enabled kind what the counters of its devices mean."""
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


class ArgumentAbout(msgspec.Struct, frozen=True):
    """One argument of a command."""

    name: str
    value: str
    """In words: "a number", "one of a, b"."""
    required: bool


class CommandAbout(msgspec.Struct, frozen=True, kw_only=True):
    """One command of a device's type."""

    name: str
    meaning: str
    arguments: tuple[ArgumentAbout, ...]
    seconds: float
    """Time limit."""


class CommandsReply(Reply, frozen=True):
    handler: str
    """The device type."""
    commands: list[CommandAbout]


class CommandReply(Reply, frozen=True):
    value: msgspec.Raw
    """A text, or an object with the fields of the manifest's model."""


class Done(Reply, frozen=True):
    text: str


class Refused(Reply, frozen=True):
    """The request failed; the command line ends with `exit_code`."""

    text: str
    exit_code: int


AnyReply = StatusReply | ShowReply | EventsReply | CommandsReply | CommandReply | Done | Refused

_encoder = msgspec.json.Encoder()
_requests: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_replies: msgspec.json.Decoder[AnyReply] = msgspec.json.Decoder(AnyReply)


def encode(message: Request | Reply | Event) -> bytes:
    """Encode a message of either direction."""
    return _encoder.encode(message)


def decode_request(untrusted_data: bytes) -> AnyRequest:
    """Decode a request; raises msgspec.MsgspecError."""
    try:
        return _requests.decode(untrusted_data)
    except (UnicodeDecodeError, RecursionError) as error:
        # msgspec descends into nested arrays even to skip them.
        raise msgspec.DecodeError(str(error)) from error


def decode_reply(data: bytes) -> AnyReply:
    """Decode a reply; raises msgspec.MsgspecError."""
    return _replies.decode(data)


def device_of(request: Show | Restart | Clear | LogLevel | Commands | Command) -> DeviceId:
    """The device that a request names; raises ConfigError."""
    return DeviceId.parse(request.device)
