# SPDX-License-Identifier: MIT
"""What tests against hostile guests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture
def journal_file() -> Iterator[int]:
    """A file for an in-flight journal."""
    fd = os.memfd_create("journal")
    yield fd
    os.close(fd)
