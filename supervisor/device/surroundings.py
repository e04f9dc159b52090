# SPDX-License-Identifier: MIT
"""What all devices of one supervisor share: what their workers share, and xenstore."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shared.device_id import DeviceId
from supervisor.workers.records import Orphan
from supervisor.workers.surroundings import Surroundings
from supervisor.xenstore.publisher import Publisher
from supervisor.xenstore.store import Store


@dataclass(slots=True, kw_only=True)
class DeviceSurroundings(Surroundings):
    """Handed to every device."""

    store: Store
    publisher: Publisher
    own_path: str
    """Home directory of our own domain."""
    forget: Callable[[DeviceId], None]
    """The device is over; drop it."""
    orphans: dict[DeviceId, Orphan] = field(default_factory=dict)
    """What an earlier supervisor left and no device has taken over yet."""
