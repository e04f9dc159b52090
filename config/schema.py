# SPDX-License-Identifier: MIT
"""The JSON Schema of the configuration file, made from the model.

`python -m config.schema` writes `config/xenbackd.schema.json`; a test keeps it current. Editors use
it to complete and check the file. The loader does not use it: a schema knows no lines, no device
types of other distributions and no rules between values.

Versions of msgspec put the members of a union in different orders. Their order has no meaning in a
schema, so the file has an order of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec

from config.loader import TYPE_PATTERN
from config.model import Config
from shared.device_types import own_types

SCHEMA_FILE: Final = Path(__file__).with_name("xenbackd.schema.json")

_REF: Final = "#/$defs/{name}"

_UNORDERED: Final = frozenset({"allOf", "anyOf", "enum", "required"})
"""Keywords whose lists mean the same in any order."""


def schema() -> dict[str, Any]:
    """The schema as plain data (JSON Schema draft 2020-12)."""
    types = own_types()
    models = [Config, *(one.options for one in types)]
    refs, components = msgspec.json.schema_components(models, ref_template=_REF)
    definitions: dict[str, Any] = dict(components)
    for definition in definitions.values():
        _let_sections_be_empty(definition)
    _add_types(definitions, dict(zip((one.name for one in types), refs[1:], strict=True)))
    made: dict[str, Any] = in_one_order(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "xenbackd configuration",
            **refs[0],
            "$defs": definitions,
        }
    )
    return made


def render() -> str:
    """The schema as the file's text."""
    return json.dumps(schema(), indent=2, sort_keys=True) + "\n"


def in_one_order(part: Any) -> Any:
    """The same schema with each list that has no order of its own sorted, null last."""
    if isinstance(part, list):
        return [in_one_order(one) for one in part]
    if not isinstance(part, dict):
        return part
    ordered = {key: in_one_order(value) for key, value in part.items()}
    for key in _UNORDERED & ordered.keys():
        # Not where `key` is the name of a setting, which has a schema and not a list.
        if isinstance(ordered[key], list):
            ordered[key].sort(key=_place)
    return ordered


def _place(member: Any) -> tuple[bool, str]:
    return member in (None, {"type": "null"}), json.dumps(member, sort_keys=True)


def _let_sections_be_empty(definition: dict[str, Any]) -> None:
    # The loader takes a section with all its lines commented out as absent.
    for name, content in definition.get("properties", {}).items():
        if "$ref" in content or content.get("type") in ("object", "array"):
            default = {"default": content.pop("default")} if "default" in content else {}
            definition["properties"][name] = {"anyOf": [content, {"type": "null"}], **default}


def _add_types(definitions: dict[str, Any], handlers: dict[str, Any]) -> None:
    types = definitions["Config"]["properties"]["types"]["anyOf"][0]
    types["propertyNames"] = {"pattern": f"^{TYPE_PATTERN}$"}
    definitions["TypeConfig"]["allOf"] = [
        {
            "if": {"properties": {"handler": {"const": handler}}, "required": ["handler"]},
            "then": {"properties": {"options": {"anyOf": [ref, {"type": "null"}]}}},
        }
        for handler, ref in handlers.items()
    ]


if __name__ == "__main__":
    SCHEMA_FILE.write_text(render(), encoding="utf-8")
