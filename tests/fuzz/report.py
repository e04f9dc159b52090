# SPDX-License-Identifier: MIT
"""From what libFuzzer writes to the lines `make fuzz` ends with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_COVERAGE: Final = re.compile(r"cov: (\d+) ft: (\d+)")
_CORPUS: Final = re.compile(r"corp: (\d+)/")
_RUNS: Final = re.compile(r"stat::number_of_executed_units: (\d+)")
_RATE: Final = re.compile(r"stat::average_exec_per_sec: +(\d+)")
_CAUSE: Final = re.compile(
    r"^(broken promise: .*|SUMMARY: .*|.*runtime error: .*|\w*(?:Error|Exception)\b.*)$", re.M
)


@dataclass(frozen=True)
class Figures:
    """What came of one target."""

    target: str
    engine: str
    executions: int = 0
    rate: int = 0
    """Executions per second."""
    edges: int | None = None
    """Edges of the code that inputs reached (libFuzzer's cov); None: not measured."""
    features: int | None = None
    corpus: int | None = None
    """Inputs that the fuzzer found worth keeping."""
    finding: str = ""
    """What was found, in one line; "" for nothing."""


def read_figures(target: str, engine: str, status: int, output: str) -> Figures:
    """What one fuzzer said; `status` is its exit status."""
    runs, rate = _RUNS.search(output), _RATE.search(output)
    coverage = _COVERAGE.findall(output)
    corpus = _CORPUS.findall(output)
    causes = _CAUSE.findall(output)
    finding = ""
    if status:
        finding = causes[0].strip() if causes else f"exit status {status}"
    return Figures(
        target,
        engine,
        int(runs[1]) if runs else 0,
        int(rate[1]) if rate else 0,
        int(coverage[-1][0]) if coverage else None,
        int(coverage[-1][1]) if coverage else None,
        int(corpus[-1]) if corpus else None,
        finding,
    )


def table(figures: Iterable[Figures]) -> str:
    """All of them, one line each."""
    rows = [("target", "engine", "executions", "per s", "edges", "features", "corpus", "findings")]
    for one in figures:
        numbers = (one.executions, one.rate, one.edges, one.features, one.corpus)
        shown = ["-" if number is None else f"{number}" for number in numbers]
        found = "1" if one.finding else "0"
        rows.append(
            (one.target, one.engine, shown[0], shown[1], shown[2], shown[3], shown[4], found)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
