# SPDX-License-Identifier: MIT
"""The configuration loader: what it takes, and how it says what it does not take."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import ConfigFileError
from config.loader import load, loads
from config.model import (
    Config,
    DeviceTimeouts,
    JailConfig,
    LogConfig,
    RestartConfig,
    TypeConfig,
    drain_of,
)
from config.nodes import DEPTH_MAX, SIZE_MAX
from config.rules import remarks


def problems(text: str) -> list[str]:
    """The lines of the error for a text that must not load."""
    with pytest.raises(ConfigFileError) as caught:
        loads(text, "x.yaml")
    return str(caught.value).splitlines()


@pytest.mark.parametrize("text", ["", "# nothing\n", "types:\nlog:\n", "{}", "types: {}"])
def test_loader_nothing_written_gives_the_defaults(text: str) -> None:
    """An empty file, and sections with nothing in them, are the model's defaults."""
    assert loads(text, "x.yaml") == Config()


def test_loader_whole_file_gives_the_model() -> None:
    """Values of every kind arrive typed."""
    text = """\
runtime_dir: /run/other
hypervisor: embedded
log: {level: debug}
restart: {initial: 1, quarantine_failures: 3}
types:
  toy:
    handler: toy
    enabled: false
    log_level: warning
    options:
      poll_us: 0
      directories: [/srv/a, "/srv/b"]
"""
    options = {"poll_us": 0, "directories": ["/srv/a", "/srv/b"]}
    toy = TypeConfig(handler="toy", enabled=False, log_level="warning", options=options)
    expected = Config(
        runtime_dir="/run/other",
        hypervisor="embedded",
        log=LogConfig(level="debug"),
        restart=RestartConfig(initial=1.0, quarantine_failures=3),
        types={"toy": toy},
    )

    assert loads(text, "x.yaml") == expected


def test_loader_types_may_share_a_handler() -> None:
    """toy, toyplain, toymodel and a type that begins with a digit can all be served by toy."""
    names = ["toy", "toyplain", "toymodel", "9disk"]
    text = "types:\n" + "".join(f"  {name}: {{handler: toy}}\n" for name in names)

    assert names == list(loads(text, "x.yaml").types)


def test_loader_restart_of_a_type_keeps_the_general_values() -> None:
    """A type's restart section changes what it names and nothing else."""
    text = "restart: {initial: 3}\ntypes: {toy: {handler: toy, restart: {max: 9}}}"

    assert RestartConfig(initial=3.0, max=9.0) == loads(text, "x.yaml").types["toy"].restart


def test_loader_jail_of_a_type_keeps_the_general_values() -> None:
    """Single values of the general section are changed."""
    text = "jail: {pids: 9, memory: 99}\ntypes: {toy: {handler: toy, jail: {memory: 17}}}\n"
    jail = loads(text, "x.yaml").types["toy"].jail

    assert jail == JailConfig(pids=9, memory=17)


def test_loader_highest_user_ids_are_still_users() -> None:
    """The greatest base and number that are taken stay below what setresuid takes for no change."""
    jail = loads("jail: {uid_base: 4000000000, uids: 1000000}", "x.yaml").jail

    assert jail.uid_base + jail.uids - 1 < 2**32 - 1
    assert "jail.uid_base" in problems("jail: {uid_base: 4000000001}")[0]
    assert "jail.uids" in problems("jail: {uids: 1000001}")[0]


def test_remarks_name_what_is_weaker_than_a_jail() -> None:
    """One for each type that is served so, at the key that says it."""
    text = (
        "jail: {mode: log}\ntypes:\n  a: {handler: toy}\n"
        "  b: {handler: toy, jail: {mode: off, unjailed_root: true}}\n"
        "  c: {handler: toy, jail: {mode: off}}\n"
        "  d: {handler: toy, jail: {mode: enforce}}\n"
        "  e: {handler: toy, enabled: false}\n"
    )

    assert [(key, words[:7]) for key, words in remarks(loads(text, "x.yaml"))] == [
        ("jail.mode", "log: a:"),
        ("types.b.jail.mode", "off: b:"),
        ("types.c.jail.mode", "off: c:"),
    ]


def test_loader_timeouts_of_a_type_keep_the_general_values() -> None:
    """A type's timeouts section changes what it names; `stop` is of the service as a whole."""
    text = (
        "timeouts: {beat_late: 4, stop: 60}\n"
        "types: {toy: {handler: toy, timeouts: {beat_dead: 20}}}"
    )

    own = loads(text, "x.yaml").types["toy"].timeouts
    assert DeviceTimeouts(beat_late=4.0, beat_dead=20.0) == own
    assert problems("types: {toy: {handler: toy, timeouts: {stop: 3}}}")[0].startswith(
        "x.yaml:1: types.toy.timeouts.stop: unknown key"
    )


