# SPDX-License-Identifier: MIT
"""`doctor` on made-up hosts: what it finds, the remedy, and whether devices can be served."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from config.loader import loads
from config.model import Config, TypeConfig
from shared.device_types import RESOLVED, resolve
from supervisor.cli import doctor, doctor_checks, doctor_jail
from supervisor.cli.doctor_probe import (
    FEATURES,
    Directory,
    HostProbe,
    JailStep,
    Probe,
    Process,
)
from supervisor.cli.doctor_types import EMBEDDED, XEN, Finding, Level
from supervisor.workers.confinement.cgroups import UNIT

RUN = "/run/xenbackd"
TOY = Config(types={name: TypeConfig(handler="toy") for name in ("toy", "toymodel")})
PLAIN = Config(types={"toyplain": TypeConfig(handler="toy")})


@dataclass
class FakeHost:
    """A host that is made of tables; as it stands a Linux without Xen that has all else."""

    paths: set[str] = field(
        default_factory=lambda: {
            "/run/systemd/system",
            f"/sys/fs/cgroup/system.slice/{UNIT}",
        }
    )
    locked: set[str] = field(default_factory=set)
    files: dict[str, str] = field(
        default_factory=lambda: {
            "/proc/self/mountinfo": "30 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids",
            "/etc/passwd": "root:x:0:0::/root:/bin/sh\n# comment\nnobody:x:65534:65534:::",
            "/etc/subuid": "me:100000:65536",
        }
    )
    sockets: set[str] = field(default_factory=set)
    directories: dict[str, Directory] = field(
        default_factory=lambda: {RUN: Directory(0, 0o711), "/run": Directory(0, 0o755)}
    )
    libraries: set[str] = field(default_factory=set)
    broken: dict[str, str] = field(default_factory=dict)
    features: set[str] = field(default_factory=lambda: set(FEATURES))
    version: tuple[int, int] = (3, 11)
    limit: int = 65536
    user: int = 0
    running: list[Process] = field(default_factory=list)
    stored: dict[str, frozenset[int]] | None = None
    jailed: list[JailStep] | str = field(
        default_factory=lambda: [
            JailStep("cgroup", "control group", "left out", "none is delegated"),
            JailStep("user", "user 7", "done", ""),
        ]
    )

    def exists(self, path: str) -> bool:
        return path in self.paths

    def openable(self, path: str) -> bool:
        return path not in self.locked and (path in self.paths or path in self.directories)

    def connectable(self, path: str) -> str:
        return "" if path in self.sockets else "No such file or directory"

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def directory(self, path: str) -> Directory | None:
        return self.directories.get(path)

    def loadable(self, library: str) -> bool:
        return library in self.libraries

    def import_errors(self, modules: Sequence[str]) -> dict[str, str]:
        return {module: self.broken.get(module, "") for module in modules}

    def feature(self, name: str) -> bool:
        return name in self.features

    def kernel(self) -> str:
        return "6.1.0"

    def python(self) -> tuple[int, int]:
        return self.version

    def descriptors(self) -> tuple[int, int]:
        return 1024, self.limit

    def uid(self) -> int:
        return self.user

    def processes(self) -> list[Process]:
        return self.running

    def jail(self, uid: int) -> list[JailStep] | str:
        return self.jailed

    def backends(
        self, transport: str, socket: str, device: str
    ) -> dict[str, frozenset[int]] | None:
        return self.stored


def dom0() -> FakeHost:
    """A host where everything for real Xen is there."""
    host = FakeHost()
    host.paths |= {f"/dev/xen/{name}" for name in ("evtchn", "gntdev", "xenbus", "privcmd")}
    host.files |= {
        "/sys/hypervisor/type": "xen",
        "/sys/hypervisor/version/major": "4",
        "/sys/hypervisor/version/minor": "17",
        "/sys/hypervisor/version/extra": ".5",
        "/proc/xen/capabilities": "control_d",
    }
    host.sockets.add("/var/run/xenstored/socket")
    host.libraries |= {"libxenevtchn.so.1", "libxengnttab.so.1"}
    return host


def examine(host: Probe, config: Config = PLAIN, devices: int = 100) -> dict[str, Finding]:
    """All findings by subject."""
    return {one.subject: one for one in doctor_checks.all_checks(host, config, RUN, devices)}


def verdict(host: Probe, what: str, config: Config = PLAIN) -> bool:
    """Whether devices can be served."""
    return doctor_checks.can_serve(list(examine(host, config).values()), what)


def test_doctor_dom0_with_everything_has_no_complaint() -> None:
    """All is ok, nothing needs a remedy, and the versions are told."""
    found = examine(dom0())

    assert {Level.OK} == {one.level for one in found.values()}
    assert {""} == {one.remedy for one in found.values()}
    assert found["Xen"].text == "4.17.5"
    assert found["own domain"].text == "0 (dom0)"
    assert verdict(dom0(), XEN)


def test_doctor_host_without_xen_serves_the_embedded_hypervisor() -> None:
    """A laptop lacks Xen, and only that."""
    host = FakeHost()

    assert (verdict(host, XEN), verdict(host, EMBEDDED)) == (False, True)
    assert examine(host)["Xen"].text == "Linux does not run on Xen"


Change = Callable[[FakeHost], object]


@pytest.mark.parametrize(
    ("change", "subject", "remedy"),
    [
        (lambda h: h.paths.discard("/dev/xen/evtchn"), "/dev/xen/evtchn", "modprobe xen-evtchn"),
        (lambda h: h.locked.add("/dev/xen/gntdev"), "/dev/xen/gntdev", "Run as root."),
        (lambda h: h.libraries.clear(), "libxengnttab", "apt install libxengnttab1"),
        (lambda h: h.paths.add("/sys/module/xen_toyback"), "xen-toyback", "rmmod xen-toyback"),
        (
            lambda h: (h.sockets.clear(), h.paths.discard("/dev/xen/xenbus")),
            "xenstore",
            "systemctl start xenstored",
        ),
    ],
)
def test_doctor_missing_part_of_xen_blocks_xen_alone(
    change: Change, subject: str, remedy: str
) -> None:
    """Each thing that is missing stands with its remedy and forbids real Xen, not the other."""
    host = dom0()
    change(host)
    finding = examine(host, TOY)[subject]

    assert finding.level is Level.MISSING
    assert finding.remedy.startswith(remedy)
    assert (verdict(host, XEN, TOY), verdict(host, EMBEDDED, TOY)) == (False, True)


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        (lambda h: setattr(h, "version", (3, 9)), "Python"),
        (lambda h: h.broken.update(zmq="No module named 'zmq'"), "package zmq"),
        (
            lambda h: h.broken.update({"tests.fakes.toy.native._toy": "undefined symbol"}),
            "native tests.fakes.toy.native._toy",
        ),
        (lambda h: h.features.discard("pidfd"), "pidfd"),
        (lambda h: setattr(h, "jailed", "No module named worker.jail"), "trial"),
        (
            lambda h: h.jailed.append(JailStep("root", "empty root", "failed", "EPERM")),
            "root",
        ),
        (lambda h: h.directories.update({RUN: Directory(0, 0o777)}), "runtime directory"),
        (lambda h: h.directories.update({RUN: Directory(1000, 0o700)}), "runtime directory"),
        (lambda h: h.locked.add(RUN), "runtime directory"),
        (lambda h: (h.directories.pop(RUN), h.locked.add("/run")), "runtime directory"),
    ],
)
def test_doctor_missing_part_of_ours_blocks_both(change: Change, subject: str) -> None:
    """What we need everywhere forbids serving everywhere."""
    host = dom0()
    change(host)
    finding = examine(host)[subject]

    assert finding.level is Level.MISSING
    assert finding.remedy != ""
    assert (verdict(host, XEN), verdict(host, EMBEDDED)) == (False, False)


def test_doctor_type_that_names_an_unknown_feature_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A manifest may be foreign: its slip does not end the report, and prevents no device."""
    foreign = replace(resolve("toy"), kernel_features={"rseq": "it is slow", "memfd": "it is odd"})
    monkeypatch.setitem(RESOLVED, "toy", foreign)
    findings = doctor_checks.all_checks(FakeHost(), TOY, RUN, 1)

    found = [finding for finding in findings if finding.subject in ("rseq", "memfd")]
    assert [(finding.subject, finding.level) for finding in found] == [
        ("rseq", Level.WARNING),
        ("memfd", Level.OK),
    ]
    assert "device type toy asks for it" in found[0].text
    assert found[0].blocks == ()


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        (lambda h: h.features.discard("landlock"), "landlock"),
        (lambda h: h.features.discard("io_uring"), "io_uring"),
        (lambda h: h.features.discard("RWF_NOWAIT"), "RWF_NOWAIT"),
        (lambda h: h.files.pop("/proc/self/mountinfo"), "control groups"),
        (
            lambda h: h.files.update({"/sys/fs/cgroup/cgroup.controllers": "hugetlb"}),
            "control groups",
        ),
        (
            lambda h: h.paths.discard(f"/sys/fs/cgroup/system.slice/{UNIT}"),
            "control groups",
        ),
        (lambda h: h.files.update({"/etc/passwd": "x:x:1879048192:7::/:"}), "user ids"),
        (lambda h: h.files.update({"/etc/group": "x:x:1879080959:"}), "user ids"),
        (lambda h: h.files.update({"/etc/subgid": "me:1879000000:65536"}), "user ids"),
        (
            lambda h: h.jailed.append(JailStep("files", "no files", "left out", "no Landlock")),
            "files",
        ),
        (lambda h: setattr(h, "limit", 100), "open descriptors"),
        (lambda h: h.files.pop("/proc/xen/capabilities"), "xenfs"),
        (lambda h: h.paths.discard("/dev/xen/privcmd"), "/dev/xen/privcmd"),
        (
            lambda h: h.running.append(Process(42, ("qemu-system-i386", "-xen-domid", "3"))),
            "QEMU",
        ),
    ],
)
def test_doctor_less_than_the_best_is_a_warning(change: Change, subject: str) -> None:
    """What can be done without is named with its remedy and forbids nothing."""
    host = dom0()
    change(host)
    finding = examine(host, TOY)[subject]

    assert finding.level is Level.WARNING
    assert finding.remedy != ""
    assert verdict(host, XEN, TOY)


