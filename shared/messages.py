# SPDX-License-Identifier: MIT
"""The messages between supervisor and worker: a closed schema, MessagePack on the wire.

Every message carries the device, the generation of the worker and a sequence number. The generation
rises with every start, so a message from a dead predecessor is recognised and dropped. The sequence
number is per sender and generation, so a repeated or lost message is recognised too; after `Adopt`
both sides count from 0 again. Nothing here is pickled. The supervisor decodes what a worker wrote
only with `decode_from_worker`, which limits sizes and refuses unknown fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from shared.device_id import DeviceId
from shared.errors import BackendBug, Blame
from shared.limits import (
    NODE_NAME_MAX,
    NODE_VALUE_MAX,
    SNAPSHOT_NODES_MAX,
    SUPERVISOR_MESSAGE_MAX,
    WORKER_MESSAGE_MAX,
)

Nodes = dict[str, bytes]
"""Nodes below a device directory: for each relative path ("queue-0/ring-ref") the value."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True, kw_only=True):
    """What every message carries."""

    device: DeviceId
    generation: int
    seq: int


# --- to the worker ---------------------------------------------------------------------------


class Init(Message, frozen=True):
    """Ask for the `init` hook (S12): open what the device needs, answer `Initialised`."""

    backend: Nodes


class Initialise(Message, frozen=True):
    """Ask for the `initialise` hook (S13): map the ring, bind the channel, answer `Attached`.

    `resume` says that both ends are already Connected and the ring is live: start at its published
    response index instead of index 0.
    """

    backend: Nodes
    frontend: Nodes
    resume: bool


class Connected(Message, frozen=True):
    """The frontend is Connected (S14). May come more than once."""


class Disconnect(Message, frozen=True):
    """Finish what is in flight, give ring, grants and channel back, answer `Disconnected`."""


class BackendChanged(Message, frozen=True):
    """A node of the backend directory changed (S9); `value` is None when it is gone."""

    node: str
    value: bytes | None


class FrontendChanged(Message, frozen=True):
    """A node of the frontend directory changed (S10); nobody has validated the value yet."""

    node: str
    untrusted_value: bytes | None


class SetLogLevel(Message, frozen=True):
    """Change the level of this device's log lines (S25): debug, info, warning or error."""

    level: str


class Command(Message, frozen=True):
    """Ask for a command of the type's manifest, while the worker is ready or serves; answer
    `CommandAnswer`."""

    number: int
    """Of this command; the answer repeats it."""
    name: str
    arguments: bytes
    """The manifest's model of the arguments, checked, as MessagePack."""


class Stop(Message, frozen=True):
    """Disconnect if necessary and exit with status 0."""


class Adopt(Message, frozen=True):
    """A new supervisor takes over: watch its process from now on, answer `Present`."""

    supervisor_pid: int


ToWorker = (
    Init
    | Initialise
    | Connected
    | Disconnect
    | BackendChanged
    | FrontendChanged
    | SetLogLevel
    | Command
    | Stop
    | Adopt
)

# --- from the worker -------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of a worker: its handles are open (S6) and `alloc` worked (S7)."""


class Initialised(Message, frozen=True):
    """Answer to `Init`: the feature nodes to publish together with InitWait."""

    nodes: Nodes


class Attached(Message, frozen=True):
    """Answer to `Initialise`: the nodes to publish together with Connected."""

    nodes: Nodes


class Disconnected(Message, frozen=True):
    """Answer to `Disconnect`: everything of the guest has been given back."""


Stage = Literal["alloc", "init", "initialise", "connected", "serve", "disconnect"]


class Failed(Message, frozen=True):
    """Something failed; the worker waits for orders.

    With the stage "alloc" it comes instead of Hello, and the worker ends.
    """

    stage: Stage
    """The hook that failed. "alloc" also stands for finding the type, its options and the handles;
    "serve" for the ring loop and for changed nodes."""
    blame: Blame
    text: str


class Publish(Message, frozen=True):
    """Ask the supervisor to write nodes of the backend directory while Connected (resize…)."""

    nodes: Nodes
    rewrite_state: bool = False
    """Write `state` again with its present value, so that the frontend's watch fires."""


class Beat(Message, frozen=True):
    """Sent from the ring loop itself: the worker lives, and these are its counters."""

    counters: dict[str, int]


class Present(Message, frozen=True):
    """Answer to `Adopt`: what the worker is doing, including what it said while nobody listened."""

    phase: Literal["idle", "ready", "serving"]
    """"ready": `Init` was done; "serving": the ring runs."""
    greeted: bool
    """There was a `Connected` since the last `Init`."""
    nodes: Nodes
    """As in the last `Initialised` or `Attached`."""
    stage: Stage | Literal[""] = ""
    blame: Blame | None = None
    text: str = ""
    """As in `Failed` if something failed and the worker waits for its end; otherwise ""."""


