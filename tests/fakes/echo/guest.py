# SPDX-License-Identifier: MIT
"""The guest side of the type `echo`: a frontend with a ring in Python, one request, one command.

Nothing of xenbackd names this type: what is here is all that a type's guest side takes.
"""

from __future__ import annotations

import argparse
import select
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec

from embedded.domain import Domain
from embedded.guest.channel import GuestChannel
from embedded.guest.client import DeviceClient
from embedded.guest.console import Column, Console
from embedded.guest.control import GuestDevice
from embedded.guest.exchange import Exchange
from embedded.guest.frontend import Frontend
from embedded.guest.launch import find_guest
from embedded.guest.side import Command, DeviceOption, GuestSide
from embedded.toolstack import NewDevice
from shared.errors import ConfigError, HostError
from shared.ring import FrontRing
from shared.xenstore.blocking import BlockingXenstore
from tests.fakes.echo.about import SLOT_SIZE

KIND: Final = "vecho"
TIMEOUT: Final = 10.0


class Say(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one thing to ask of an echo."""

    text: str


class Heard(msgspec.Struct, frozen=True):
    """What came back."""

    text: str


class EchoFrontend(Frontend[str]):
    """`info` is the backend's greeting."""

    kind = KIND

    def __init__(self, domain: Domain, xs: BlockingXenstore, devid: int) -> None:
        super().__init__(domain, xs, devid)
        self._ring: FrontRing | None = None
        self._channel: GuestChannel | None = None
        self._busy = threading.Lock()

    def say(self, text: str) -> str:
        """Send a text through the ring and wait for the echo."""
        with self._busy:
            if self._ring is None or self._channel is None or not self.connected:
                raise HostError(f"echo {self.name}: not connected")
            events = self._channel.event_channels
            self._ring.put_request(text.encode().ljust(SLOT_SIZE, b"\0"))
            if self._ring.push_requests():
                events.notify(self._channel.port)
            while not self._ring.final_check():
                if not select.select([events], [], [], TIMEOUT)[0]:
                    raise HostError(f"echo {self.name}: no answer in time")
                while (port := events.pending()) is not None:
                    events.unmask(port)
            return self._ring.take_response().rstrip(b"\0").decode()

    def _share(self) -> dict[str, str]:
        [frame], [ref] = self._pages.ring(0, self.backend_domid)
        self._ring = FrontRing(self._pages.address(frame), SLOT_SIZE)
        self._channel = self._open_channel()
        return {"ring-ref": str(ref), "event-channel": str(self._channel.port)}

    def _read_info(self) -> str | None:
        greeting = self._xs.read_or_none(f"{self.backend_path}/greeting")
        return None if greeting is None else greeting.decode()

    def _stop_io(self) -> None:
        with self._busy:
            pass

    def _drop_ring(self) -> None:
        self._ring = None


class RemoteEcho(DeviceClient):
    """An echo of a guest's process."""

    kind = KIND
    replies = msgspec.json.Decoder(Heard)

    def say(self, text: str) -> str:
        """Send a text and wait for the echo."""
        self._send(Say(text), 2 * TIMEOUT)
        return self._expect(Heard).text


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("echo", metavar="ECHO")
    parser.add_argument("text", metavar="TEXT")


def _run(args: argparse.Namespace, console: Console) -> int:
    with find_guest(args.embedded_dir, args.name).client() as client:
        console.lines(RemoteEcho(client, args.echo).say(args.text))
    return 0


class EchoSide(GuestSide):
    """Echoes of a guest; `--echo NAME` asks for one, numbered from 0 on."""

    kind = KIND
    noun = "echo"
    option = DeviceOption("--echo", "ECHO", "its name")
    columns: ClassVar[tuple[Column, ...]] = (Column("GREETING"),)
    commands = (Command("say", "say something to an echo", _add_arguments, _run),)
    epilog = "An echo answers in capitals."

    def new_devices(self, arguments: Sequence[str], taken: Collection[int]) -> list[NewDevice]:
        if "" in arguments:
            raise ConfigError("echo: expected a name")
        free = [number for number in range(len(taken) + len(arguments)) if number not in taken]
        return [
            NewDevice(
                kind=KIND,
                backend_kind=KIND,
                devid=devid,
                name=str(devid),
                backend={"name": name},
                frontend={"loud": "1"},
            )
            for name, devid in zip(arguments, free, strict=False)
        ]

    def frontend(
        self, domain: Domain, xs: BlockingXenstore, devid: int, protocol: str
    ) -> EchoFrontend:
        return EchoFrontend(domain, xs, devid)

    def details(self, frontend: Any) -> Mapping[str, Any]:
        return {"greeting": frontend.info or ""}

    def answer(self, frontend: Any, body: msgspec.Raw, exchange: Exchange) -> None:
        request = msgspec.json.decode(body, type=Say)
        exchange.reply(Heard(frontend.say(request.text)))

    def cells(self, device: GuestDevice, console: Console) -> list[str]:
        return [device.details["greeting"]]


GUEST: Final = EchoSide()
