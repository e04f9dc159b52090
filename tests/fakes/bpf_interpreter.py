# SPDX-License-Identifier: MIT
"""Classic BPF as the kernel checks and runs it for seccomp, written from its documentation
(Documentation/networking/filter.rst, seccomp_check_filter) and not from our assembler.

Stricter than the kernel in one thing: an instruction that nothing can reach is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

WORDS = 2**32
DATA_BYTES = 64
"""sizeof(struct seccomp_data)."""


class BadProgramError(Exception):
    """The kernel would not take it."""


@dataclass(frozen=True)
class Instruction:
    """One `struct sock_filter`."""

    code: int
    jt: int
    jf: int
    k: int

    @property
    def kind(self) -> str:
        """What seccomp_check_filter lets pass; raises BadProgramError for anything else."""
        kinds = {
            0x20: "load",
            0x54: "and",
            0x06: "return",
            0x05: "always",
            0x15: "equal",
            0x25: "greater",
            0x35: "greater or equal",
            0x45: "any bit",
        }
        if self.code not in kinds:
            raise BadProgramError(f"code {self.code:#x}")
        return kinds[self.code]


def decode(program: bytes) -> list[Instruction]:
    """The instructions, not checked."""
    if len(program) % 8:
        raise BadProgramError(f"{len(program)} bytes")
    return [Instruction(*fields) for fields in struct.iter_unpack("<HBBI", program)]


def check(program: bytes) -> list[Instruction]:
    """The kernel's checks; the instructions of a program that passes."""
    instructions = decode(program)
    count = len(instructions)
    if not 1 <= count <= 4096:
        raise BadProgramError(f"{count} instructions")
    reached = {0}
    for at, instruction in enumerate(instructions):
        if instruction.kind == "load" and (instruction.k % 4 or instruction.k >= DATA_BYTES):
            raise BadProgramError(f"{at}: loads from {instruction.k}")
        following = _following(at, instruction)
        if any(target >= count for target in following):
            raise BadProgramError(f"{at}: leads out of the program")
        if at in reached:
            reached.update(following)
    if instructions[-1].kind != "return":
        raise BadProgramError("does not end with a return")
    if len(reached) != count:
        raise BadProgramError(f"never reached: {sorted(set(range(count)) - reached)}")
    return instructions


def _following(at: int, instruction: Instruction) -> list[int]:
    if instruction.kind == "return":
        return []
    if instruction.kind in ("load", "and"):
        return [at + 1]
    if instruction.kind == "always":
        return [at + 1 + instruction.k]
    return [at + 1 + instruction.jt, at + 1 + instruction.jf]


def run(
    instructions: Sequence[Instruction], number: int, architecture: int, arguments: Sequence[int]
) -> int:
    """The verdict on one call."""
    data = struct.pack("<iIQ6Q", _signed(number), architecture, 0, *arguments)
    at = accumulator = 0
    while True:
        instruction = instructions[at]
        k = instruction.k
        match instruction.kind:
            case "return":
                return k
            case "load":
                accumulator = int.from_bytes(data[k : k + 4], "little")
            case "and":
                accumulator &= k
            case "always":
                at += k
            case kind:
                holds = {
                    "equal": accumulator == k,
                    "greater": accumulator > k,
                    "greater or equal": accumulator >= k,
                    "any bit": bool(accumulator & k),
                }[kind]
                at += instruction.jt if holds else instruction.jf
        at += 1


def _signed(number: int) -> int:
    return number - WORDS if number >= WORDS // 2 else number