def test_doctor_jail_says_what_holds_and_whose_the_numbers_are() -> None:
    """Each step that works, nobody in the range, and control groups by their unit."""
    host = dom0()
    found = examine(host)

    assert (found["user"].level, found["user"].text) == (Level.OK, "user 7")
    assert found["user ids"].text == "1879048192..1879080959: nobody else's"
    assert UNIT in found["control groups"].text
    assert "cgroup" not in found
    host.paths.discard("/run/systemd/system")
    assert "group of its own" in examine(host)["control groups"].text


def test_doctor_jail_of_another_user_asks_for_no_numbers() -> None:
    """Its workers stay who they are."""
    host = FakeHost()
    host.user = 1000

    assert "user ids" not in examine(host)


def test_doctor_names_what_the_configuration_does_without() -> None:
    """At the key, and each range of numbers is looked at."""
    text = "types: {toy: {handler: toy, jail: {mode: log, uid_base: 100000, uids: 9}}}"
    checks = doctor_checks.all_checks(FakeHost(), loads(text, "x.yaml"), RUN, 1)
    found = [one.text for one in checks if one.section == doctor_jail.SECTION]

    assert found[0].startswith("log: toy")
    assert "100000..100008: also containers of me in /etc/subuid" in found
    assert "1879048192..1879080959: nobody else's" in found


