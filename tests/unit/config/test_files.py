# SPDX-License-Identifier: MIT
"""The files that are handed out with the configuration: default file, schema, systemd unit."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config import schema
from config.loader import load, loads
from config.model import Config, RestartConfig
from shared.device_types import DeviceType, own_types
from supervisor.workers.confinement.cgroups import CONTROLLERS, UNIT

FOLDER = Path(schema.__file__).parent
DEFAULT_FILE = FOLDER / "xenbackd.yaml"


def uncommented() -> str:
    """The default file with every commented-out setting in force."""
    return re.sub(r"(?m)^( *)#([a-z_]+:)", r"\1\2", DEFAULT_FILE.read_text())


def test_default_file_loads() -> None:
    """The file as it is handed out is valid and changes nothing but the types."""
    config = load(DEFAULT_FILE)

    assert msgspec.structs.replace(config, types={}) == Config()
    assert {one.handler for one in config.types.values()} == {one.name for one in own_types()}


@pytest.mark.parametrize("type_", own_types(), ids=lambda type_: type_.name)
def test_default_file_has_every_kind_of_a_type(type_: DeviceType) -> None:
    """Each directory that a type of ours serves stands there with it, and no other one."""
    config = load(DEFAULT_FILE)

    found = {name for name, one in config.types.items() if one.handler == type_.name}
    assert found == {kind.name for kind in type_.kinds}


def test_default_file_comments_show_the_real_defaults() -> None:
    """Every commented-out value equals the model's default."""
    config = loads(uncommented(), "x.yaml")
    vbd = config.types["vbd"]

    assert msgspec.structs.replace(config, types={}) == Config()
    assert (vbd.enabled, vbd.log_level, vbd.restart) == (True, None, None)


@pytest.mark.parametrize("type_", own_types(), ids=lambda type_: type_.name)
def test_default_file_shows_the_real_defaults_of_a_types_options(type_: DeviceType) -> None:
    """Every commented-out option of a type, at its first kind, equals its model's default."""
    shown = loads(uncommented(), "x.yaml").types[type_.kinds[0].name]

    assert type_.options() == msgspec.convert(shown.options, type_.options)


def leaves(model: type[msgspec.Struct], path: str = "") -> set[str]:
    """Key paths of all settings of a model."""
    found = set()
    for field in msgspec.structs.fields(model):
        below = f"{path}{field.encode_name}"
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found |= leaves(field.type, f"{below}.")
        else:
            found.add(below)
    return found


def written(value: Any, path: str = "") -> set[str]:
    """Key paths of all values in plain data."""
    if not isinstance(value, dict):
        return {path.removesuffix(".")}
    found = set()
    for key, below in value.items():
        found |= written(below, f"{path}{key}.")
    return found


def test_default_file_shows_every_key() -> None:
    """No setting of the model is left unmentioned."""
    from config.nodes import compose

    plain = compose(uncommented(), "x.yaml").plain()
    expected = leaves(Config) - {"types"}
    for type_ in own_types():
        expected |= leaves(type_.options, f"types.{type_.kinds[0].name}.options.")
    expected |= {f"types.vbd.{key}" for key in ("handler", "enabled", "log_level", "restart")}

    assert set() == expected - written(plain)


def test_schema_file_is_current() -> None:
    """The checked-in schema is what the model gives (else run python -m config.schema)."""
    assert schema.render() == schema.SCHEMA_FILE.read_text()


def turned_round(part: Any) -> Any:
    """A schema with everything that may stand in any order in the opposite one."""
    if isinstance(part, dict):
        return {key: turned_round(value) for key, value in reversed(part.items())}
    if isinstance(part, list):
        return [turned_round(one) for one in reversed(part)]
    return part


def test_schema_from_another_order_is_the_same_text() -> None:
    """The file does not depend on how a version of msgspec orders the members of a union."""
    made = schema.schema()
    other = turned_round(made)

    assert schema.in_one_order(other) == made
    assert other != made


def test_schema_of_a_setting_that_may_be_empty_ends_with_null() -> None:
    """Readers find what may be written first, for types and for sections."""
    properties = schema.schema()["$defs"]["TypeConfig"]["properties"]

    for name in ("log_level", "restart", "options"):
        assert [one.get("type") == "null" for one in properties[name]["anyOf"]] == [False, True]


