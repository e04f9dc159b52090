# SPDX-License-Identifier: MIT
"""One scene for the tests of each file: they leave it as they found it, which it asserts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.hostile.scene import Scene, running_scene


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """A running xenbackd, an innocent guest under verified I/O, room for a hostile one."""
    with running_scene() as it:
        yield it


@pytest.fixture
def journal_file() -> Iterator[int]:
    """A file for an in-flight journal."""
    fd = os.memfd_create("journal")
    yield fd
    os.close(fd)
