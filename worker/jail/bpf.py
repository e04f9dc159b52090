# SPDX-License-Identifier: MIT
"""An assembler for classic BPF, as seccomp takes it (linux/filter.h, linux/bpf_common.h).

Instructions are added in order and jump to labels. The offsets of a conditional jump have one byte.
If a target is farther away, an unconditional jump right behind the conditional one reaches it. The
result passes the kernel's verifier: only forward jumps, at most 4096 instructions.

There is only what a filter needs: load a word of `struct seccomp_data`, mask it, compare, jump,
return. This module knows no system calls.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NewType

from shared.errors import BackendBug

Label = NewType("Label", int)

LENGTH_MAX: Final = 4096
"""Instructions that the kernel takes at most (BPF_MAXINSNS)."""
REACH: Final = 255
"""Instructions that a conditional jump can skip at most."""

LD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS: A = word at k
AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
RET: Final = 0x06  # BPF_RET | BPF_K
JA: Final = 0x05  # BPF_JMP | BPF_JA
JEQ: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JGE: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K, unsigned


@dataclass(slots=True)
class _Instruction:
    code: int
    constant: int = 0
    targets: tuple[Label, ...] = ()
    """No target, one (JA) or two: where to go if the condition holds, and where if not."""
    far: tuple[bool, ...] = (False, False)
    """Which of the two targets are out of reach."""

    @property
    def length(self) -> int:
        return 1 + sum(self.far)


class Program:
    """Instructions and labels, in order."""

    def __init__(self) -> None:
        self._instructions: list[_Instruction] = []
        self._places: list[int | None] = []
        """For each label the index of the instruction after it."""

    def label(self) -> Label:
        """Make a label, to be placed later."""
        self._places.append(None)
        return Label(len(self._places) - 1)

    def place(self, label: Label) -> None:
        """Place the label before the next instruction."""
        self._places[label] = len(self._instructions)

    def load(self, offset: int) -> None:
        """Load the 32-bit word at a byte offset, a multiple of four."""
        self._instructions.append(_Instruction(LD, offset))

    def mask(self, bits: int) -> None:
        """Keep only these bits of the loaded word."""
        self._instructions.append(_Instruction(AND, bits))

    def verdict(self, value: int) -> None:
        """End with a SECCOMP_RET_* value."""
        self._instructions.append(_Instruction(RET, value))

    def goto(self, label: Label) -> None:
        """Go on at a label."""
        self._instructions.append(_Instruction(JA, 0, (label,)))

    def jump(self, code: int, constant: int, then: Label, otherwise: Label) -> None:
        """Compare the loaded word with a constant (JEQ, JGE) and go on at one of two labels."""
        self._instructions.append(_Instruction(code, constant, (then, otherwise)))

    def encode(self) -> bytes:
        """An array of `struct sock_filter`, little-endian, 8 bytes each.

        Raises:
            BackendBug: the program is too long, or a jump leads backwards or nowhere.
        """
        addresses = self._layout()
        while self._stretch(addresses):
            addresses = self._layout()
        if addresses[-1] > LENGTH_MAX:
            raise BackendBug(f"filter: {addresses[-1]} instructions, of at most {LENGTH_MAX}")
        return b"".join(
            self._encoded(instruction, address, addresses)
            for instruction, address in zip(self._instructions, addresses, strict=False)
        )

    def _layout(self) -> list[int]:
        """The address of each instruction, and of the end."""
        addresses = [0]
        for instruction in self._instructions:
            addresses.append(addresses[-1] + instruction.length)
        return addresses

    def _stretch(self, addresses: list[int]) -> bool:
        """Mark the targets that are out of reach; return whether there were new ones.

        A mark stays even if the target comes within reach later, so this terminates.
        """
        changed = False
        for instruction, address in zip(self._instructions, addresses, strict=False):
            if len(instruction.targets) == 2:
                far = tuple(
                    was or self._distance(target, address + 1, addresses) > REACH
                    for was, target in zip(instruction.far, instruction.targets, strict=True)
                )
                changed |= far != instruction.far
                instruction.far = far
        return changed

    def _distance(self, label: Label, origin: int, addresses: list[int]) -> int:
        place = self._places[label]
        if place is None or place >= len(self._instructions) or addresses[place] < origin:
            raise BackendBug(f"filter: label {label}: is not ahead of a jump to it")
        return addresses[place] - origin

    def _encoded(self, instruction: _Instruction, address: int, addresses: list[int]) -> bytes:
        code, targets = instruction.code, instruction.targets
        if not targets:
            return _encode(code, instruction.constant)
        if len(targets) == 1:
            return _encode(code, self._distance(targets[0], address + 1, addresses))
        offsets, behind = [], b""
        for target, far in zip(targets, instruction.far, strict=True):
            if far:
                offsets.append(len(behind) // 8)
                origin = address + 1 + offsets[-1] + 1
                behind += _encode(JA, self._distance(target, origin, addresses))
            else:
                offsets.append(self._distance(target, address + 1, addresses))
        return _encode(code, instruction.constant, *offsets) + behind


def _encode(code: int, constant: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("<HBBI", code, then, otherwise, constant)
