# SPDX-License-Identifier: MIT
"""The product's modules as the source tree has them: where they are, and what each one is for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.root import ROOT
from tests.unit.project.contracts import PRODUCT

_C_ENDINGS: Final = (".c", ".h")


def source_files() -> Iterator[Path]:
    """Every Python and C file of the product, relative to the checkout; none that was built."""
    for package in PRODUCT:
        for path in sorted((ROOT / package).rglob("*")):
            built = path.name.startswith("_") and not path.name.startswith("__")
            if path.suffix in (".py", *_C_ENDINGS) and not built:
                yield path.relative_to(ROOT)


def purpose(path: Path) -> str:
    """What a file says it is for: the first paragraph of its docstring or of its first comment.

    A C file may give its reasons in the same paragraph, so only its first sentence counts.
    """
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.suffix in _C_ENDINGS:
        return _first_sentence(_first_comment(text))
    docstring = ast.get_docstring(ast.parse(text)) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def _first_comment(text: str) -> str:
    # Of the lines after the licence's; a comment further down is about what it stands beside.
    found = re.match(r"[^\n]*\n\s*/\*(.*?)\*/", text, re.DOTALL)
    return re.sub(r"(?m)^ \* ?", "", found[1]) if found else ""


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph)[0]
