# SPDX-License-Identifier: MIT
"""`doctor` on a host with xl: who serves which directory, and who else would."""

from __future__ import annotations

import pytest

from config.loader import loads
from supervisor.cli import doctor_xl
from supervisor.cli.doctor_probe import Process
from supervisor.cli.doctor_types import XEN, Finding, Level
from tests.unit.supervisor.cli.test_doctor import FakeHost, dom0

MODEL = "types: {toymodel: {handler: toy}}"
TOY = "types: {toy: {handler: toy}}"
PV = "/usr/libexec/xen-qemu-system-i386 -xen-domid 3 -name a -machine xenpv -m 128"
HVM = "/usr/bin/qemu-system-i386 -xen-domid 3 -name a -machine xenfv,suppress-vmdesc=on"
OURS = "/opt/xenbackd/bin/python /opt/xenbackd/bin/xenbackd-device-model -xen-domid 3 -M xenpv"


def process(line: str, pid: int = 42) -> Process:
    """A process with this command line."""
    return Process(pid, tuple(line.split()))


def findings(host: FakeHost, config: str = MODEL) -> dict[str, Finding]:
    """All findings by subject."""
    return {one.subject: one for one in doctor_xl.all_checks(host, loads(config, "x.yaml"))}


def host_with(*lines: str, **stored: frozenset[int]) -> FakeHost:
    """A dom0 with these processes and backend directories."""
    host = dom0()
    host.running = [process(line, 100 + number) for number, line in enumerate(lines)]
    host.stored = dict(stored)
    return host


@pytest.mark.parametrize(
    ("line", "remedy"), [(PV, "device_model_override"), (HVM, "HVM guests keep their QEMU")]
)
def test_doctor_xl_qemu_and_we_on_one_directory_forbids_serving(line: str, remedy: str) -> None:
    """Two servers of one device destroy its data."""
    found = findings(host_with(line, toymodel=frozenset({3, 4})))["QEMU"]

    assert (found.level, found.blocks) == (Level.MISSING, (XEN,))
    assert "domain 3: QEMU and we serve toymodel" in found.text
    assert remedy in found.remedy


def test_doctor_xl_qemu_of_a_guest_without_our_devices_is_a_warning() -> None:
    """It would take what the guest is given later."""
    found = findings(host_with(HVM, toymodel=frozenset({4})))["QEMU"]

    assert (found.level, found.blocks) == (Level.WARNING, ())


def test_doctor_xl_qemu_matters_only_for_its_kinds() -> None:
    """A toy is nothing to it."""
    found = findings(host_with(HVM, toy=frozenset({3})), TOY)["QEMU"]

    assert found.level is Level.OK


def test_doctor_xl_qemu_for_dom0_is_no_conflict_until_it_serves() -> None:
    """Debian starts it for pygrub."""
    line = PV.replace("-xen-domid 3", "-xen-domid 0")

    assert findings(host_with(line, toymodel=frozenset({4})))["QEMU"].level is Level.OK
    assert findings(host_with(line, toymodel=frozenset({0})))["QEMU"].level is Level.MISSING


def test_doctor_xl_our_device_model_is_no_qemu() -> None:
    """The guests it stands in for are told."""
    found = findings(host_with(OURS, toymodel=frozenset({3})))

    assert found["QEMU"].text == "none serves PV devices"
    assert found["xenbackd-device-model"].text == "stands in for QEMU with 1 guest: domain 3"
    assert found["xenbackd-device-model"].level is Level.OK


def test_doctor_xl_our_device_model_without_a_type_is_a_warning() -> None:
    """Nobody serves what it keeps free."""
    found = findings(host_with(OURS, toymodel=frozenset({3})), TOY)

    assert found["xenbackd-device-model"].level is Level.WARNING
    assert found["backend/toymodel"].level is Level.WARNING
    assert "nobody we know serves domain 3" in found["backend/toymodel"].text


def test_doctor_xl_kernel_driver_and_toy_forbids_serving() -> None:
    """The kernel takes every toy as it appears."""
    host = host_with()
    host.paths.add("/sys/module/xen_toyback")

    assert findings(host, TOY)["xen-toyback"].blocks == (XEN,)
    assert findings(host, MODEL)["xen-toyback"].level is Level.OK


def test_doctor_xl_devd_with_toymodel_is_a_warning() -> None:
    """It starts a QEMU for each guest; with other types it only runs scripts."""
    host = host_with("/usr/sbin/xl devd -F")

    assert findings(host)["xl devd"].level is Level.WARNING
    assert findings(host, TOY)["xl devd"].level is Level.OK
    assert "xl devd" not in findings(host_with("/usr/sbin/xl console devdomain"))


def test_doctor_xl_directories_are_told_with_their_servers() -> None:
    """One line for each kind that has devices."""
    host = host_with(
        HVM,
        toy=frozenset({3}),
        vif=frozenset({3}),
        vkbd=frozenset({3}),
        console=frozenset({3}),
        vinput=frozenset({3}),
        vfb=frozenset(),
    )
    host.paths.add("/sys/module/xen_netback")
    found = findings(host, TOY)
    served = {name: one.text.partition(": ")[2] for name, one in found.items() if "/" in name}

    assert served == {
        "backend/console": "served by xenconsoled or QEMU",
        "backend/toy": "xenbackd's to serve",
        "backend/vif": "served by the kernel",
        "backend/vinput": "nobody we know serves domain 3",
        "backend/vkbd": "served by QEMU",
    }


def test_doctor_xl_without_xenstore_says_nothing_of_directories() -> None:
    """That xenstored is away has a line of its own."""
    host = host_with(PV)
    host.stored = None
    found = findings(host)

    assert not [name for name in found if name.startswith("backend/")]
    assert found["QEMU"].level is Level.WARNING


def test_doctor_xl_many_guests_are_cut_short() -> None:
    """A line stays a line."""
    found = findings(host_with(toymodel=frozenset(range(1, 100))))["backend/toymodel"]

    assert found.text == "99 guests (domain 1, 2, 3, 4, 5, 6, 7, 8, …): xenbackd's to serve"
