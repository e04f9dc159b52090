# SPDX-License-Identifier: MIT
"""Tells the operator what is wrong with a device: log, event stream, `status`, xenstore.

Every text is one printable line, even if a worker wrote it. The error nodes stay until the device
is Connected again or forgotten. Lines that a guest can trigger at will are bounded in the log and
the event stream, for each device by itself.
"""

from __future__ import annotations

import logging
from typing import Final

from shared.device_id import DeviceId
from shared.errors import Blame, HostError
from shared.lifecycle_types import Hold, Lifecycle
from shared.logs import DeviceLogger
from shared.messages import TEXT_MAX
from shared.ratelimit import RateLimit
from shared.untrusted import neutral
from shared.xenbus import XenbusState
from shared.xenstore.errors import ConnectionLostError
from supervisor.device.surroundings import DeviceSurroundings

GUEST_BURST: Final = 10
GUEST_PERIOD: Final = 6.0
"""Lines that a guest can cause for one device: so many at once, then one per period (seconds)."""
STATES_BURST: Final = 30
"""Like `GUEST_BURST`, for changes of the backend's state alone: enough for some boots."""


class Reporter:
    """The errors of one device. `text` is the last one, "" when it is served again."""

    def __init__(self, device: DeviceId, around: DeviceSurroundings, log: DeviceLogger) -> None:
        self._device = device
        self._around = around
        self._log = log
        self._lines = RateLimit(GUEST_BURST, GUEST_PERIOD)
        self._states = RateLimit(STATES_BURST, GUEST_PERIOD)
        self.text = ""
        self._to_write: tuple[Blame, str, bool] | None = None
        self._written = False
        self._to_clear = False
        self._lost: tuple[Blame, str, bool] | None = None

    @property
    def pending(self) -> bool:
        """Whether something waits to be written to xenstore."""
        return self._to_write is not None or self._to_clear

    def report(self, blame: Blame, text: str, stage: str, *, hotplug: bool) -> None:
        """Log an error and keep it for `write`; `hotplug` tells a waiting toolstack too."""
        # It may be the text of a worker that was taken over.
        text = neutral(text)[:TEXT_MAX]
        # What is tried again each time that the guest does something can fail each time.
        bounded = blame is Blame.GUEST or text == self.text
        self.text = text
        line = f"{stage}: " + text.replace(f"{self._device}: ", "", 1)
        if not bounded or self.guest_may_log():
            self._log.log(logging.WARNING if blame is Blame.GUEST else logging.ERROR, "%s", line)
            self._around.events.add("error", str(self._device), line)
        self._to_write, self._lost = (blame, text, hotplug), None

    def served(self) -> None:
        """The device works: its error is over."""
        self.text = ""
        self._to_write = self._lost = None
        if self._written:
            self._written, self._to_clear = False, True

    async def write(self, frontend_path: str) -> None:
        """Bring xenstore up to date; raises as the publisher does.

        An error that was lost with the connection waits for `retry`. One that was refused (quota)
        stays in the log only, or it would be refused every two seconds.
        """
        publisher = self._around.publisher
        if self._to_clear:
            self._to_clear = False
            try:
                await publisher.clear_error(self._device)
            except HostError:
                self._written = True  # still there: cleared when the device is served next
                raise
        if self._to_write is not None:
            (blame, text, hotplug), self._to_write = self._to_write, None
            self._written = True
            try:
                await publisher.write_error(
                    self._device, frontend_path, blame, text, hotplug=hotplug
                )
            except ConnectionLostError:
                if self._to_write is None and self.text == text:
                    self._lost = (blame, text, hotplug)
                raise

    def retry(self) -> None:
        """The connection is back."""
        if self._to_write is None:
            self._to_write = self._lost
        self._lost = None

    def moved(self, before: Lifecycle, after: Lifecycle) -> None:
        """Log the frontend's state, and why no worker is started."""
        changed = before.frontend is not after.frontend and before.taken_up
        if changed and self.guest_may_log():
            self._log.info("frontend %s -> %s", before.frontend, after.frontend)
        if before.hold is not after.hold and after.hold is not Hold.NONE:
            self._log.warning("held: %s", after.hold.value)
            self._around.events.add("hold", str(self._device), after.hold.value)

    def wrote(self, before: XenbusState, state: XenbusState) -> None:
        """Log a state that was written (S4); a guest can make it change for ever."""
        if self._allows(self._states):
            text = f"{before} -> {state}"
            self._log.info("%s", text)
            self._around.events.add("state", str(self._device), text)

    def over(self) -> None:
        """The device is gone: log how many lines were left out since the last one."""
        if suppressed := self._lines.take_suppressed() + self._states.take_suppressed():
            self._log.warning("suppressed %d lines", suppressed)

    def guest_may_log(self) -> bool:
        """Whether one more line or event that the guest caused is within bounds."""
        return self._allows(self._lines)

    def _allows(self, limit: RateLimit) -> bool:
        if not limit.allow(self._around.clock()):
            return False
        if suppressed := limit.take_suppressed():
            self._log.warning("suppressed %d lines like the next one", suppressed)
        return True
