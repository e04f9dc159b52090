# SPDX-License-Identifier: MIT
"""The assembler of system-call filters, against an interpreter that knows nothing of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BackendBug
from shared.system_calls import INT, LONG, Argument
from tests.fakes.bpf_interpreter import check, run
from worker.jail.bpf import JEQ, REACH, Program
from worker.jail.rules import (
    AARCH64,
    ALLOW,
    KILL_PROCESS,
    X86_64,
    Clause,
    Machine,
    assemble,
    errno_verdict,
)

I386 = 0x40000003
NOTHING = (0,) * 6

# Few values that share halves, so that wrong halves are often tried.
words = st.sampled_from((0, 1, 4, 0x80081272, INT))
longs = st.builds(lambda high, low: high << 32 | low, words, words)
masks = st.sampled_from((INT, LONG, 4, INT << 32, 0x4_0000_0004))


@st.composite
def arguments(draw: st.DrawFn) -> Argument:
    """A condition that can hold."""
    mask = draw(masks)
    values = draw(st.lists(longs.map(lambda value: value & mask), min_size=1, max_size=4))
    return Argument(draw(st.integers(0, 5)), tuple(values), mask)


verdicts = st.sampled_from((ALLOW, errno_verdict(1), errno_verdict(38)))
clauses = st.lists(
    st.builds(Clause, verdicts, st.lists(arguments(), max_size=3).map(tuple)), max_size=3
)
policies = st.dictionaries(st.integers(0, 450), clauses, max_size=25)


def expected(
    calls: Mapping[int, Sequence[Clause]], number: int, values: Sequence[int], default: int
) -> int:
    """The same rules, evaluated directly."""
    for clause in calls.get(number, ()):
        if all(values[a.index] & a.mask in a.values for a in clause.when):
            return clause.verdict
    return default


@settings(max_examples=50, deadline=None)
@given(
    policies,
    st.sampled_from((X86_64, AARCH64)),
    st.lists(st.lists(longs, min_size=6, max_size=6), min_size=1, max_size=4),
)
def test_assemble_any_rules_decide_as_the_rules_say(
    calls: dict[int, list[Clause]], machine: Machine, tried: list[list[int]]
) -> None:
    """Random allow-lists with random rules: the verdict is that of a direct evaluation."""
    instructions = check(assemble(machine, calls, default=KILL_PROCESS, foreign=0))

    for number in {*calls, *(number + 1 for number in calls), 500}:
        for values in tried:
            verdict = run(instructions, number, machine.audit, values)
            assert verdict == expected(calls, number, values, KILL_PROCESS)


@pytest.mark.parametrize("machine", [X86_64, AARCH64], ids=lambda machine: str(machine.name))
def test_assemble_foreign_architecture_is_killed(machine: Machine) -> None:
    """A number that is allowed is not allowed by another architecture's entry."""
    instructions = check(assemble(machine, {3: [Clause(ALLOW)]}, default=errno_verdict(1)))

    assert run(instructions, 3, machine.audit, NOTHING) == ALLOW
    assert run(instructions, 3, I386, NOTHING) == KILL_PROCESS


@pytest.mark.parametrize("number", [0x40000000, 0x40000003, 0x7FFFFFFF, INT])
def test_assemble_x32_number_is_killed(number: int) -> None:
    """On x86_64 numbers from 0x40000000 on are another ABI's, and so is -1."""
    instructions = check(assemble(X86_64, {3: [Clause(ALLOW)]}, default=errno_verdict(1)))

    assert run(instructions, number, X86_64.audit, NOTHING) == KILL_PROCESS


def test_assemble_unconditional_call_is_allowed_without_loading_an_argument() -> None:
    """Linux keeps a table of such calls and does not run the filter: number and arch are all."""
    calls = {1: [Clause(ALLOW, (Argument(0, (7,)),))], 2: [Clause(ALLOW)], 3: [Clause(ALLOW)]}
    instructions = check(assemble(X86_64, calls, default=KILL_PROCESS))
    blind = [
        instruction
        if instruction.kind != "load" or instruction.k in (0, 4)
        else type(instruction)(0x06, 0, 0, 99)
        for instruction in instructions
    ]

    assert [run(blind, number, X86_64.audit, NOTHING) for number in (1, 2, 3)] == [99, ALLOW, ALLOW]


def test_assemble_far_targets_are_reached() -> None:
    """Sets that no jump of one byte can pass over, in calls on both sides of the tree."""
    many = tuple(range(0, 2 * REACH, 2))
    calls = {number: [Clause(ALLOW, (Argument(1, many),))] for number in (1, 2, 3)}
    instructions = check(assemble(X86_64, calls, default=KILL_PROCESS))

    for number in calls:
        for value in (0, 1, 2 * REACH - 2, 2 * REACH - 1, 2 * REACH):
            values = (0, value, 0, 0, 0, 0)
            assert run(instructions, number, X86_64.audit, values) == expected(
                calls, number, values, KILL_PROCESS
            )


@pytest.mark.parametrize("between", [REACH - 1, REACH, REACH + 1])
@pytest.mark.parametrize("far_first", [True, False])
def test_program_jump_at_the_limit_of_its_reach_arrives(between: int, far_first: bool) -> None:
    """One short of, at, and beyond what one byte can say, for both targets of a jump."""
    program = Program()
    near, far = program.label(), program.label()
    program.load(0)
    program.jump(JEQ, 5, *((far, near) if far_first else (near, far)))
    program.place(near)
    for _ in range(between):
        program.mask(INT)
    program.verdict(1)
    program.place(far)
    program.verdict(2)
    instructions = check(program.encode())

    assert run(instructions, 5, 0, NOTHING) == (2 if far_first else 1)
    assert run(instructions, 6, 0, NOTHING) == (1 if far_first else 2)


def test_program_backward_jump_is_refused() -> None:
    """A label that was passed is no target."""
    program = Program()
    start = program.label()
    program.place(start)
    program.load(0)
    program.goto(start)

    with pytest.raises(BackendBug, match="not ahead"):
        program.encode()


def test_assemble_too_many_instructions_are_refused() -> None:
    """The kernel takes 4096."""
    calls = {1: [Clause(ALLOW, (Argument(0, tuple(range(5000)), INT),))]}

    with pytest.raises(BackendBug, match="of at most 4096"):
        assemble(X86_64, calls, default=KILL_PROCESS)


def test_assemble_number_of_another_abi_is_refused() -> None:
    """An x32 number in a list would never be reached."""
    with pytest.raises(BackendBug, match="no numbers of its calls"):
        assemble(X86_64, {0x40000001: [Clause(ALLOW)]}, default=KILL_PROCESS)


@pytest.mark.parametrize(
    ("index", "values", "mask"), [(6, (0,), LONG), (0, (), LONG), (0, (8,), 4)]
)
def test_argument_that_cannot_hold_is_refused(
    index: int, values: tuple[int, ...], mask: int
) -> None:
    """A seventh argument, no value, a value outside of its mask."""
    with pytest.raises(BackendBug, match="can never hold"):
        Argument(index, values, mask)
