# SPDX-License-Identifier: MIT
"""The outcomes of one grant operation, as Xen reports them."""

from __future__ import annotations

import enum


class GrantStatus(enum.IntEnum):
    """The outcome of one grant operation (xen/include/public/grant_table.h, GNTST_*)."""

    OKAY = 0
    GENERAL_ERROR = -1
    BAD_DOMAIN = -2
    BAD_GNTREF = -3
    BAD_HANDLE = -4
    BAD_VIRT_ADDR = -5
    BAD_DEV_ADDR = -6
    NO_DEVICE_SPACE = -7
    PERMISSION_DENIED = -8
    BAD_PAGE = -9
    BAD_COPY_ARG = -10
    ADDRESS_TOO_BIG = -11
    EAGAIN = -12
    NO_SPACE = -13

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


def describe(status: int) -> str:
    """The status in words, even if this release does not know it."""
    try:
        return str(GrantStatus(status))
    except ValueError:
        return f"status {status}"
