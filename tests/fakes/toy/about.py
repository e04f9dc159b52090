# SPDX-License-Identifier: MIT
"""The manifest of the type `toy`: what the framework's own tests serve.

It has something of everything that a manifest can say, and stands for no real device. Its kinds
differ in who else wants them: for `toy` there is a kernel driver, for `toyplain` nobody, for
`toymodel` a device model.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from shared.device_types import Command, Counter, DeviceType, Group, Kind, plain


class ToyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of a toy: numbers with bounds and without, a list."""

    poll_us: int = 50
    io_threads: Annotated[int, Meta(ge=1, le=64)] = 4
    directories: list[str] = []


class PlayArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of the command `play`: one that is needed, some with a default."""

    game: Literal["catch", "chess"]
    rounds: Annotated[int, Meta(ge=1)] = 1
    speed: float = 1.0
    loud: bool = False
    note: str | None = None


class PlayReply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of it."""

    won: int
    names: list[str] = []


TYPE: Final = DeviceType(
    name="toy",
    backend="tests.fakes.toy.backend:Toy",
    options=ToyOptions,
    kinds=(
        Kind("toy", kernel_driver="xen_toyback", script=True),
        Kind("toyplain", script=True),
        Kind("toymodel", device_model=True),
    ),
    publishes=("size", "unit-size"),
    reserved=("params",),
    drain=30.0,
    journals=True,
    system_calls=(Group("playing", plain("preadv2 pwritev2")),),
    native_modules=("tests.fakes.toy.native._toy",),
    kernel_features={
        "RWF_NOWAIT": "it plays more slowly",
        "io_uring": "it plays alone",
    },
    counters=(
        Counter("reads", "reads answered", "reads", role="read"),
        Counter("units_in", "data read", "reads", scale=512, role="bytes"),
        Counter("writes", "writes answered", "writes", role="written"),
        Counter("units_out", "data written", "writes", scale=512, role="bytes"),
        Counter("other_requests", "other requests answered", role="finished"),
        Counter("bad_range", "ranges beyond the end", "refused requests"),
        Counter("pending", "requests in hand", role="pending"),
    ),
    commands=(
        Command("play", "play a game", PlayArguments, PlayReply, seconds=2.0),
        Command("wind", "wind it up", seconds=30.0),
    ),
    guest="tests.fakes.toy.guest:GUEST",
)
