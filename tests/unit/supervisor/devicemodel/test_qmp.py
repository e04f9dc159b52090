# SPDX-License-Identifier: MIT
"""QMP as libxl and libxenstat speak it, and as somebody hostile would."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.devicemodel.arguments import Arguments, QmpSocket
from supervisor.devicemodel.framing import DEPTH_MAX, MESSAGE_MAX, Framer, FramingError
from supervisor.devicemodel.qmp import UNKNOWN_LOGGED_MAX, Answers, Session

GUEST = Arguments(3, "web", (QmpSocket("libxl-cmd", "/run/q"),))
CAPABILITIES = b'{"execute": "qmp_capabilities"}'


def open_session(arguments: Arguments = GUEST) -> Session:
    """A session past the negotiation."""
    session = Session(Answers(arguments))
    session.feed(CAPABILITIES)
    return session


def ask(session: Session, command: str, **more: Any) -> Any:
    """The one answer to a command."""
    (reply,) = replies(session.feed(json.dumps({"execute": command, **more}).encode()))
    return reply


def replies(data: bytes) -> list[Any]:
    """Answers, each of which ends as libxl wants it."""
    assert data == b"" or data.endswith(b"\r\n")
    return [json.loads(line) for line in data.split(b"\r\n")[:-1]]


def test_qmp_greeting_names_a_version() -> None:
    """libxl reads the version of QEMU from it."""
    (greeting,) = replies(Session(Answers(GUEST)).greeting())

    assert greeting["QMP"]["version"]["qemu"] == {"major": 7, "minor": 2, "micro": 0}
    assert greeting["QMP"]["capabilities"] == []


def test_qmp_libxl_after_start_gets_what_it_wants() -> None:
    """The dialogue of `xl create` with a vfb that has a password, ids given back."""
    session = Session(Answers(GUEST))

    assert ask(session, "qmp_capabilities", id=1) == {"return": {}, "id": 1}
    (chardev,) = ask(session, "query-chardev", id=2)["return"]
    assert (chardev["label"], chardev["filename"]) == ("libxl-cmd", "unix:/run/q,server=on")
    assert ask(session, "query-vnc", id=3) == {"return": {"enabled": False}, "id": 3}
    password = {"password": "secret"}
    assert ask(session, "change-vnc-password", arguments=password)["return"] == {}


def test_qmp_libxenstat_sends_no_line_end_and_is_answered() -> None:
    """xentop asks for block statistics; QEMU has no disk here."""
    session = open_session()

    assert replies(session.feed(b'{ "execute": "query-blockstats" }')) == [{"return": []}]
    assert replies(session.feed(b'{ "execute": "query-block" }')) == [{"return": []}]


def test_qmp_other_queries_tell_of_the_guest() -> None:
    """Status, name, version and the commands there are."""
    session = open_session()

    assert ask(session, "query-status")["return"]["status"] == "running"
    assert ask(session, "query-name")["return"] == {"name": "web"}
    assert ask(session, "query-version")["return"]["package"] == "xenbackd"
    assert {"name": "query-vnc"} in ask(session, "query-commands")["return"]


def test_qmp_stopped_guest_is_in_prelaunch_until_continued() -> None:
    """What libxl wants to hear with dm_restrict."""
    session = open_session(Arguments(3, "web", stopped=True))

    assert ask(session, "query-status")["return"]["status"] == "prelaunch"
    assert ask(session, "cont") == {"return": {}}
    assert ask(session, "query-status")["return"]["running"] is True


def test_qmp_quit_is_answered_and_noted() -> None:
    """The answer comes first, the end is the server's to make."""
    answers = Answers(GUEST)
    session = Session(answers)
    session.feed(CAPABILITIES)

    assert ask(session, "quit") == {"return": {}}
    assert answers.quit


