# SPDX-License-Identifier: MIT
"""What libxl's command lines for a device model are read as."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.errors import ConfigError
from supervisor.devicemodel.arguments import Arguments, QmpSocket, parse, properties

SOCKET = "/var/run/xen/qmp-libxl-3"
LIBXL = (
    "-xen-domid 3 -no-shutdown"
    f" -chardev socket,id=libxl-cmd,path={SOCKET},server=on,wait=off"
    " -mon chardev=libxl-cmd,mode=control"
    " -chardev socket,id=libxenstat-cmd,path=/var/run/xen/qmp-libxenstat-3,server=on,wait=off"
    " -mon chardev=libxenstat-cmd,mode=control -nodefaults -no-user-config -xen-attach -name web"
    " -vnc none -display none -nographic -machine xenpv -m 128"
)


def words(text: str = LIBXL, change: Callable[[str], str] = str) -> list[str]:
    """A command line, changed."""
    return change(text).split()


def test_arguments_of_libxl_name_domain_and_sockets() -> None:
    """What libxl 4.17 gives for a PV guest."""
    sockets = (
        QmpSocket("libxl-cmd", SOCKET),
        QmpSocket("libxenstat-cmd", "/var/run/xen/qmp-libxenstat-3"),
    )

    assert Arguments(3, "web", sockets) == parse(words())


def test_arguments_of_qemu_xen_traditional_have_no_socket() -> None:
    """The old form names the domain by -d."""
    assert Arguments(7, "old") == parse(words("-d 7 -domain-name old -nographic -M xenpv"))


def test_arguments_of_xl_devd_have_no_socket() -> None:
    """In a driver domain; -monitor is no -mon."""
    line = "-xen-domid 4 -xen-attach -name domain-4 -nographic -M xenpv -monitor /dev/null"

    assert Arguments(4, "domain-4") == parse(words(line))


def test_arguments_with_inherited_socket_and_stopped() -> None:
    """With dm_restrict libxl listens itself and asks for the status."""
    path = f"path={SOCKET},server=on,wait=off"
    found = parse([*words(change=lambda s: s.replace(path, "fd=5,server,nowait")), "-S"])

    assert QmpSocket("libxl-cmd", fd=5) == found.sockets[0]
    assert found.stopped


def test_arguments_channel_is_no_qmp_socket() -> None:
    """A console that a QEMU would run is named, not served."""
    found = parse([*words(), "-chardev", "pty,id=libxl-channel0"])

    assert found.channels == ("libxl-channel0",)
    assert len(found.sockets) == 2


def test_arguments_d_beside_xen_domid_is_no_domain() -> None:
    """To qemu-xen -d is what to log (device_model_args of an administrator)."""
    assert parse([*words(), "-d", "guest_errors"]).domid == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace("xenpv", "xenfv,max-ram-below-4g=1"), "machine 'xenfv'.*only PV"),
        (lambda s: s.replace("xenpv", "pc,accel=xen"), "machine 'pc'"),
        (lambda s: s.replace("xenpv", "xenpvh"), "machine 'xenpvh'"),
        (lambda s: s.replace("xenpv", "type=xenfv"), "machine 'xenfv'"),
        (lambda s: s.replace("-machine xenpv", ""), "no -machine"),
        (lambda s: s + " -M xenfv", "machine 'xenfv'"),
        (lambda s: s + " -daemonize", "daemonize"),
        (lambda s: s.replace("-xen-domid 3", ""), "no -xen-domid"),
        (lambda s: s.replace("-xen-domid 3", "-xen-domid 32752"), "not a domain's number"),
        (lambda s: s.replace("-xen-domid 3", "-xen-domid 3x"), "not a domain's number"),
        (lambda s: s + " -name", "value is missing"),
        (lambda s: s + " -chardev socket -mon mode=control", "names no character device"),
        (lambda s: s.replace(SOCKET, "relative"), "not an absolute path"),
        (lambda s: s.replace(SOCKET, "/" + "x" * 107), "at most 107 bytes"),
        (lambda s: s.replace("server=on", "server=off"), "not a listening socket"),
        (lambda s: s.replace("socket,id", "pty,id"), "not a listening socket"),
        (lambda s: s.replace(f"path={SOCKET}", "fd=x"), "neither a path nor a descriptor"),
    ],
)
def test_arguments_not_for_us_are_refused_with_the_reason(
    change: Callable[[str], str], message: str
) -> None:
    """HVM guests and nonsense are the administrator's to correct."""
    with pytest.raises(ConfigError, match=message):
        parse(words(change=change))


@pytest.mark.parametrize(("letters", "fits"), [(106, True), (107, False)])
def test_arguments_path_that_is_no_text_has_its_length_in_bytes(letters: int, fits: bool) -> None:
    """Words that are no UTF-8 come with surrogates, each one byte of the path."""
    path = "/" + "\udcff" * letters
    given = words(change=lambda text: text.replace(SOCKET, path))

    if fits:
        assert parse(given).sockets[0].path == path
    else:
        with pytest.raises(ConfigError, match="at most 107 bytes"):
            parse(given)


def test_arguments_doubled_comma_is_a_comma() -> None:
    """QEMU's way to have one in a value."""
    expected = {"": "socket", "id": "x", "path": "/a,b", "server": "on"}

    assert expected == properties("socket,id=x,path=/a,,b,server")