@pytest.mark.parametrize(
    ("general", "of_type", "expected"), [(None, 30.0, 30), (None, 10.0, 10), (5.0, 30.0, 5)]
)
def test_config_drain_is_the_files_or_the_device_types(
    general: float | None, of_type: float, expected: float
) -> None:
    """The device type's own time counts where the file says nothing."""
    assert drain_of(DeviceTimeouts(drain=general), of_type) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "types:\n  toy:\n    handler: toy\n    poll: 3\n",
            "x.yaml:4: types.toy.poll: unknown key; allowed: enabled, handler, jail, log_level,"
            " options, orphan, orphan_grace, restart",
        ),
        ("lgo: {}", "x.yaml:1: lgo: unknown key; did you mean log? allowed: "),
        ("log:\n  level: info\nlog: {}", "x.yaml:3: log: stands twice; the first is in line 1"),
        (
            "types:\n  toy:\n    enabled: true\n",
            "x.yaml:3: types.toy: missing key 'handler', text",
        ),
        (
            "types:\n  toy:\n    handler: toi\n",
            "x.yaml:3: types.toy.handler: unknown handler 'toi'; did you mean toy? allowed: ",
        ),
        (
            "types:\n  toy: {handler: toy, options: {pol_us: 1}}",
            "x.yaml:2: types.toy.options.pol_us: unknown key; did you mean poll_us? allowed: ",
        ),
        (
            "types:\n  toy:\n    handler: toy\n    options:\n      io_threads: 900\n",
            "x.yaml:5: types.toy.options.io_threads: expected a whole number from 1 to 64, got 900",
        ),
        (
            "types: {toy: {handler: toy, options: {directories: [/a, 3]}}}",
            "x.yaml:1: types.toy.options.directories[1]: expected text, got 3;"
            " put quotes around it",
        ),
        (
            "types: {toy: {handler: toy, enabled: yes}}",
            "x.yaml:1: types.toy.enabled: expected true or false, got 'yes'; write true",
        ),
        (
            "types: {toy: {handler: toy, enabled: Off}}",
            "x.yaml:1: types.toy.enabled: expected true or false, got 'Off'; write false",
        ),
        ("types: {V-bd: {handler: toy}}", "x.yaml:1: types.V-bd: a type is 1 to 32 of"),
        ("types: {toy: 3}", "x.yaml:1: types.toy: expected a section with the keys handler,"),
        ("types: [toy]", "x.yaml:1: types: expected a mapping, got a list"),
        ("log: {level: inof}", "x.yaml:1: log.level: expected one of debug, error, info, warn"),
        ("runtime_dir: 5", "x.yaml:1: runtime_dir: expected text, got 5; put quotes around it"),
        ("runtime_dir:", "x.yaml:1: runtime_dir: expected text, got nothing"),
        ("runtime_dir: run", "x.yaml:1: runtime_dir: expected an absolute path, got 'run'"),
        (f"runtime_dir: /{'a' * 100}", "x.yaml:1: runtime_dir: longer than 81 bytes: too long"),
        (
            "timeouts: {beat: 010}",
            "x.yaml:1: timeouts.beat: expected a number from 0.1 to 60, got '010'",
        ),
        ("timeouts: {hook: 1_0}", "x.yaml:1: timeouts.hook: expected a number from 0 to 86400"),
        ("timeouts: {hook: 1:30}", "x.yaml:1: timeouts.hook: expected a number from 0 to 86400"),
        ("timeouts: {hook: .inf}", "x.yaml:1: timeouts.hook: expected a number from 0 to 86400"),
        ("timeouts: {hook: true}", "x.yaml:1: timeouts.hook: expected a number from 0 to 86400"),
        ("timeouts: {hook: 0}", "x.yaml:1: timeouts.hook: must be above 0"),
        ("timeouts:\n  beat: 9\n  hook: 1\n", "x.yaml:1: timeouts.beat_dead: must be at least"),
        ("xenstore: {timeout: 0}", "x.yaml:1: xenstore.timeout: expected a number above 0 to 600"),
        ("limits: {parallel_starts: 1.5}", "x.yaml:1: limits.parallel_starts: expected a whole"),
        (
            "timeouts:\n  progress_warn: 60\n",
            "x.yaml:1: timeouts.progress_stalled: must not be below timeouts.progress_warn",
        ),
        (
            "types:\n  toy:\n    handler: toy\n    timeouts:\n      beat: 8\n",
            "x.yaml:4: types.toy.timeouts.beat_dead: must be at least twice types.toy",
        ),
        (
            "jail: {mode: none}",
            "x.yaml:1: jail.mode: expected one of enforce, log, off, got 'none'",
        ),
        ("jail: {uid_base: 0}", "x.yaml:1: jail.uid_base: expected a whole number from 1 to"),
        ("jail:\n  uid_base: 65534\n  uids: 1\n", "x.yaml:2: jail.uid_base: 65534..65534 contains"),
        (
            "types:\n  toy:\n    handler: toy\n    jail: {uid_base: 65535, uids: 1}\n",
            "x.yaml:4: types.toy.jail.uid_base: 65535..65535 contains 65535",
        ),
        ("restart:\n  initial: 9\n  max: 3\n", "x.yaml:3: restart.max: must not be below"),
        ("- a", "x.yaml:1: expected a section with the keys runtime_dir,"),
        ("text", "x.yaml:1: expected a section with the keys runtime_dir,"),
    ],
)
def test_loader_wrong_content_names_line_key_and_what_is_allowed(text: str, expected: str) -> None:
    """Each mistake is one line that begins with its place and says what to write."""
    found = problems(text)

    assert [line.startswith(expected) for line in found] == [True], found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log: &a {level: info}", "x.yaml:1: anchors"),
        ("log:\n  level: *a\n", "x.yaml:2: anchors"),
        ("log: !!python/object:os.system {}", "x.yaml:1: tags are not allowed"),
        ("log: !!str x", "x.yaml:1: tags are not allowed"),
        ("a: b: c", "x.yaml:1: not valid YAML, mapping values are not allowed here"),
        ("log: {level: info", "x.yaml:1: not valid YAML, while parsing a flow mapping"),
        ("log:\n\tlevel: info", "x.yaml:2: not valid YAML"),
        ("log: {}\n---\nlog: {}", "x.yaml:2: not valid YAML, expected a single document"),
        ('runtime_dir: "\\UFFFFFFFF"', "x.yaml:1: not valid YAML"),
        ('runtime_dir: "/a\\0b"', "x.yaml:1: runtime_dir: control characters are not allowed"),
        ('runtime_dir: "/a\\ud800"', "x.yaml:1: runtime_dir: control characters"),
        ("log: {}\n\x01", "x.yaml:2: character"),
        ("? {a: b}\n: c", "x.yaml:1: a key must be one word"),
        ("[" * 5000, f"x.yaml:1: nested deeper than {DEPTH_MAX} levels"),
        ("a" * (SIZE_MAX + 1), "x.yaml: larger than"),
    ],
)
def test_loader_hostile_yaml_is_refused_with_its_line(text: str, expected: str) -> None:
    """What YAML allows beyond plain data, and what is no YAML, is one clear error."""
    found = problems(text)

    assert [line.startswith(expected) for line in found] == [True], found


