# SPDX-License-Identifier: MIT
"""Birth and death of domains, seen from inside and from dom0."""

from __future__ import annotations

import mmap
import os
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from embedded.domain import Domain
from embedded.hypercalls import Hypercalls
from embedded.protocol import FIRST_FRAME, HEADER, MAGIC, REPLY, socket_path
from shared.errors import ConfigError, HostError
from tests.process.embedded.embedded_world import Child, nothing_leaked, running_hypervisor
from tests.root import ROOT


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[Path]:
    """A hypervisor for the whole module."""
    with running_hypervisor() as path:
        yield path


@pytest.fixture
def directory(hypervisor: Path) -> Iterator[Path]:
    """The hypervisor's directory; a test must leave nothing in it."""
    with nothing_leaked(hypervisor):
        yield hypervisor


def living(directory: Path) -> set[int]:
    """Ids of the living domains."""
    with Hypercalls(directory) as hypercalls:
        return {domain.domid for domain in hypercalls.list_domains()}


def test_domains_ids_rise_and_are_not_given_again_at_once(directory: Path) -> None:
    """A domain that follows a dead one has a new id, never 0."""
    seen = []
    for _ in range(3):
        with Domain.create(directory, pages=64) as domain:
            seen.append(domain.domid)

    assert seen == [seen[0], seen[0] + 1, seen[0] + 2]
    assert seen[0] > 0


def test_domains_list_says_name_and_size(directory: Path) -> None:
    """What a domain was created with is what the list says."""
    with Domain.create(directory, "web-1", pages=99) as domain, Hypercalls(directory) as calls:
        (info,) = calls.list_domains()

        assert (info.domid, info.name, info.pages) == (domain.domid, "web-1", 99)


def test_domains_wanted_id_in_use_or_impossible_is_refused(directory: Path) -> None:
    """The errors say what is wrong with the wish."""
    with Domain.create(directory, pages=64) as domain:
        with pytest.raises(HostError, match="a domain of that id is alive"):
            Domain.create(directory, pages=64, domid=domain.domid)
        for domid in (0, 0x7FF0, 0x7FFF):
            with pytest.raises(HostError, match="out of range"):
                Domain.create(directory, pages=64, domid=domid)
    for pages in (0, FIRST_FRAME, 1 << 31):
        with pytest.raises(HostError, match="out of range"):
            Domain.create(directory, pages=pages)
    with pytest.raises(HostError, match="out of range"):
        Domain.create(directory, "x" * 65, pages=64)
    with pytest.raises(ConfigError, match="ASCII"):
        Domain.create(directory, "ü", pages=64)


def test_domains_header_tells_what_the_domain_is(directory: Path) -> None:
    """Page 0 holds magic, life, size, table size and id; death clears the life."""
    domain = Domain.create(directory, pages=64)
    magic, alive, pages, _, domid = HEADER.unpack_from(domain.memory)
    assert (magic, alive, pages, domid) == (MAGIC, 1, 64, domain.domid)
    memory = os.dup(domain.descriptors[1])
    domain.close()

    assert domid not in living(directory)
    with mmap.mmap(memory, mmap.PAGESIZE) as kept:
        assert HEADER.unpack_from(kept)[1] == 0
    os.close(memory)


def test_domains_memory_cannot_be_shrunk(directory: Path) -> None:
    """A guest cannot pull its pages from under those who have them mapped."""
    with Domain.create(directory, pages=64) as domain, pytest.raises(PermissionError):
        os.ftruncate(domain.descriptors[1], 4096)


def test_domains_die_with_the_last_holder_of_the_lifeline(directory: Path) -> None:
    """Parent gone, the child that has the lifeline too keeps the domain alive; killed, it dies."""
    domain = Domain.create(directory, pages=64)

    with Child(lambda: "holding") as holder:
        assert holder.result() == "holding"
        domain.close()
        assert domain.domid in living(directory)
        holder.kill()
        assert domain.domid not in living(directory)
    assert not Path(socket_path(str(directory), domain.domid)).exists()


ADOPTER = """
import sys
from pathlib import Path
from embedded.domain import Domain
lifeline, memory, domid = map(int, sys.argv[2:])
guest = Domain.adopt(lifeline, memory, Path(sys.argv[1]), domid)
page, = guest.alloc_pages(1)
print(guest.grant(page), guest.alloc_port(), bytes(guest.page(page)[:3]).decode(), flush=True)
sys.stdin.read()
"""


