# SPDX-License-Identifier: MIT
"""`xenbackd-device-model`, for `device_model_override=`: to libxl it looks like a QEMU.

libxl starts it as a session leader with /dev/null and a log file, waits for the xenstore node
`device-model/<domid>/state`, asks a few things over QMP and goes on. So nothing is forked here,
and the node is written when the sockets listen. Then it only waits: for its guest's end, a signal
(libxl sends SIGHUP) or QMP's `quit`.

One process per guest that does nothing: it imports little (see tests) and holds no privilege
beyond its xenstore connection. Serves no device; that is the supervisor's business.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Final

from shared.errors import BlamedError, HostError
from shared.xenstore.blocking import BlockingXenstore
from shared.xenstore.transport import choose_target
from supervisor.devicemodel.arguments import Arguments, parse
from supervisor.devicemodel.guest import Guest
from supervisor.devicemodel.qmp import Answers
from supervisor.devicemodel.sockets import Listener

_log = logging.getLogger("device-model")

XENSTORE_SOCKET: Final = "/var/run/xenstored/socket"
"""Unless XENSTORED_PATH names another, as with Xen's own programs."""
XENSTORE_DEVICE: Final = "/dev/xen/xenbus"
RECONNECT: Final = 5.0
"""Seconds between attempts to find xenstored again; nothing tells when it is back."""
SIGNALS: Final = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)

USAGE: Final = """\
usage: xenbackd-device-model -xen-domid N -machine xenpv [QEMU's other arguments]

Stands in for QEMU with PV and PVH guests of libxl, so that xenbackd serves their devices. Not for
the command line: name it in the guest's configuration,

  device_model_override = "/opt/xenbackd/bin/xenbackd-device-model"

See docs/xl.md. XENSTORED_PATH names another xenstored than the one of this host.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run until the guest ends; `argv` without the program's name. Returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "-help", "--help"} & set(words):
        sys.stdout.write(USAGE)
        return 0
    logging.raiseExceptions = False  # a full disk below the log is no reason to end
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        return run(parse(words))
    except BlamedError as error:
        _log.error("%s", error)
        return error.exit_code


def run(arguments: Arguments) -> int:
    """Be the device model.

    Raises:
        HostError: xenstored or a socket cannot be had, or there is no such domain.
        ConfigError: a socket's path or descriptor is none.
    """
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        signals = _Signals(selector, stack)
        path = os.environ.get("XENSTORED_PATH", XENSTORE_SOCKET)
        target = choose_target("auto", path, XENSTORE_DEVICE)
        xenstore = stack.enter_context(BlockingXenstore(target, reconnect=True))
        guest = Guest(xenstore, arguments.domid)
        answers = Answers(arguments)
        for where in arguments.sockets:
            stack.callback(Listener(where, answers, selector).close)
        os.chdir("/")
        guest.announce()
        _log.info(
            "domain %d (%s): ready; QMP on %s",
            arguments.domid,
            arguments.name,
            ", ".join(one.filename for one in arguments.sockets) or "no socket",
        )
        for label in arguments.channels:
            _log.warning("character device %s: nobody serves it: there is no QEMU", label)
        watch = _Watch(xenstore, guest, selector)
        while not (answers.quit or signals.received or watch.gone):
            for key, events in selector.select(watch.patience()):
                key.data(events)
            watch.look()
        why = signals.received or ("the guest is gone" if watch.gone else "quit by QMP")
        _log.info("domain %d: end: %s", arguments.domid, why)
    return 0


class _Signals:
    """Signals that mean the end."""

    def __init__(self, selector: selectors.BaseSelector, stack: ExitStack) -> None:
        self.received = ""
        wake, self._woken = (stack.enter_context(end) for end in socket.socketpair())
        for end in (wake, self._woken):
            end.setblocking(False)
        selector.register(self._woken, selectors.EVENT_READ, self._drain)
        stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake.fileno()))
        for number in SIGNALS:
            stack.callback(signal.signal, number, signal.signal(number, self._note))
        # The process that started us may have blocked them.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name

    def _drain(self, _events: int) -> None:
        self._woken.recv(64)


class _Watch:
    """The xenstore connection in the loop: what it says of the guest, and its loss."""

    def __init__(
        self, xenstore: BlockingXenstore, guest: Guest, selector: selectors.BaseSelector
    ) -> None:
        self.gone = False
        self._xenstore = xenstore
        self._guest = guest
        self._selector = selector
        self._registered = -1
        self._again: float | None = None
        self.look()

    def patience(self) -> float | None:
        """Seconds until `look` is due without an event; None: not before one."""
        return None if self._again is None else max(0.0, self._again - time.monotonic())

    def look(self) -> None:
        """Take in what xenstored says; cheap if it says nothing."""
        if self._again is not None and time.monotonic() < self._again:
            return
        back, self._again = self._again is not None, None
        try:
            # Asking may bring further events, so until there is none.
            ask = back
            while ask or self._xenstore.wait_event(0.0) is not None:
                ask = False
                if not self._guest.there():
                    self.gone = True
                    return
            self._register(self._xenstore.fileno())
        except HostError as error:
            self._register(-1)
            self._again = time.monotonic() + RECONNECT
            if not back:
                _log.warning("%s", error)
        else:
            if back:
                _log.info("xenstored is back")

    def _register(self, descriptor: int) -> None:
        if descriptor == self._registered:
            return
        if self._registered >= 0:
            self._selector.unregister(self._registered)
        self._registered = descriptor
        if descriptor >= 0:
            self._selector.register(descriptor, selectors.EVENT_READ, lambda _events: None)


if __name__ == "__main__":
    sys.exit(main())
