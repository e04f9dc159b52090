# SPDX-License-Identifier: MIT
"""Removes the backend directory that a toolstack in another domain leaves behind.

In dom0 libxl removes a device's backend directory itself. Of a device in a driver domain it removes
only its own side and leaves the backend directory to that domain (libxl_device.c,
libxl__device_destroy). Then it waits 10 s for the removal (device_destroy_be_watch_cb).

Before that, it waits for Closed and reads the state after its watch event. A directory that is gone
by then is an error to it (libxl_event.c, devstate_callback). So the removal comes `AFTER` seconds
later, and only if the directory still says Closed and not online.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from shared.device_id import DeviceId
from shared.lifecycle_types import Lifecycle, WorkerPhase
from shared.xenbus import XenbusState
from supervisor.device.surroundings import DeviceSurroundings

TOOLSTACK_DOMID: Final = 0
"""libxl's LIBXL_TOOLSTACK_DOMID."""

AFTER: Final = 1.0
"""Seconds from Closed, unplugged and unserved to the removal."""


class Removal:
    """The backend directory of one device; `wake` is called when it is time for `execute`."""

    def __init__(
        self,
        device: DeviceId,
        frontend_path: str,
        around: DeviceSurroundings,
        wake: Callable[[], None],
    ) -> None:
        self._device = device
        self._frontend_path = frontend_path
        self._around = around
        self._wake = wake
        self._timer: asyncio.TimerHandle | None = None
        self.due = False

    def note(self, lifecycle: Lifecycle) -> None:
        """The life cycle has advanced: wait for the removal if the device is over, or stop that."""
        over = (
            lifecycle.taken_up
            and not lifecycle.gone
            and not lifecycle.online
            and lifecycle.backend is XenbusState.CLOSED
            and lifecycle.worker is WorkerPhase.ABSENT
        )
        if not over or self._around.own_domid == TOOLSTACK_DOMID:
            self.cancel()
        elif self._timer is None and not self.due:
            self._timer = asyncio.get_running_loop().call_later(AFTER, self._due)

    def cancel(self) -> None:
        """The directory stays."""
        self.due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def execute(self) -> None:
        """Remove it; if that fails, it is due again `AFTER` seconds after the next `note`.

        Raises:
            OvertakenError: something else is there by now.
            XenstoreError: it cannot be removed.
        """
        self.due = False
        await self._around.publisher.remove(self._device, self._frontend_path)

    def _due(self) -> None:
        self._timer = None
        self.due = True
        self._wake()