def test_qmp_unknown_command_is_not_found_and_logged_within_bounds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As QEMU answers it; a client in a loop does not fill the log, and a name is cut."""
    session = open_session()
    caplog.set_level("INFO")
    for _ in range(UNKNOWN_LOGGED_MAX + 5):
        reply = ask(session, "human-monitor-command" * 99, arguments={"secret": 1}, id="x")

    assert (reply["error"]["class"], reply["id"]) == ("CommandNotFound", "x")
    assert len(reply["error"]["desc"]) < 120
    assert len(caplog.records) == UNKNOWN_LOGGED_MAX
    assert "secret" not in caplog.text


def test_qmp_before_negotiation_commands_are_refused() -> None:
    """Only qmp_capabilities is taken, and that once."""
    session = Session(Answers(GUEST))

    assert ask(session, "query-status")["error"]["class"] == "CommandNotFound"
    assert ask(session, "qmp_capabilities", arguments={"enable": ["oob"]})["error"]
    assert ask(session, "qmp_capabilities") == {"return": {}}
    assert ask(session, "qmp_capabilities")["error"]["class"] == "CommandNotFound"


@pytest.mark.parametrize(
    "message",
    [
        b"{}",
        b'{"execute": 1}',
        b'{"execute": ["query-status"]}',
        b'{"execute": "query-status", "arguments": []}',
        b'{"execute": "query-status", "arguments": {"x": 1}}',
        b'{"execute": "query-status", "more": 1}',
        b'{"execute": "change-vnc-password", "arguments": {"password": 1}}',
        b'{"execute": "change-vnc-password"}',
        b'{"execute": }',
        b'{"execute": "query-status" "id"}',
        b'{"execute": "query-status", "id": NaN}',
        b'{"execute": "query-status", "id": 1e999}',
        b'{"execute": "query-status", "id": ' + b"9" * 5000 + b"}",
        b'{"execute": "\xff"}',
    ],
)
def test_qmp_wrong_command_is_an_error_and_the_session_goes_on(message: bytes) -> None:
    """One mistake, one error; the next command is understood."""
    session = open_session()
    (reply,) = replies(session.feed(message))

    assert reply["error"]["class"] == "GenericError"
    assert not session.broken
    assert ask(session, "query-status")["return"]


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.0\r\n",
        b"[1]",
        b'"x"',
        b"}",
        b'{"a": ' * (DEPTH_MAX + 1),
        b'{"execute": "' + b"x" * MESSAGE_MAX,
        b"{" + b" " * MESSAGE_MAX,
    ],
)
def test_qmp_stream_without_objects_breaks_the_session(stream: bytes) -> None:
    """An error, then the connection is to be closed: nothing after it makes sense."""
    session = open_session()
    (reply,) = replies(session.feed(stream))

    assert reply["error"]["class"] == "GenericError"
    assert session.broken


def test_qmp_commands_before_the_break_are_answered() -> None:
    """What was understood counts."""
    session = open_session()
    answer, error = replies(session.feed(b'{"execute": "query-name"}}'))

    assert answer["return"] == {"name": "web"}
    assert error["error"]["class"] == "GenericError"
    assert session.broken


def test_framer_braces_in_strings_do_not_count() -> None:
    """Nor do escaped quotes end a string, however the stream is torn."""
    message = rb'{"a\"}{": "\\", "b": [{"c": "]"}]}'
    framer = Framer()
    found = [one for byte in message * 2 for one in framer.feed(bytes([byte]))]

    assert [message, message] == found


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), max_size=5),
    st.integers(1, 7),
    st.sampled_from([b"", b"\r\n", b"\0", b" \n"]),
)
def test_framer_any_objects_in_any_pieces_come_out_whole(
    objects: list[dict[str, str]], size: int, separator: bytes
) -> None:
    """What was sent is what is found."""
    stream = b"".join(json.dumps(one).encode() + separator for one in objects)
    framer = Framer()
    pieces = (stream[start : start + size] for start in range(0, len(stream), size))
    found = [json.loads(one) for piece in pieces for one in framer.feed(piece)]

    assert objects == found


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_qmp_any_bytes_never_raise(pieces: list[bytes]) -> None:
    """Errors are answers; the only end is a broken session."""
    session = open_session()
    for piece in pieces:
        if session.broken:
            break
        replies(session.feed(piece))


def test_framer_too_deep_is_a_framing_error() -> None:
    """Before a recursive parser sees it."""
    with pytest.raises(FramingError, match="nested deeper"):
        list(Framer().feed(b"{" + b"[" * 100_000))
