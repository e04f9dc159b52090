# SPDX-License-Identifier: MIT
"""The generated parts of the documents: which page holds them, and between which marks.

A part begins with `<!-- generated: NAME -->` and ends with `<!-- end: NAME -->`, each alone in its
line. What stands between the two is replaced; all else of a page is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from config import types_table
from shared import lifecycle_table
from supervisor.policy import table as policy_table
from tests.project import behaviours, file_map, rooms
from tests.root import ROOT
from worker.jail import filters


@dataclass(frozen=True, slots=True)
class Part:
    """One generated part of a page."""

    page: str
    name: str
    make: Callable[[str], str]
    """From what stands there now to what should; most parts do not care for the former."""

    @property
    def path(self) -> Path:
        """Where the page is."""
        return ROOT / self.page

    def renewed(self, text: str) -> str:
        """The page's text with this part as it should be.

        Raises:
            ValueError: the page does not have the two marks.
        """
        begin, end = f"<!-- generated: {self.name} -->\n", f"<!-- end: {self.name} -->\n"
        found = re.search(f"(?s)(?<={re.escape(begin)}).*?(?={re.escape(end)})", text)
        if found is None:
            raise ValueError(f"{self.page}: no part {self.name!r} between its two marks")
        content = f"\n{self.make(found[0]).strip()}\n\n"
        return text[: found.start()] + content + text[found.end() :]


def _whole(make: Callable[[], str]) -> Callable[[str], str]:
    return lambda _: make()


PARTS: Final = (
    Part("ARCHITECTURE.md", "import graph", _whole(rooms.markdown)),
    Part("ARCHITECTURE.md", "file map", _whole(file_map.markdown)),
    Part("docs/behaviours.md", "behaviours", behaviours.renewed),
    Part("docs/behaviours.md", "hostile cases", behaviours.renewed),
    Part("docs/device-types.md", "device types", _whole(types_table.markdown)),
    Part("docs/lifecycle.md", "transitions", _whole(lifecycle_table.markdown)),
    Part("docs/supervision.md", "policy", _whole(policy_table.markdown)),
    Part("docs/system-calls.md", "lists", _whole(filters.markdown)),
)