def test_domains_can_be_handed_to_another_program(directory: Path) -> None:
    """A domain adopted by an exec'ed process goes on with the same memory, and ends with it."""
    creator = Domain.create(directory, pages=64)
    (frame,) = creator.alloc_pages(1)
    creator.page(frame)[:3] = b"abc"
    used = creator.grant(frame)
    arguments = [str(value) for value in (directory, *creator.descriptors, creator.domid)]
    with subprocess.Popen(
        [sys.executable, "-c", ADOPTER, *arguments],
        pass_fds=creator.descriptors,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as guest:
        assert guest.stdout is not None
        ref, port, content = guest.stdout.readline().split()
        creator.close()
        assert creator.domid in living(directory)
        guest.kill()
    assert (int(ref), int(port), content) == (used + 1, 1, b"abc")
    assert creator.domid not in living(directory)


def test_domains_destroyed_from_dom0_end_whoever_holds_them(directory: Path) -> None:
    """After destruction the guest's own handle is broken and the lifeline means nothing."""
    domain = Domain.create(directory, pages=64)
    with Hypercalls(directory) as hypercalls:
        hypercalls.destroy_domain(domain.domid)
        with pytest.raises(HostError, match="no such domain"):
            hypercalls.destroy_domain(domain.domid)

    with pytest.raises(HostError, match="gone"):
        domain.alloc_port()
    domain.close()
    domain.close()


def test_domains_pages_are_handed_out_once_and_again_when_freed(directory: Path) -> None:
    """Single pages and runs never overlap; what is freed can be had again; no more than is."""
    with Domain.create(directory, pages=FIRST_FRAME + 8) as domain:
        run = domain.alloc_pages(4, contiguous=True)
        rest = domain.alloc_pages(4)
        assert sorted(run + rest) == list(range(FIRST_FRAME, FIRST_FRAME + 8))
        for contiguous in (False, True):
            with pytest.raises(HostError, match="no memory left"):
                domain.alloc_pages(1, contiguous=contiguous)
        domain.free_pages([rest[2], run[1], rest[0], run[2], rest[3]])
        assert domain.alloc_pages(2, contiguous=True) == run[1:3]
        assert set(domain.alloc_pages(3)) == {rest[0], rest[2], rest[3]}


def test_domains_with_views_still_held_can_be_closed(directory: Path) -> None:
    """Closing is death at once, also when somebody still looks at the memory."""
    domain = Domain.create(directory, pages=64)
    view = domain.page(FIRST_FRAME)
    domain.close()

    assert domain.domid not in living(directory)
    view.release()


def test_domains_garbage_on_the_socket_harms_nobody(directory: Path) -> None:
    """Short, unknown, oversized and inconsistent requests are answered with an errno."""
    garbage = [b"x", bytes(12), struct.pack("=HHII", 99, 0, 0, 0), b"\xff" * 20000]
    garbage += [struct.pack("=HHII", 6, 1, 1, count) for count in (0, 1, 0xFFFFFFFF)]
    garbage += [struct.pack("=HHII", op, 0xFFFF, 0xFFFFFFFF, 0) for op in range(1, 15)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(5)
        client.connect(socket_path(str(directory), 0))
        for data in garbage:
            client.send(data)
            reply = client.recv(65536)
            assert len(reply) >= REPLY.size
    with Domain.create(directory, pages=64) as domain:
        assert domain.domid in living(directory)


def test_domains_client_that_never_reads_loses_its_handle_only(directory: Path) -> None:
    """Requests without end and no reply taken: the hypervisor goes on serving the others."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(5)
        client.connect(socket_path(str(directory), 0))
        requests = iter(lambda: client.send(struct.pack("=HHII", 12, 0, 0, 0)), 0)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            deque(requests, maxlen=0)
        assert living(directory) == set()


def test_domains_handles_of_a_guest_are_bounded(directory: Path) -> None:
    """A guest that opens handles without end is turned away; dom0 is not affected."""
    with (
        Domain.create(directory, pages=64) as domain,
        Hypercalls(directory) as hypercalls,
        ExitStack() as clients,
    ):
        for _ in range(300):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            clients.enter_context(client).connect(socket_path(str(directory), domain.domid))
        client.settimeout(5)

        assert client.recv(1) == b""
        assert hypercalls.stats().domains[domain.domid].handles == 256
