# SPDX-License-Identifier: MIT
"""Figures of a load: the latency histogram and the checks of a configuration."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from worker.devices.block.guest.load import Latency, LoadConfig, bucket_end, latency
from worker.devices.block.guest.native._front import lib

BUCKETS = lib.FRONT_BUCKETS


@given(st.integers(0, 2**64 - 1))
def test_histogram_any_value_falls_into_a_bucket_that_is_close(value: int) -> None:
    """A bucket's end is at or above its values by at most 1/32, and above the bucket before."""
    index = lib.front_bucket(value)
    assert 0 <= index < BUCKETS
    assert value <= bucket_end(index) <= value * 33 // 32 + 1
    assert index == 0 or bucket_end(index - 1) < value


def test_histogram_ends_rise_and_are_in_their_own_bucket() -> None:
    """C and Python agree on every bucket."""
    ends = [bucket_end(index) for index in range(BUCKETS)]
    assert ends == sorted(set(ends))
    assert [lib.front_bucket(end) for end in ends] == list(range(BUCKETS))


def test_latency_percentiles_are_those_of_the_sorted_values() -> None:
    """Compared with the exact figures of ten thousand values of very different sizes."""
    rng = random.Random(1)
    values = sorted(int(rng.lognormvariate(10, 2)) for _ in range(10_000))
    buckets = [0] * BUCKETS
    for value in values:
        buckets[lib.front_bucket(value)] += 1
    result = latency(buckets)
    assert result.count == 10_000
    for found, index in (
        (result.p50, 4999),
        (result.p99, 9899),
        (result.p999, 9989),
        (result.max, 9999),
    ):
        assert values[index] <= found <= values[index] * 33 // 32 + 1


def test_latency_of_nothing_is_zero() -> None:
    """No I/O, no figures."""
    assert latency([0] * BUCKETS) == Latency()


def test_load_config_whole_disk_is_the_region_by_default() -> None:
    """Without size it is all the rest of the disk."""
    assert LoadConfig(offset=4096).check(1 << 20).size == (1 << 20) - 4096


@pytest.mark.parametrize(
    "config",
    [
        LoadConfig(block_size=1000),
        LoadConfig(offset=100),
        LoadConfig(offset=512, verify=True),
        LoadConfig(offset=1 << 20),
        LoadConfig(size=(1 << 20) + 512),
        LoadConfig(block_size=2 << 20),
        LoadConfig(size=2048),
        LoadConfig(verify=True, verify_unit=1000),
        LoadConfig(verify=True, verify_unit=1024, block_size=512),
    ],
)
def test_load_config_impossible_figures_are_config_error(config: LoadConfig) -> None:
    """Said before anything is done."""
    with pytest.raises(ConfigError, match="load"):
        config.check(1 << 20)


@pytest.mark.parametrize(("block", "unit"), [(512, 512), (1536, 512), (4096, 4096), (6144, 2048)])
def test_load_config_unit_divides_page_and_block(block: int, unit: int) -> None:
    """A unit never crosses a page nor a block."""
    assert LoadConfig(block_size=block).unit == unit
