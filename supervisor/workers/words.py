# SPDX-License-Identifier: MIT
"""What a worker may say: its messages become words, a closed set that has been checked.

A worker's word is worth little. The bus (`supervisor.workers.bus`) has made sure who speaks, and
the schema (`shared.messages`) how much. Here each message is held against what this worker may say
at all:

- Nodes to publish are the only way into xenstore that a worker has which was taken over. So each
  name must be one that its type may publish, and their number is bounded: every node is memory of
  xenstored and is read again with each snapshot. What the values mean is between the worker and
  its own frontend.
- `Renew` is an answer to `Init` and to nothing else. Whether any other answer was asked for, the
  life cycle of the device knows.
- `CommandAnswer` is an answer to a command that was asked for and not answered yet, and its reply
  is what the manifest says. Whether somebody still waits for it does not matter here.
- Of failures, which an honest worker may repeat, the first few are passed on.

Only checks. `supervisor.workers.link` acts on a word, and passes it on to the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from shared import lifecycle_types as t
from shared import messages as m
from shared.commands import Command
from shared.device_id import DeviceId
from shared.device_types import DeviceType
from shared.errors import BackendBug, Blame
from shared.limits import PUBLISHED_NODES_MAX

FAILURES_HEARD: Final = 8
"""Failures of one worker that are passed on. The first one ends it. After that an honest worker
still fails at what was already on its way to it; another could fill the log until it is dead."""


@dataclass(frozen=True, slots=True)
class Answer:
    """It is there, or did what it was asked to; `nodes` go out with the next state."""

    event: (
        t.WorkerHello
        | t.WorkerPresent
        | t.WorkerInitialised
        | t.WorkerAttached
        | t.WorkerDisconnected
    )
    nodes: m.Nodes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeWrite:
    """Nodes to be written now; with `rewrite_state` the present state is written after them."""

    nodes: m.Nodes
    rewrite_state: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """Something failed, and the worker is to be ended; `stage` says while doing what."""

    blame: Blame
    text: str
    stage: str


@dataclass(frozen=True, slots=True)
class Renewal:
    """Only a successor can do what `Init` asks for; this worker holds nothing of the guest's."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command: its reply as JSON, or who is to blame that there is none."""

    number: int
    reply: bytes = b""
    blame: Blame | None = None
    text: str = ""


Word = Answer | NodeWrite | Failure | Renewal | Outcome | m.Beat | m.Jailed
"""The last two need no check beyond their schema."""


class LinkOwner(Protocol):
    """The device, as its worker's link sees it."""

    def heard(self, word: Word) -> None:
        """Take a word of the worker, or a failure that the link found.

        Raises:
            IllegalEventError: it cannot be true now.
        """

    def feed(self, event: t.Event) -> None:
        """Take an event of the life cycle."""

    def report(self, blame: Blame, text: str, *, stage: str) -> None:
        """Tell log, event stream and xenstore what failed."""


class Words:
    """Checks the messages of one device's worker, and of its successors."""

    def __init__(self, device: DeviceId, handler: DeviceType) -> None:
        self._device = device
        self._handler = handler
        self._names: set[str] = set()
        """Of the nodes it has published."""
        self._failures = 0
        self._init_asked = False
        self._commands: dict[int, Command] = {}
        """Those that were asked for and not answered yet, by number."""
        self._inherited = 0

    def forget(self) -> None:
        """Another worker begins."""
        self._names.clear()
        self._failures = 0
        self._init_asked = False
        self._commands.clear()
        self._inherited = 0

    def inherit(self, commands: int) -> None:
        """An earlier supervisor had at most so many commands under way, which may be answered."""
        self._inherited = commands

    def asked(self, order: type[m.Message]) -> None:
        """An order that must be answered is being sent to the worker."""
        self._init_asked = order is m.Init

    def commanded(self, number: int, command: Command) -> None:
        """A command was sent to the worker."""
        self._commands[number] = command

    @property
    def unanswered(self) -> int:
        """Commands that the worker has not answered, also those that nobody waits for any more."""
        return len(self._commands)

    def check(self, message: m.FromWorker) -> Word | None:
        """The word that a message stands for; None if it has been said too often.

        Raises:
            BackendBug: no honest worker says that.
        """
        match message:
            case m.Beat() | m.Jailed():
                return message
            case m.Hello():
                return Answer(t.WorkerHello())
            case m.Present():
                return self._present(message)
            case m.Initialised(nodes=nodes):
                self._init_asked = False
                return Answer(t.WorkerInitialised(), self._checked(nodes))
            case m.Attached(nodes=nodes):
                return Answer(t.WorkerAttached(), self._checked(nodes))
            case m.Disconnected():
                return Answer(t.WorkerDisconnected())
            case m.Publish(nodes=nodes, rewrite_state=rewrite_state):
                return NodeWrite(self._checked(nodes), rewrite_state)
            case m.Failed(stage=stage, blame=blame, text=text):
                self._failures += 1
                heard = self._failures <= FAILURES_HEARD
                return Failure(blame, text, stage) if heard else None
            case m.Renew():
                if not self._init_asked:
                    raise not_asked_for(self._device, "Renew")
                return Renewal()
            case m.CommandAnswer():
                return self._outcome(message)

    def _outcome(self, answer: m.CommandAnswer) -> Outcome | None:
        command = self._commands.pop(answer.number, None)
        if command is None:
            if not self._inherited:
                raise not_asked_for(self._device, "CommandAnswer")
            self._inherited -= 1
            return None
        if answer.blame is not None:
            return Outcome(answer.number, blame=answer.blame, text=answer.text)
        try:
            value: object = msgspec.msgpack.decode(answer.reply, type=command.reply)
            return Outcome(answer.number, msgspec.json.encode(value))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._refusal(f"reply to {command.name}: {error}") from error

    def _present(self, message: m.Present) -> Answer | Failure:
        """What an adopted worker is doing, or the failure that it could tell nobody."""
        if message.text:
            return Failure(message.blame or Blame.US, message.text, message.stage)
        event = t.WorkerPresent(t.WorkerPhase(message.phase), message.greeted)
        return Answer(event, self._checked(message.nodes))

    def _checked(self, untrusted_nodes: m.Nodes) -> m.Nodes:
        """The nodes, if all of them may be published; from then on their names count."""
        for name in untrusted_nodes:
            if not self._handler.may_publish(name):
                raise self._refusal(f"node {name[:64]!r}: its type's manifest does not publish it")
        names = self._names | untrusted_nodes.keys()
        if len(names) > PUBLISHED_NODES_MAX:
            raise self._refusal(f"{len(names)} nodes: more than it may have")
        self._names = names
        return untrusted_nodes

    def _refusal(self, cause: str) -> BackendBug:
        return BackendBug(f"message of worker: {self._device}: {cause}")


def not_asked_for(device: DeviceId, what: str) -> BackendBug:
    """The error of an answer that nobody asked for."""
    return BackendBug(f"message of worker: {device}: {what}: not asked for")
