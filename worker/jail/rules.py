# SPDX-License-Identifier: MIT
"""Turns rules about system calls into a seccomp filter.

Before each system call the kernel runs the filter over `struct seccomp_data` (linux/seccomp.h): the
number, the architecture, the instruction pointer and six arguments of 64 bits.

Invariants:
- the architecture is checked first, and on x86_64 the x32 numbers next: the same number means
  another call there;
- a call that no rule names gets the default verdict, and so does a call with rules of which none
  holds;
- both halves of an argument are compared, except bits that the mask leaves out because the kernel
  ignores them;
- the number is found in a balanced tree before any argument is loaded. So calls that are allowed
  with any arguments are calls that Linux (since 5.11) lets pass without running the filter.

Only for little-endian machines: the low half of an argument comes first. This module knows no
system call by name and installs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shared.errors import BackendBug
from shared.system_calls import INT, Argument
from worker.jail.bpf import JEQ, JGE, Label, Program

# Verdicts (linux/seccomp.h).
KILL_PROCESS: Final = 0x80000000
LOG: Final = 0x7FFC0000
ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000

# Offsets in struct seccomp_data.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16


@dataclass(frozen=True, slots=True)
class Machine:
    """`audit` is the AUDIT_ARCH_* (linux/audit.h); numbers from `foreign` on are another ABI's."""

    name: str
    audit: int
    foreign: int | None = None


X86_64: Final = Machine("x86_64", 0xC000003E, foreign=0x40000000)
AARCH64: Final = Machine("aarch64", 0xC00000B7)


@dataclass(frozen=True, slots=True)
class Clause:
    """The verdict for a call whose arguments are all as `when` says."""

    verdict: int
    when: tuple[Argument, ...] = ()


def errno_verdict(number: int) -> int:
    """The verdict that answers with an errno (1 to 4095) instead of making the call."""
    return _ERRNO | number


def assemble(
    machine: Machine,
    calls: Mapping[int, Sequence[Clause]],
    *,
    default: int,
    foreign: int = KILL_PROCESS,
) -> bytes:
    """A filter: an array of `struct sock_filter`, 8 bytes each.

    `calls` has the clauses of each number; the first one that holds counts. `foreign` is the
    verdict for calls by another architecture's entry.

    Raises:
        BackendBug: this machine does not have a number, or the filter would be too long.
    """
    bound = machine.foreign or 1 << 31
    if wrong := [number for number in calls if not 0 <= number < bound]:
        raise BackendBug(f"filter: {machine.name}: no numbers of its calls: {wrong}")
    program = Program()
    ours, alien, native = program.label(), program.label(), program.label()
    program.load(_ARCHITECTURE)
    program.jump(JEQ, machine.audit, ours, alien)
    program.place(ours)
    program.load(_NUMBER)
    if machine.foreign is not None:
        program.jump(JGE, machine.foreign, alien, native)
        program.place(native)
    _tree(program, sorted(calls.items()), default)
    program.place(alien)
    program.verdict(foreign)
    return program.encode()


def _tree(program: Program, calls: Sequence[tuple[int, Sequence[Clause]]], default: int) -> None:
    if not calls:
        program.verdict(default)
        return
    first, second = program.label(), program.label()
    if len(calls) == 1:
        number, clauses = calls[0]
        program.jump(JEQ, number, first, second)
        program.place(first)
        _clauses(program, clauses, default)
        program.place(second)
        program.verdict(default)
        return
    middle = len(calls) // 2
    program.jump(JGE, calls[middle][0], second, first)
    program.place(first)
    _tree(program, calls[:middle], default)
    program.place(second)
    _tree(program, calls[middle:], default)


def _clauses(program: Program, clauses: Sequence[Clause], default: int) -> None:
    for clause in clauses:
        fails = program.label()
        for argument in clause.when:
            _argument(program, argument, fails)
        program.verdict(clause.verdict)
        program.place(fails)
        if not clause.when:
            return  # no later clause could be reached
    program.verdict(default)


def _argument(program: Program, argument: Argument, fails: Label) -> None:
    """Go on after this code if the argument is one of the values, else at `fails`.

    Values with the same high half are one group: if that half matches but no low half does, no
    other group can hold.
    """
    holds = program.label()
    offset = _ARGUMENTS + 8 * argument.index
    groups: dict[int, set[int]] = {}
    for value in argument.values:
        groups.setdefault(value >> 32, set()).add(value & INT)
    for left, (high, lows) in zip(range(len(groups) - 1, -1, -1), groups.items(), strict=True):
        other = program.label() if left else fails
        if argument.mask >> 32:
            _half(program, offset + 4, argument.mask >> 32, [high], other)
        if argument.mask & INT:
            _half(program, offset, argument.mask & INT, sorted(lows), fails)
        if left:
            program.goto(holds)
            program.place(other)
    program.place(holds)


def _half(program: Program, offset: int, mask: int, values: Sequence[int], fails: Label) -> None:
    holds = program.label()
    program.load(offset)
    if mask != INT:
        program.mask(mask)
    for value in values[:-1]:
        other = program.label()
        program.jump(JEQ, value, holds, other)
        program.place(other)
    program.jump(JEQ, values[-1], holds, fails)
    program.place(holds)