def test_loader_many_mistakes_are_all_named_in_order() -> None:
    """One run finds everything, sorted by line."""
    text = "types:\n  toy:\n    handler: nope\n    x: 1\nlog:\n  level: 7\nfoo: 1\n"
    with pytest.raises(ConfigFileError) as caught:
        loads(text, "x.yaml")

    assert [problem.line for problem in caught.value.problems] == [3, 4, 6, 7]
    assert (
        caught.value.file,
        caught.value.line,
        caught.value.key,
    ) == ("x.yaml", 3, "types.toy.handler")


def test_loader_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is an error of the file, with the cause."""
    with pytest.raises(ConfigFileError, match=r"nope\.yaml: cannot be read: No such file"):
        load(tmp_path / "nope.yaml")


def test_loader_file_that_is_no_text_names_the_line(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are refused with their line."""
    path = tmp_path / "x.yaml"
    path.write_bytes(b"log:\n  level: \xff\n")

    with pytest.raises(ConfigFileError, match=r"x\.yaml:2: not UTF-8 text"):
        load(path)


def test_loader_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """A file of an editor that writes a byte-order mark loads."""
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbflog: {level: debug}\n")

    assert load(path).log.level == "debug"


_words = st.sampled_from(
    [
        *(
            [
                "types",
                "toy",
                "handler",
                "toy",
                "options",
                "log",
                "level",
                "restart",
                "0",
                "-1",
                "1e5",
                "true",
                "null",
            ]
        ),
        *([": ", " - ", " \n", "\n  ", "\n    ", "\t", "\x85", "\ufeff", "---\n", "%YAML 1.2\n"]),
        *":-{}[],\"'|>?#~&*!<%",
    ]
)


@given(st.lists(_words, max_size=30).map("".join) | st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_loader_any_text_loads_or_is_refused(text: str) -> None:
    """Whatever stands in the file, the answer is a Config or a ConfigFileError."""
    try:
        config = loads(text, "x.yaml")
    except ConfigFileError:
        return
    assert isinstance(config, Config)