def test_schema_has_one_rule_for_each_handler() -> None:
    """The handlers of this distribution, and no other."""
    rules = schema.schema()["$defs"]["TypeConfig"]["allOf"]
    handlers = [rule["if"]["properties"]["handler"]["const"] for rule in rules]

    assert handlers == [type_.name for type_ in own_types()]


@pytest.mark.parametrize("type_", own_types(), ids=lambda type_: type_.name)
def test_schema_knows_the_options_of_a_handler(type_: DeviceType) -> None:
    """An entry with that handler is held against the options of its type, key by key."""
    definitions = schema.schema()["$defs"]
    [rule] = [
        rule
        for rule in definitions["TypeConfig"]["allOf"]
        if rule["if"]["properties"]["handler"]["const"] == type_.name
    ]
    model = type_.options

    assert f"'#/$defs/{model.__name__}'" in str(rule["then"])
    assert set(definitions[model.__name__]["properties"]) == set(model.__struct_encode_fields__)


def test_schema_refuses_unknown_keys_in_every_section() -> None:
    """Each definition is closed, as the loader is."""
    definitions = schema.schema()["$defs"]

    assert {False} == {one["additionalProperties"] for one in definitions.values()}


def unit(name: str = "xenbackd.service") -> configparser.ConfigParser:
    """A systemd unit."""
    # strict=True refuses a directive that stands twice by mistake.
    parser = configparser.ConfigParser(strict=True, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(FOLDER / name)
    return parser


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("Type", "notify"),
        ("KillMode", "process"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("RestartPreventExitStatus", "78"),
        ("OOMPolicy", "continue"),
    ],
)
def test_service_has_what_a_supervisor_of_workers_needs(key: str, expected: str) -> None:
    """Workers are stopped by their supervisor, outlive its crash, and its exit codes are known."""
    assert expected == unit()["Service"][key]


def test_service_leaves_the_jail_what_it_needs() -> None:
    """Namespaces and capabilities of the steps in worker/jail, images and devices anywhere."""
    service = unit()["Service"]

    assert set(service["RestrictNamespaces"].split()) == {"mnt", "net", "ipc", "uts"}
    assert {"CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"} <= set(
        service["CapabilityBoundingSet"].replace("\\", " ").split()
    )
    assert "@mount" not in service["SystemCallFilter"]
    assert "@privileged" not in service["SystemCallFilter"]
    for key in ("PrivateDevices", "ProtectHome", "PrivateTmp", "ProtectControlGroups"):
        assert key not in service


def test_service_of_control_groups_is_what_the_supervisor_looks_for() -> None:
    """Its name, that it is given away, and nothing that bounds the group workers are in."""
    workers = unit(UNIT)["Service"]

    assert UNIT in unit()["Unit"]["Wants"]
    assert unit(UNIT)["Unit"]["Before"] == "xenbackd.service"
    assert set(workers["Delegate"].split()) == set(CONTROLLERS)
    assert (workers["KillMode"], workers["OOMPolicy"]) == ("process", "continue")
    assert "Delegate" not in unit()["Service"]
    for key in ("PrivateDevices", "DeviceAllow", "DevicePolicy", "MemoryMax", "DynamicUser"):
        assert key not in workers


def test_service_waits_longer_than_the_supervisor_takes_to_stop() -> None:
    """TimeoutStopSec leaves room for timeouts.stop."""
    assert float(unit()["Service"]["TimeoutStopSec"]) > Config().timeouts.stop


def test_service_commands_are_of_the_command_line() -> None:
    """ExecStart and ExecReload are understood by our own parser."""
    from supervisor.cli.main import build_parser, command_in

    for key in ("ExecStart", "ExecReload"):
        words = unit()["Service"][key].split()[1:]
        assert build_parser(command_in(words)).parse_args(words).config is not None


def test_service_directories_agree_with_the_model() -> None:
    """systemd makes the runtime directory of the default configuration."""
    assert Config().runtime_dir == f"/run/{unit()['Service']['RuntimeDirectory']}"


def test_restart_defaults_are_the_documented_policy() -> None:
    """At once, then 0.5 s doubling to 60 s, 20 % jitter, quarantine after 5 in 300 s."""
    policy = RestartConfig()

    assert (policy.initial, policy.factor, policy.max, policy.jitter) == (0.5, 2.0, 60.0, 0.2)
    assert (policy.quarantine_failures, policy.quarantine_window) == (5, 300.0)
