# SPDX-License-Identifier: MIT
"""What the default configuration says of disks."""

from __future__ import annotations

from pathlib import Path

import config
from config.loader import load


def test_default_file_serves_disks_that_nothing_else_serves() -> None:
    """vbd and vbd3 are on; qdisk, which QEMU serves, is off; in the order of the explanations."""
    types = load(Path(config.__file__).with_name("xenbackd.yaml")).types

    assert [(name, one.enabled) for name, one in types.items() if one.handler == "block"] == [
        ("vbd", True),
        ("vbd3", True),
        ("qdisk", False),
    ]
