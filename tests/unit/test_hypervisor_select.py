# SPDX-License-Identifier: MIT
"""Choosing the hypervisor."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import HostError
from shared.hypervisor import select
from shared.hypervisor.select import open_hypervisor


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /dev/xen/evtchn; absent until a test makes it."""
    path = tmp_path / "evtchn"
    monkeypatch.setattr(select, "EVTCHN_DEVICE", path)
    return path


def test_select_auto_without_xen_is_embedded(device: Path) -> None:
    """Where there is no Xen, `auto` takes the embedded hypervisor."""
    assert open_hypervisor("auto", Path("/nowhere")).name == "embedded"


def test_select_auto_with_xen_never_falls_back_in_silence(device: Path) -> None:
    """On a Xen host `auto` means Xen; that it is not supported yet is said."""
    device.touch()

    with pytest.raises(HostError, match="not part of this release"):
        open_hypervisor("auto", Path("/nowhere"))
    assert open_hypervisor("embedded", Path("/nowhere")).name == "embedded"


def test_select_xen_where_there_is_none_says_what_is_missing(device: Path) -> None:
    """The message names the device that is not there and the way out."""
    with pytest.raises(HostError, match=r"is not on this host.*embedded"):
        open_hypervisor("xen", Path("/nowhere"))


def test_select_embedded_that_does_not_run_fails_on_opening_handles(tmp_path: Path) -> None:
    """A missing hypervisor is the host's failure, with the socket's path in the message."""
    with pytest.raises(HostError, match=r"open handle: .*hypervisor/domain/0: No such file"):
        open_hypervisor("embedded", tmp_path).open_handles(grants=True)
