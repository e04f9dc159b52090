# SPDX-License-Identifier: MIT
"""The manifest of the type `block`, as the framework reads it."""

from __future__ import annotations

import pytest

from config.loader import loads
from config.model import Config
from shared.device_types import resolve
from shared.errors import ConfigError
from supervisor.cli import doctor_checks, figures
from supervisor.cli.doctor_types import Level
from supervisor.workers.health import Health
from tests.unit.supervisor.cli.test_doctor import RUN, dom0
from worker.devices.block.about import TYPE
from worker.devices.block.backend import BlockDevice
from worker.main import load

TIMEOUTS = Config().timeouts
SERVED = loads("types: {vbd: {handler: block}, vbd3: {handler: block}}", "x.yaml")


def test_s24_handler_block_is_found() -> None:
    """The built-in type is there, installed or not."""
    assert resolve("block") is TYPE
    assert load(TYPE) is BlockDevice


def test_s24_handler_block_is_found_without_loading_it() -> None:
    """The built-in handler is a name and a place, nothing is imported."""
    assert resolve("block").backend == "worker.devices.block.backend:BlockDevice"


def test_handler_unknown_names_the_built_in_ones() -> None:
    """The error says what there is."""
    with pytest.raises(ConfigError, match=r"no-such-handler.*block"):
        resolve("no-such-handler")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("feature-flush-cache", True),
        ("sectors", True),
        ("discard-alignment", True),
        ("max-ring-page-order", True),
        ("params", False),
        ("mode", False),
        ("state", False),
    ],
)
def test_block_worker_may_publish_only_its_nodes(name: str, allowed: bool) -> None:
    """Those of blkif.h that are the backend's, and none of the toolstack's."""
    assert allowed is TYPE.may_publish(name)


def test_block_worker_has_time_for_its_last_writes_and_keeps_a_journal() -> None:
    """What a disk needs of the supervisor."""
    assert (TYPE.drain, TYPE.journals, TYPE.needs_grants) == (30.0, True, True)


def test_block_counters_give_requests_and_bytes() -> None:
    """`status` finds reads, writes and sectors by their roles."""
    counters = {"rd_req": 100, "wr_req": 50, "rd_sect": 800, "wr_sect": 80}
    before = dict.fromkeys(counters, 0)

    assert figures.totals(TYPE.counters, counters) == "100/50"
    assert figures.rate_text(TYPE.counters, before, counters, 1.0) == "100/50 440 KiB/s"


def test_block_counters_show_a_stall() -> None:
    """The health check finds what is pending and what was finished."""
    told: list[str] = []
    health = Health(lambda _kind, text: told.append(text), TYPE.counters)
    health.beat({"in_flight": 1, "rd_req": 5}, 0.0, TIMEOUTS)
    health.beat({"in_flight": 1, "rd_req": 6}, 3600.0, TIMEOUTS)
    assert told == []
    health.beat({"in_flight": 1, "rd_req": 6}, 3600.0 + TIMEOUTS.progress_stalled, TIMEOUTS)

    assert told == ["stalled: 1 requests pending, none finished for 30 s"]


def test_doctor_names_the_driver_that_wants_the_disks() -> None:
    """Linux's blkback takes every vbd as it appears."""
    host = dom0()
    host.paths.add("/sys/module/xen_blkback")
    checks = doctor_checks.all_checks(host, SERVED, RUN, 1)
    found = {one.subject: one for one in checks}

    assert found["xen-blkback"].level is Level.MISSING
    assert found["xen-blkback"].remedy.startswith("rmmod xen-blkback")


def test_doctor_names_the_native_module_of_disks() -> None:
    """It is what no disk is served without."""
    host = dom0()
    host.broken["worker.devices.block.native._block"] = "undefined symbol"
    checks = doctor_checks.all_checks(host, SERVED, RUN, 1)
    found = {one.subject: one for one in checks}

    assert found["native worker.devices.block.native._block"].level is Level.MISSING
