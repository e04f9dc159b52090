# SPDX-License-Identifier: MIT
"""From a handler's name in the configuration to its class.

The name leads to a place by `shared.device_types`: the types of this distribution first, so that
nothing installed beside us takes their name, then the entry points of the group
`xenbackd.devices`. Only the worker imports the class.
"""

from __future__ import annotations

import importlib

from shared.device_types import resolve
from shared.errors import ConfigError
from worker.device import Device


def load(name: str) -> type[Device]:
    """Import the handler's class.

    Raises:
        ConfigError: not installed, cannot be imported, or no `Device`.
    """
    place = resolve(name).module
    module, _, attribute = place.partition(":")
    try:
        handler = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        # Code of somebody else's may raise anything at import; to the operator it is one thing.
        raise ConfigError(f"device handler: {name!r}: {place}: {error!r}") from error
    if not (isinstance(handler, type) and issubclass(handler, Device)):
        raise ConfigError(f"device handler: {name!r}: {place}: is no worker.device.Device")
    return handler
