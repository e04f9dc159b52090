# SPDX-License-Identifier: MIT
"""The generated parts of the documents are current, and what they are made of is complete."""

from __future__ import annotations

import ast
import dataclasses
import re

import pytest

from config import types_table
from shared.device_types import DeviceType
from tests.project import rooms
from tests.project.modules import purpose, source_files
from tests.project.pages import PARTS, Part
from tests.root import ROOT

ONE_LINE = 97
"""Characters that fit into a line of 100 after the quotes of a docstring."""


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.page}: {part.name}")
def test_documents_generated_part_is_current(part: Part) -> None:
    """Each page holds what the code gives now (else run `make docs`)."""
    text = part.path.read_text(encoding="utf-8")

    assert part.renewed(text) == text


def test_file_map_every_file_says_what_it_is_for() -> None:
    """In one sentence: the first line of a docstring, or the first sentence of a C comment."""
    silent = [
        f"{path}: {said}"
        for path in source_files()
        if not (said := purpose(path)).endswith(".")
        or (path.suffix == ".py" and len(said) > ONE_LINE)
    ]

    assert silent == []


def test_import_graph_arrows_left_out_follow_from_the_others() -> None:
    """Each room reaches over the arrows drawn what it reaches over all of them, and no more."""
    drawn, every = rooms.reduced(rooms.arrows()), rooms.arrows()

    assert {room: rooms.reachable(drawn, room) for room in drawn} == {
        room: rooms.reachable(every, room) for room in every
    }


def test_import_graph_has_no_circle() -> None:
    """A folder is drawn as two rooms where the one would be above another folder and below it."""
    graph = rooms.arrows()

    assert [room for room in graph if room in rooms.reachable(graph, room)] == []


def test_import_graph_implied_arrow_is_left_out() -> None:
    """`a` to `c` is, because there is `a` to `b` to `c`."""
    graph = {"a": frozenset("bc"), "b": frozenset("c"), "c": frozenset[str]()}

    assert rooms.reduced(graph) == {**graph, "a": frozenset("b")}


def test_device_types_page_shows_every_part_of_a_manifest() -> None:
    """But for the system calls, which have a page of their own."""
    tree = ast.parse((ROOT / "config" / "types_table.py").read_text(encoding="utf-8"))
    shown = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "one"
    }

    assert {field.name for field in dataclasses.fields(DeviceType)} - shown == {"system_calls"}


def test_device_types_page_explains_every_option() -> None:
    """Each field of an options model has a docstring; the page is the only place that shows it."""
    bare = re.findall(r"^\| `\w+` \|[^|]*\| `[^|]*` \|\s*\|$", types_table.markdown(), re.MULTILINE)

    assert bare == []