class Renew(Message, frozen=True):
    """Answer to `Init` by a worker that then ends: only a successor can do what `Init` asks."""


class Jailed(Message, frozen=True):
    """What confines the worker, as it says; before the first `Initialised`, after `Present`."""

    steps: tuple[str, ...]
    """Steps that were done."""
    left_out: tuple[str, ...]
    """Steps that this host cannot do, and why."""


class CommandAnswer(Message, frozen=True):
    """Answer to `Command`: a reply, or why there is none."""

    number: int
    reply: bytes = b""
    """The manifest's model of the reply as MessagePack."""
    blame: Blame | None = None
    """Who is to blame that there is no reply; None: there is one."""
    text: str = ""


FromWorker = (
    Hello
    | Initialised
    | Attached
    | Disconnected
    | Failed
    | Publish
    | Beat
    | Present
    | Renew
    | Jailed
    | CommandAnswer
)

COUNTERS_MAX: Final = 64
_COUNTER: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_counters: Final[set[str]] = set()
"""Names that were checked already: the same ones come with every beat."""
_COUNTERS_KNOWN: Final = 1024
TEXT_MAX: Final = 1024
STEPS_MAX: Final = 64
STEP_TEXT_MAX: Final = 200
COMMAND_REPLY_MAX: Final = 3072
"""Bytes of the reply to a command; with all else of the message it stays below
`WORKER_MESSAGE_MAX`."""

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""RecursionError is for nested arrays: msgspec descends into them even to skip them."""


def encode(message: Message) -> bytes:
    """Encode a message of either direction."""
    return _encoder.encode(message)


def decode_to_worker(data: bytes) -> ToWorker:
    """Decode a message of the supervisor.

    Raises:
        BackendBug: the message does not follow the schema; both ends are ours.
    """
    if len(data) > SUPERVISOR_MESSAGE_MAX:
        raise BackendBug(f"message to worker: {len(data)} bytes: more than allowed")
    try:
        return _to_worker.decode(data)
    except _UNREADABLE as error:
        raise BackendBug(f"message to worker: {error}") from error


def decode_from_worker(untrusted_data: bytes) -> FromWorker:
    """Decode a message of a worker, which its guest may have taken over, and check its limits.

    Raises:
        BackendBug: the message does not follow the schema or exceeds a limit. Do not believe the
            worker any more.
    """
    if len(untrusted_data) > WORKER_MESSAGE_MAX:
        raise BackendBug(f"message of worker: {len(untrusted_data)} bytes: more than allowed")
    try:
        message = _from_worker.decode(untrusted_data)
    except _UNREADABLE as error:
        raise BackendBug(f"message of worker: {error}") from error
    if isinstance(message, Beat):  # nearly all messages are
        if len(message.counters) > COUNTERS_MAX:
            raise BackendBug(f"message of worker: {len(message.counters)} counters")
        if not _counters.issuperset(message.counters):
            _check_counters(message.counters)
        # MessagePack limits them to 64 bits.
        if min(message.counters.values(), default=0) < 0:
            raise BackendBug("message of worker: a counter below 0")
    elif isinstance(message, Initialised | Attached | Publish | Present):
        _check_nodes(message.nodes)
    if isinstance(message, Failed | Present | CommandAnswer) and len(message.text) > TEXT_MAX:
        raise BackendBug(f"message of worker: text of {len(message.text)} characters")
    if isinstance(message, CommandAnswer) and len(message.reply) > COMMAND_REPLY_MAX:
        raise BackendBug(f"message of worker: reply of {len(message.reply)} bytes")
    if isinstance(message, Jailed):
        _check_steps(message.steps + message.left_out)
    return message


def _check_counters(names: Iterable[str]) -> None:
    for name in names:
        if not _COUNTER.fullmatch(name):
            raise BackendBug("message of worker: a counter of that name")
        if len(_counters) < _COUNTERS_KNOWN:
            _counters.add(name)


def _check_steps(steps: tuple[str, ...]) -> None:
    if len(steps) > STEPS_MAX:
        raise BackendBug(f"message of worker: {len(steps)} steps of a jail")
    if (longest := max(map(len, steps), default=0)) > STEP_TEXT_MAX:
        raise BackendBug(f"message of worker: step of a jail of {longest} characters")


def _check_nodes(nodes: Nodes) -> None:
    if len(nodes) > SNAPSHOT_NODES_MAX:
        raise BackendBug(f"message of worker: {len(nodes)} nodes")
    for name, value in nodes.items():
        if not 0 < len(name) <= NODE_NAME_MAX or len(value) > NODE_VALUE_MAX:
            raise BackendBug(f"message of worker: node {name[:32]!r} is out of bounds")
