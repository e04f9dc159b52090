# SPDX-License-Identifier: MIT
"""Names of devices."""

from __future__ import annotations

import pytest

from shared.device_id import DeviceId
from shared.errors import ConfigError


def test_device_id_printed_and_parsed_is_the_same() -> None:
    """`str` and `parse` are inverse."""
    device = DeviceId("toy", 3, 51712)

    assert str(device) == "toy/3/51712"
    assert DeviceId.parse("toy/3/51712") == device


@pytest.mark.parametrize(
    "text",
    [
        "",
        "toy",
        "toy/3",
        "toy/3/",
        "toy/3/1/2",
        "TOY/3/1",
        "../3/1",
        "toy/-1/1",
        "toy/03/1",
        "toy/ 3/1",
        "toy/3/4294967296",
        "toy/32752/1",
        "toy/٣/1",
        "toy/3/1\n",
    ],
)
def test_device_id_of_anything_else_is_a_configuration_error(text: str) -> None:
    """What is no device name is refused, and the form of a name is given."""
    with pytest.raises(ConfigError, match="TYPE/DOMID/DEVID"):
        DeviceId.parse(text)
