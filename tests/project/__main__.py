# SPDX-License-Identifier: MIT
"""`make docs`: brings every generated part of the documents up to date."""

from __future__ import annotations

from tests.project.pages import PARTS

for part in PARTS:
    part.path.write_text(part.renewed(part.path.read_text("utf-8")), "utf-8")
