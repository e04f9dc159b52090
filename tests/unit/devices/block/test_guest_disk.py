# SPDX-License-Identifier: MIT
"""Disks as a toolstack is told of them: names, numbers, the form of the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from worker.devices.block.guest.disk import (
    DiskSpec,
    assign_names,
    device_name,
    device_number,
    name_of,
)


@pytest.mark.parametrize(
    ("vdev", "number"),
    [
        ("xvda", 51712),
        ("xvda1", 51713),
        ("xvdb", 51728),
        ("xvdp15", 51967),
        ("xvdq", (1 << 28) + 0x1000),
        ("xvda16", (1 << 28) + 16),
        ("xvdaa", (1 << 28) + (26 << 8)),
        ("sda", 2048),
        ("sdb3", 2067),
        ("hda", 768),
        ("hdb", 832),
        ("hdc", 5632),
        ("hdd2", 5698),
    ],
)
def test_device_number_known_name_is_what_libxl_computes(vdev: str, number: int) -> None:
    """Numbers as docs/man/xen-vbd-interface.7 counts them."""
    assert device_number(vdev) == number
    assert name_of(number) == vdev


@pytest.mark.parametrize(
    "vdev", ["", "xvd", "xvda01", "XVDA", "vda", "xvda256", "hde", "sdq", "xvd1"]
)
def test_device_number_unknown_name_is_config_error(vdev: str) -> None:
    """A name that has no number is refused by name."""
    with pytest.raises(ConfigError, match="vdev"):
        device_number(vdev)


@given(st.integers(0, (1 << 18)))
def test_device_name_any_index_has_its_own_number(index: int) -> None:
    """Index, name and number stand for each other."""
    assert name_of(device_number(device_name(index))) == device_name(index)


def test_disk_spec_all_words_are_read() -> None:
    """The full form of the command line."""
    disk = DiskSpec.parse("/a b.img,ro,vdev=xvdc,kind=qdisk,format=qcow2")
    assert disk == DiskSpec(
        path="/a b.img", vdev="xvdc", readonly=True, format="qcow2", kind="qdisk"
    )
    assert disk.devid == 51744
    assert disk.params == "qcow2:/a b.img"


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("/x", "/x"),
        ("/x,kind=vbd", "/x"),
        ("/x,kind=qdisk", "aio:/x"),
        ("/x,kind=vbd3,format=vhd", "vhd:/x"),
    ],
)
def test_disk_spec_params_follow_the_kind(text: str, params: str) -> None:
    """vbd gets a bare path, the other kinds a format before it."""
    assert DiskSpec.parse(text).params == params


@pytest.mark.parametrize(
    "text",
    ["", ",ro", "/x,rx", "/x,vdev=", "/x,ro,rw", "/x,kind=vif", "/x,format=zip", "/x,vdev=q"],
)
def test_disk_spec_wrong_word_is_config_error(text: str) -> None:
    """What is wrong is named, what is allowed is said."""
    with pytest.raises(ConfigError):
        DiskSpec.parse(text)


def test_assign_names_free_names_are_given_in_order() -> None:
    """Names that are taken or asked for are left out."""
    disks = [DiskSpec(path="/1"), DiskSpec(path="/2", vdev="xvda"), DiskSpec(path="/3")]
    assert [d.vdev for d in assign_names(disks, ["xvdb"])] == ["xvdc", "xvda", "xvdd"]


def test_assign_names_twice_the_same_is_config_error() -> None:
    """Two disks cannot have one name."""
    with pytest.raises(ConfigError, match="used twice"):
        assign_names([DiskSpec(path="/1", vdev="xvda"), DiskSpec(path="/2", vdev="xvda")])
