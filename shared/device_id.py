# SPDX-License-Identifier: MIT
"""The name of a device: type, frontend domain and device number.

`str()` and `DeviceId.parse()` are inverse. Logs, the command line, metrics, file names and process
titles use the printed form `type/3/51712`.
"""

from __future__ import annotations

import re

import msgspec

from shared.errors import ConfigError

DOMID_FIRST_RESERVED = 0x7FF0
"""The first domain id that is reserved (xen/include/public/xen.h, DOMID_FIRST_RESERVED)."""

DEVID_MAX = 0xFFFFFFFF

_TYPE = re.compile(r"[a-z0-9][a-z0-9_]{0,31}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")


class DeviceId(msgspec.Struct, frozen=True, order=True, array_like=True):
    """`DeviceId("type", 3, 51712)` prints as `type/3/51712`."""

    type: str
    domid: int
    devid: int

    def __str__(self) -> str:
        return f"{self.type}/{self.domid}/{self.devid}"

    @classmethod
    def parse(cls, text: str) -> DeviceId:
        """Read `type/domid/devid`.

        Raises:
            ConfigError: the text is no device name.
        """
        parts = text.split("/")
        if (
            len(parts) == 3
            and _TYPE.fullmatch(parts[0])
            and all(_NUMBER.fullmatch(part) for part in parts[1:])
            and int(parts[1]) < DOMID_FIRST_RESERVED
            and int(parts[2]) <= DEVID_MAX
        ):
            return cls(parts[0], int(parts[1]), int(parts[2]))
        raise ConfigError(
            f"device name: {text!r}: expected TYPE/DOMID/DEVID, as `xenbackd status` prints it"
        )
