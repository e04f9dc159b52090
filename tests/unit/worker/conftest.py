# SPDX-License-Identifier: MIT
"""What the tests of the worker share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.handles import FakeHandles
from tests.fakes.hv import FakeHypervisor


@pytest.fixture
def handles() -> Iterator[FakeHandles]:
    """Handles of a hypervisor in this process."""
    hypervisor = FakeHypervisor()
    yield FakeHandles(hypervisor)
    hypervisor.close()
