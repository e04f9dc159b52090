# SPDX-License-Identifier: MIT
"""The plan of the chaos run, and what its figures are made of."""

from __future__ import annotations

import array
from pathlib import Path

from bench.chaos_deeds import Done
from bench.chaos_figures import MS, Records, make_figures
from bench.chaos_plan import Deed, make_plan

SECOND = 1000 * MS


def write(path: Path, *ios: tuple[int, int]) -> Records:
    """A record file as the load generator writes it."""
    path.write_bytes(array.array("Q", [moment for io in ios for moment in io]).tobytes())
    return Records(path)


def test_plan_same_seed_is_the_same_plan() -> None:
    """Two plans of one seed do not differ; another seed's does."""
    assert make_plan(7, 60, 8) == make_plan(7, 60, 8)
    assert make_plan(7, 60, 8) != make_plan(8, 60, 8)


def test_plan_ten_minutes_hold_more_than_a_thousand_kills() -> None:
    """In order of time, within the time, and every deed is among them."""
    plan = make_plan(1, 600, 8)
    assert sum(step.deed is Deed.KILL for step in plan) > 1000
    assert [step.at for step in plan] == sorted(step.at for step in plan)
    assert plan[0].at > 0
    assert plan[-1].at < 600
    assert {step.deed for step in plan} == set(Deed)


def test_record_longest_wait_counts_from_the_kill(tmp_path: Path) -> None:
    """What was in flight is counted from the kill on, what was asked later from its asking on, and
    what was asked after the window not at all."""
    record = write(tmp_path / "r", (0, 5), (90, 150), (120, 150), (400, 900))
    assert record.longest_wait(100, 300) == 50
    assert record.longest_wait(160, 300) is None


def test_figures_kill_is_a_pause_and_not_among_the_others(tmp_path: Path) -> None:
    """What the guest that was hit waited is the pause; the latency of the others is the other's."""
    hit = write(tmp_path / "a", (0, MS), (10 * SECOND, 10 * SECOND + 60 * MS))
    other = write(tmp_path / "b", (0, MS), (10 * SECOND, 10 * SECOND + 2 * MS))
    kill = Done(Deed.KILL, 0, 10 * SECOND + 20 * MS, 10 * SECOND + 20 * MS)
    figures = make_figures([hit, other], [kill], [(0, SECOND)], [(SECOND, 20 * SECOND)], [], [])
    assert figures.pauses == [40.0]
    assert figures.calm == [1.0, 1.0]
    assert figures.others == [2.0]


def test_figures_kill_while_the_supervisor_is_away_is_told_apart(tmp_path: Path) -> None:
    """Such a pause is as long as the outage, and is shown as one."""
    record = write(tmp_path / "a", (10 * SECOND, 12 * SECOND))
    done = [
        Done(Deed.SUPERVISOR, -1, 9 * SECOND, 12 * SECOND),
        Done(Deed.KILL, 0, 10 * SECOND, 10 * SECOND),
    ]
    figures = make_figures([record], done, [(0, SECOND)], [(SECOND, 20 * SECOND)], [], [])
    assert (figures.pauses, figures.pauses_in_outages) == ([], [2000.0])
    assert figures.outages == [2000.0]


def test_figures_what_the_host_took_is_told_apart(tmp_path: Path) -> None:
    """In calm and in chaos alike, and pauses too."""
    hit = write(tmp_path / "a", (0, MS), (10 * SECOND, 10 * SECOND + 60 * MS))
    other = write(tmp_path / "b", (0, MS), (2 * MS, 6 * MS), (10 * SECOND, 10 * SECOND + 2 * MS))
    kill = Done(Deed.KILL, 0, 10 * SECOND + 20 * MS, 10 * SECOND + 20 * MS)
    stolen = [(5 * MS, 7 * MS), (10 * SECOND + MS, 11 * SECOND)]
    figures = make_figures([hit, other], [kill], [(0, SECOND)], [(SECOND, 20 * SECOND)], [], stolen)
    assert (figures.calm, figures.calm_stolen) == ([1.0, 1.0], [4.0])
    assert (figures.others, figures.others_stolen) == ([], [2.0])
    assert (figures.pauses, figures.pauses_stolen) == ([], [40.0])
