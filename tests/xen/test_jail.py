# SPDX-License-Identifier: MIT
"""Workers in dom0 of real Xen: nobody's user, no capability, no file system, no network; and they
map the guest's pages, take its events and serve its disk all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.xen.bed.dom0 import LOG, Dom0, disk
from tests.xen.bed.guest import XVDA, XVDB, Guest

pytestmark = pytest.mark.xen

VERIFIED: Final = (
    "--rw=randrw --bs=4k --size=4m --iodepth=8 --verify_backlog=32 --time_based --runtime=900"
)
WIDE: Final = (
    "--rw=randwrite --bs=44k --size=4m --iodepth=32 --iodepth_batch=32"
    " --iodepth_batch_complete_min=32 --verify_backlog=32 --time_based --runtime=900"
)
"""Each request has all the segments that one without indirect ones can have."""
XVDC: Final = XVDB + 16
NAMESPACES: Final = ("ipc", "mnt", "uts")


@pytest.fixture(scope="module")
def guest(dom0: Dom0) -> Iterator[Guest]:
    """A guest with two empty disks."""
    first, second = dom0.image("a.img", "8M"), dom0.image("b.img", "8M")
    guest = dom0.create("jailed", [disk(first, "xvda"), disk(second, "xvdb")])
    dom0.wait_connected(guest.device(XVDA), guest.device(XVDB))
    yield guest
    dom0.destroy(guest)


@pytest.fixture
def workers(dom0: Dom0, guest: Guest) -> list[int]:
    """The processes of both disks."""
    seen = dom0.wait_connected(guest.device(XVDA), guest.device(XVDB))
    return list(seen.workers.values())


def threads(dom0: Dom0, pid: int) -> list[dict[str, str]]:
    """What the kernel says of each thread of a process."""
    told = dom0.run(f"for t in /proc/{pid}/task/*; do cat $t/status; echo; done")
    return [
        {name: value.strip() for name, _, value in (x.partition(":") for x in one.splitlines())}
        for one in told.strip().split("\n\n")
    ]


def test_worker_every_thread_has_a_user_of_its_own_and_no_privilege(
    dom0: Dom0, workers: list[int]
) -> None:
    """User and group beyond anybody's, no group besides, no capability, seccomp's filter."""
    users = set()
    for pid in workers:
        for thread in threads(dom0, pid):
            assert len(set(thread["Uid"].split())) == len(set(thread["Gid"].split())) == 1
            assert not thread["Groups"]
            capabilities = {thread[f"Cap{x}"] for x in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
            assert {int(x, 16) for x in capabilities} == {0}
            assert (thread["NoNewPrivs"], thread["Seccomp"]) == ("1", "2")
            users.add((pid, thread["Uid"].split()[0]))
    assert len(users) == len({user for _, user in users}) == len(workers)
    assert all(int(user) > 65535 for _, user in users)


def test_worker_namespaces_are_its_own_and_its_root_is_bare(dom0: Dom0, workers: list[int]) -> None:
    """Nobody shares a namespace but workers an empty network; of the file system the worker's
    socket is left."""
    for kind in NAMESPACES:
        links = [dom0.run(f"readlink /proc/{pid}/ns/{kind}") for pid in (dom0.pid, 1, *workers)]
        assert len(set(links)) == 1 + len(workers)
    networks = [dom0.run(f"readlink /proc/{pid}/ns/net") for pid in (dom0.pid, 1, *workers)]
    assert (len(set(networks[:2])), len(set(networks[2:])), len(set(networks))) == (1, 1, 2)
    for pid in workers:
        files = dom0.run(f"find /proc/{pid}/root/ -xdev ! -type d").split()
        assert [x for x in files if not x.endswith(".sock")] == []


def test_jailed_workers_disks_serve_verified_io(dom0: Dom0, guest: Guest) -> None:
    """fio finds what it wrote on both disks, and the workers are the ones they were."""
    names = (guest.device(XVDA), guest.device(XVDB))
    before = dom0.wait_connected(*names).workers
    for device in ("xvda", "xvdb"):
        guest.start_fio(device, VERIFIED)
    for device in ("xvda", "xvdb"):
        guest.wait_progress(device, 1000)
    for device in ("xvda", "xvdb"):
        guest.end_fio(device)
    assert guest.io_errors() == 0
    assert dom0.wait_connected(*names).workers == before


def test_sealed_worker_can_map_no_other_grant_and_serves_on(dom0: Dom0, guest: Guest) -> None:
    """With `grants: sealed` a Linux frontend soon has used every page that its ring can hold; from
    then on its worker does without the system calls that map and copy."""
    device = guest.device(XVDC)
    config = dom0.run("cat /etc/xenbackd.yaml")
    sealed = "vbd: {handler: block, options: {grants: sealed}}"
    dom0.write("/etc/xenbackd.yaml", config.replace("vbd: {handler: block}", sealed))
    dom0.run("xenbackd reload")
    try:
        dom0.run(f"xl block-attach {guest.name} '{disk(dom0.image('c.img', '8M'), 'xvdc')}'")
        dom0.wait_connected(guest.device(XVDA), guest.device(XVDB), device)
        guest.until("[ -b /dev/xvdc ]", "xvdc")
        guest.start_fio("xvdc", WIDE)
        dom0.until(f"grep -q '{device}: grants: sealed, 352 mapped' {LOG}", f"{device} sealed")
        guest.wait_progress("xvdc", 200)
        guest.end_fio("xvdc")
        assert guest.io_errors() == 0
        dom0.run(f"xl block-detach {guest.name} xvdc")
    finally:
        dom0.write("/etc/xenbackd.yaml", config)
        dom0.run("xenbackd reload")
    dom0.wait_connected(guest.device(XVDA), guest.device(XVDB))