def test_doctor_conflicts_do_not_matter_for_types_that_are_off() -> None:
    """The kernel and QEMU may serve what we do not."""
    host = dom0()
    host.paths.add("/sys/module/xen_toyback")
    host.running.append(Process(42, ("qemu-system-i386", "-xen-domid", "3")))
    found = examine(host, PLAIN)

    assert found["xen-toyback"].level is found["QEMU"].level is Level.OK
    assert verdict(host, XEN, PLAIN)


def test_doctor_ordinary_qemu_is_no_conflict() -> None:
    """A virtual machine of KVM serves no PV backends."""
    host = dom0()
    host.running.append(Process(42, ("qemu-system-x86_64", "-enable-kvm")))

    assert examine(host, TOY)["QEMU"].level is Level.OK


def test_doctor_driver_domain_uses_the_device() -> None:
    """Without a xenstored of its own the kernel's device will do."""
    host = dom0()
    host.sockets.clear()
    host.files["/proc/xen/capabilities"] = ""
    found = examine(host)

    assert found["xenstore"].text == "device /dev/xen/xenbus"
    assert "driver domain" in found["own domain"].text


def test_doctor_unlimited_descriptors_are_enough() -> None:
    """RLIM_INFINITY is -1."""
    host = dom0()
    host.limit = -1

    assert examine(host, devices=10**6)["open descriptors"].level is Level.OK


