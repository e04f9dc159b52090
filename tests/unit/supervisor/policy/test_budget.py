# SPDX-License-Identifier: MIT
"""The restart budget: per domain, over the host, and what a device at the bound goes through."""

from __future__ import annotations

import msgspec
import pytest

from config.model import Config, LimitsConfig, RestartConfig, TypeConfig
from shared.device_id import DeviceId
from shared.lifecycle_types import Hold
from supervisor.policy.budget import Admission, RestartBudget
from tests.fakes.clock_loop import in_clock_loop, pass_time, settle
from tests.fakes.supervisor_world import TOY, World, world_of

LIMITS = LimitsConfig()
OTHER = DeviceId("toy", 4, 51712)


def test_budget_domain_has_twenty_restarts_in_its_window() -> None:
    """The 21st restart within 600 s waits until the first is that old."""
    budget = RestartBudget()
    turns = [budget.turn(3, 10.0 * n, LIMITS) for n in range(20)]
    assert turns == [10.0 * n for n in range(20)]
    assert budget.turn(3, 200.0, LIMITS) == 600.0
    assert budget.turn(3, 200.0, LIMITS) == 610.0


def test_budget_full_domain_leaves_others_alone() -> None:
    """What one domain used up is nothing to another one."""
    budget = RestartBudget()
    for _ in range(25):
        budget.turn(3, 0.0, LIMITS)
    assert budget.turn(4, 0.0, LIMITS) == 0.0


def test_budget_window_that_passed_is_free_again() -> None:
    """Restarts older than the window do not count."""
    budget = RestartBudget()
    for _ in range(20):
        budget.turn(3, 0.0, LIMITS)
    assert budget.turn(3, 600.0, LIMITS) == 600.0


def test_budget_turn_given_back_is_for_the_next_one() -> None:
    """A device that went away while it waited takes nothing from the others of its domain."""
    budget = RestartBudget()
    for n in range(20):
        budget.turn(3, float(n), LIMITS)
    at = budget.turn(3, 100.0, LIMITS)
    budget.give_back(3, at)
    assert at == budget.turn(3, 101.0, LIMITS) == 600.0


def test_budget_host_burst_then_rate() -> None:
    """Fifty restarts at once, then one each tenth of a second, in the order of the asking."""
    budget = RestartBudget()
    turns = [budget.turn(domid, 0.0, LIMITS) for domid in range(60)]
    assert turns[:50] == [0.0] * 50
    assert turns[50:] == pytest.approx([0.1 * n for n in range(1, 11)])


def test_budget_host_burst_comes_back() -> None:
    """Five seconds after it was used up the burst is whole again."""
    budget = RestartBudget()
    for domid in range(50):
        budget.turn(domid, 0.0, LIMITS)
    turns = [budget.turn(domid, 5.0, LIMITS) for domid in range(50, 101)]
    assert turns == [*([5.0] * 50), pytest.approx(5.1)]


def test_budget_domains_without_restarts_are_forgotten() -> None:
    """Thousands of guests that came and went leave nothing behind."""
    budget = RestartBudget()
    for domid in range(5000):
        budget.turn(domid, 1000.0 * domid, LIMITS)
    assert len(budget._domains) < 300


def test_admission_first_start_and_waived_start_are_free() -> None:
    """Neither a first start nor one the operator wants takes a turn."""
    limits = msgspec.structs.replace(LIMITS, domain_restarts=1)
    admission = Admission(RestartBudget(), 3)
    assert admission.wait(0.0, limits) == 0.0
    assert admission.wait(1.0, limits) == 0.0
    assert admission.wait(2.0, limits) == 599.0
    admission.waive(3.0)
    assert admission.wait(3.0, limits) == 0.0


def test_admission_asked_again_keeps_its_turn() -> None:
    """Asking before the time has come gives the rest of the wait and no second turn."""
    limits = msgspec.structs.replace(LIMITS, domain_restarts=1)
    admission = Admission(RestartBudget(), 3)
    admission.wait(0.0, limits)
    admission.wait(0.0, limits)
    assert admission.wait(100.0, limits) == 500.0
    assert admission.wait(250.0, limits) == 350.0
    assert admission.wait(600.0, limits) == 0.0


async def exhausted() -> World:
    """A domain whose two restarts in 600 s are used up and whose worker died again; a neighbour."""
    config = Config(
        types={"toy": TypeConfig(handler="toy")},
        restart=RestartConfig(initial=0, quarantine_failures=100),
        limits=LimitsConfig(domain_restarts=2),
    )
    world = await world_of(config)
    await world.serving()
    await world.serving(OTHER)
    for _ in range(3):
        world.workers.exits(TOY, -11)
        await pass_time(0.01)
    return world


@in_clock_loop
async def test_device_beyond_the_budget_is_held_until_the_window_has_room() -> None:
    """The third restart waits, is said to, and comes when the first is 600 s old."""
    world = await exhausted()
    assert Hold.BUDGET is world.device().lifecycle.hold
    assert world.status().hold == "budget"
    kinds = [event.kind for event in world.events.last(50, str(TOY))]
    assert kinds.count("budget") == 1
    await pass_time(590)
    assert Hold.BUDGET is world.device().lifecycle.hold
    await pass_time(10)
    assert Hold.NONE is world.device().lifecycle.hold
    assert [generation for device, generation in world.workers.starts if device == TOY][-1] == 4


@in_clock_loop
async def test_device_of_another_domain_restarts_at_once_meanwhile() -> None:
    """The neighbour of an exhausted domain has its worker back without a pause."""
    world = await exhausted()
    world.workers.exits(OTHER, -11)
    await settle()
    assert world.workers.starts[-1] == (OTHER, 2)


@in_clock_loop
async def test_device_held_by_the_budget_starts_when_cleared() -> None:
    """The operator's word goes before the budget."""
    world = await exhausted()
    world.device().release()
    await settle()
    assert world.workers.starts[-1] == (TOY, 4)


@in_clock_loop
async def test_device_of_a_guest_that_reconnects_after_faults_is_bounded_too() -> None:
    """Starting anew after each fault does not get a guest more workers than its budget has."""
    limits = LimitsConfig(domain_restarts=2)
    restart = RestartConfig(guest_faults=100)
    types = {"toy": TypeConfig(handler="toy")}
    world = await world_of(Config(types=types, restart=restart, limits=limits))
    await world.serving()
    for _ in range(3):
        world.workers.exits(TOY, 76)
        await settle()
        world.frontend(6)
        await settle()
        world.frontend(1)
        await settle()
        if TOY in world.workers.specs:
            await world.ready()
    assert Hold.BUDGET is world.device().lifecycle.hold
    assert world.workers.starts[-1] == (TOY, 3)


@in_clock_loop
async def test_device_unplugged_while_held_leaves_its_turn_to_others() -> None:
    """A device that goes away gives its turn back and starts nothing."""
    world = await exhausted()
    starts = list(world.workers.starts)
    world.store.remove(world.back())
    await settle()
    assert world.registry.get(TOY) is None
    now = world.surroundings.clock()
    assert now == world.surroundings.budget.turn(3, now, LimitsConfig(domain_restarts=3))
    await pass_time(700)
    assert starts == world.workers.starts
