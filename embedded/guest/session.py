# SPDX-License-Identifier: MIT
"""One control connection of a guest, served by a thread of its own."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

from embedded.domain import Domain
from embedded.guest import control
from embedded.guest.devices import Devices
from embedded.guest.exchange import Exchange
from shared.errors import BlamedError, ConfigError, HostError

log = logging.getLogger("guest")

T = TypeVar("T")


class Guest(Protocol):
    """The guest's process (`embedded.guest.process`), as its sessions see it."""

    name: str
    domain: Domain
    devices: Devices

    def call(self, order: Callable[[], T], timeout: float) -> T:
        """Run a function in the main thread and return its result, or raise its error."""

    def stop(self) -> None:
        """Shut the guest down."""


class Session:
    """Reads requests, answers each before the next."""

    def __init__(self, guest: Guest, connection: socket.socket) -> None:
        self._guest = guest
        self._connection = connection
        self._stream = connection.makefile("rb")
        self.ended: Callable[[Session], None] = lambda session: None

    def serve(self) -> None:
        """Serve until the client closes or breaks the protocol."""
        try:
            while line := self._stream.readline(control.LINE_MAX):
                if not self._answer(line):
                    return
        except OSError as error:
            # The client went away in the middle of something.
            log.info("control connection: %s", error)
        finally:
            self.ended(self)
            self._stream.close()
            self._connection.close()

    def close(self) -> None:
        """Wake the thread out of what it waits for on its connection; from any thread."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _answer(self, line: bytes) -> bool:
        """Answer one request; False if the connection is of no use any more."""
        exchange = Exchange(self._connection, self._stream)
        try:
            request = control.decode_request(line)
            self._execute(request, exchange)
        except msgspec.MsgspecError as error:
            self._send(control.Refused(f"guest control: request: {error}", ConfigError.exit_code))
            return False
        except BlamedError as error:
            self._send(control.Refused(str(error), error.exit_code))
            # Data that was asked for may still be on its way: it cannot be told from requests.
            return not exchange.outstanding
        return not isinstance(request, control.Shutdown)

    def _execute(self, request: control.AnyRequest, exchange: Exchange) -> None:
        match request:
            case control.ListDevices():
                self._send(self._describe())
            case control.Wait():
                self._wait(request)
            case control.DeviceRequest():
                side, frontend = self._guest.devices.find(request.kind, request.device)
                side.answer(frontend, request.body, exchange)
            case control.Reboot():
                self._reboot(request)
            case control.Shutdown():
                self._shut_down(request)

    def _describe(self) -> control.GuestReply:
        guest = self._guest
        return control.GuestReply(
            guest.name, guest.domain.domid, os.getpid(), guest.devices.describe()
        )

    def _wait(self, request: control.Wait) -> None:
        if not self._guest.devices.wait(request.count, request.timeout):
            states = ", ".join(
                f"{device.name} {device.state} (backend {device.backend_state})"
                + (f": {device.error}" if device.error else "")
                for device in self._guest.devices.describe()
                if not device.connected
            )
            raise HostError(
                f"connect devices: guest {self._guest.name}: not within {request.timeout:g} s: "
                f"{states or 'other devices than expected'}"
            )
        self._send(self._describe())

    def _reboot(self, request: control.Reboot) -> None:
        devices = self._guest.devices
        self._guest.call(
            lambda: devices.restart_all(orderly=request.orderly, timeout=request.timeout),
            request.timeout + 5,
        )
        self._wait(control.Wait(None, request.timeout))

    def _shut_down(self, request: control.Shutdown) -> None:
        if request.orderly:
            devices = self._guest.devices
            self._guest.call(lambda: devices.close_all(request.timeout), request.timeout + 5)
        self._send(control.Done("shut down"))
        self._guest.stop()

    def _send(self, reply: control.Reply) -> None:
        self._connection.sendall(control.encode(reply))