@pytest.mark.parametrize(
    ("expected", "host", "hypervisor"),
    [
        (0, dom0(), "auto"),
        (0, FakeHost(), "auto"),
        (1, FakeHost(), "xen"),
        (0, dom0(), "embedded"),
    ],
)
def test_doctor_exit_code_answers_for_the_hypervisor_in_question(
    expected: int, host: FakeHost, hypervisor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 if devices can be served there, 1 if not; auto is Xen where there is Xen."""
    code = doctor.report(host, PLAIN, run_dir=RUN, hypervisor=hypervisor, devices=1, as_json=False)

    assert expected == code
    assert f"(asked for: {hypervisor})" in capsys.readouterr().out


def test_doctor_plain_report_has_the_remedy_below_its_finding(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A line for what is missing, the next for what to do."""
    doctor.report(FakeHost(), PLAIN, run_dir=RUN, hypervisor="xen", devices=1, as_json=False)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    place = next(i for i, line in enumerate(lines) if "libxenevtchn " in line)

    assert lines[place].startswith("missing  libxenevtchn")
    assert lines[place + 1] == "-> apt install libxenevtchn1"


def test_doctor_json_has_verdict_and_findings(capsys: pytest.CaptureFixture[str]) -> None:
    """The same for machines."""
    doctor.report(FakeHost(), PLAIN, run_dir=RUN, hypervisor="auto", devices=1, as_json=True)
    data = json.loads(capsys.readouterr().out)

    assert (
        data["hypervisor"],
        data["can_serve"],
        data["can_serve_xen"],
    ) == ("embedded", True, False)
    assert {"level", "subject", "text", "remedy", "blocks", "section"} == set(data["findings"][0])


def test_host_probe_answers_every_question_on_this_host() -> None:
    """The real probe never raises, whatever host this is."""
    probe = HostProbe()
    for name in FEATURES:
        probe.feature(name)

    assert probe.exists("/proc/self")
    assert probe.read("/proc/no/such") is None
    assert probe.directory("/proc/self/stat") is None
    assert probe.directory("/") is not None
    assert probe.connectable("/no/such") == "No such file or directory"
    assert not probe.loadable("libnosuch-of-xenbackd.so.1")
    assert probe.processes()
    assert probe.backends("socket", "/no/such", "/no/such") is None
    assert probe.kernel()
    with pytest.raises(ValueError, match="unknown feature"):
        probe.feature("nonsense")
