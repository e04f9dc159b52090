# SPDX-License-Identifier: MIT
"""Which options a handler understands.

The handlers of this distribution keep their options model here in `config`, so that a file can be
checked, and the command line start, without loading any device code. A handler of somebody
else's is an entry point in the group `xenbackd.devices`; its class names the model in the
attribute `options_type` (a msgspec Struct), and it is loaded only when a file names it. So that
its device code need not be loaded for that, the model itself can be an entry point of the same
name in the group `xenbackd.devices.options`, which is looked for first.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any, Final

import msgspec

from config.check import suggest
from worker.devices.block.about import BlockOptions

ENTRY_POINT_GROUP: Final = "xenbackd.devices"

OPTIONS_GROUP: Final = "xenbackd.devices.options"

OWN_HANDLERS: Final[dict[str, type[msgspec.Struct]]] = {"block": BlockOptions}


class HandlerError(ValueError):
    """The handler does not exist or cannot be used."""


def known_handlers() -> list[str]:
    """Names of all handlers that are installed, sorted."""
    names = {entry.name for entry in metadata.entry_points(group=ENTRY_POINT_GROUP)}
    return sorted(names | OWN_HANDLERS.keys())


def options_type(handler: str) -> type[msgspec.Struct]:
    """The model of a handler's options.

    Raises:
        HandlerError: no such handler, it cannot be loaded, or it has no options model. The
            message is complete but for the place.
    """
    if handler in OWN_HANDLERS:
        return OWN_HANDLERS[handler]
    devices = tuple(metadata.entry_points(group=ENTRY_POINT_GROUP, name=handler))
    if not devices:
        raise HandlerError(f"unknown handler {handler!r}; {suggest(handler, known_handlers())}")
    entries = tuple(metadata.entry_points(group=OPTIONS_GROUP, name=handler)) or devices
    if len(entries) > 1:
        values = ", ".join(sorted(entry.value for entry in entries))
        raise HandlerError(f"handler {handler!r} is installed more than once: {values}")
    try:
        loaded: Any = entries[0].load()
    except Exception as error:  # code of somebody else's may raise whatever it likes
        cause = f"{type(error).__name__}: {error}"
        raise HandlerError(f"handler {handler!r} cannot be loaded: {cause}") from error
    model = getattr(loaded, "options_type", loaded)
    if isinstance(model, type) and issubclass(model, msgspec.Struct):
        return model
    raise HandlerError(
        f"handler {handler!r} has no options model: {entries[0].value} needs an attribute"
        " options_type that is a msgspec Struct"
    )
