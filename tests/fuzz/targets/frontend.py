# SPDX-License-Identifier: MIT
"""A frontend's directory and the head of its ring, as a block device reads them when it connects.

Whatever stands there, the device connects or blames the guest, and gives everything back. Input: a
byte of options, 16 bytes for the ring's indices, then `name=value` lines.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from shared.errors import GuestFault
from shared.messages import Nodes
from tests.fakes.handles import FakeHandles, make_context
from tests.fakes.hv import FakeHypervisor
from worker.devices.block.about import BlockOptions
from worker.devices.block.backend import BlockDevice

RING_PAGES = 16

_directory = Path(tempfile.mkdtemp(prefix="xbf"))
atexit.register(shutil.rmtree, _directory, ignore_errors=True)
_image = _directory / "image"
_image.write_bytes(bytes(64 * 512))
_backend: Nodes = {"params": f"aio:{_image}".encode(), "mode": b"w"}
_hypervisor = FakeHypervisor(RING_PAGES)
for _page in range(RING_PAGES):
    _hypervisor.grant(8 + _page, _page)


def check(untrusted_data: bytes) -> None:
    """One connection."""
    flags = untrusted_data[0] if untrusted_data else 0
    _hypervisor.memory[:16] = untrusted_data[1:17].ljust(16, b"\0")
    handles = FakeHandles(_hypervisor)
    options = BlockOptions(
        engine="sync",
        poll_us=0,
        grants="copy" if flags & 2 else "persistent",
        max_ring_page_order=flags >> 4 & 3,
    )
    device = BlockDevice(make_context(handles, options, "vbd"))
    device.init(_backend)
    try:
        published = device.initialise(_backend, _nodes(untrusted_data[17:]), resume=bool(flags & 1))
        assert published["sectors"] == b"64"
        device.run([], 0)
    except GuestFault as error:
        _check_text(str(error))
    finally:
        device.free()
    assert not _hypervisor.mapped, "pages of the guest's are still mapped"
    assert handles.channels.bound == handles.channels.unbound


def _check_text(text: str) -> None:
    assert text.isprintable(), "what a guest wrote stands in an error as it is"


def _nodes(untrusted_data: bytes) -> Nodes:
    nodes = {}
    for line in untrusted_data.split(b"\n"):
        name, equals, value = line.partition(b"=")
        if equals:
            nodes[name.decode("latin-1")] = value
    return nodes
