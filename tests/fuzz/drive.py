# SPDX-License-Identifier: MIT
"""One Python target under a fuzzer, in a process of its own: `drive TARGET ARGUMENTS`.

With atheris it is libFuzzer with Python's coverage, and takes libFuzzer's arguments. Where atheris
has no wheel hypothesis makes the inputs, from the corpus and from nothing, without coverage; of the
arguments it understands those the runner gives. Both write the figures in libFuzzer's words.
"""

from __future__ import annotations

import importlib
import logging
import sys
import time
import traceback
from hashlib import sha1
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.fuzz.catalogue import INPUT_MAX, INPUT_MAX_DEFAULT, PYTHON


def main() -> int:
    """Fuzz until the time is over or something is found."""
    logging.disable(logging.CRITICAL)  # what is logged about every bad input is not to be read
    name, arguments = sys.argv[1], sys.argv[2:]
    if find_spec("atheris") is None:
        return _with_hypothesis(name, arguments)
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=list(PYTHON[name])):
        target = importlib.import_module(f"tests.fuzz.targets.{name}")
    atheris.Setup([sys.argv[0], *arguments], target.check)
    atheris.Fuzz()
    return 0


def _with_hypothesis(name: str, arguments: list[str]) -> int:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    target = importlib.import_module(f"tests.fuzz.targets.{name}")
    options = dict(word[1:].split("=", 1) for word in arguments if word.startswith("-"))
    folders = [Path(word) for word in arguments if not word.startswith("-")]
    kept = [path.read_bytes() for folder in folders for path in folder.iterdir()] or [b""]
    longest = INPUT_MAX.get(name, INPUT_MAX_DEFAULT)
    start = time.monotonic()
    end = start + float(options.get("max_total_time", "60"))
    done = 0

    @given(_inputs(st, kept, longest))
    @settings(
        max_examples=2000,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    def examples(data: bytes) -> None:
        nonlocal done
        done += 1
        last[0] = data
        target.check(data)

    last = [b""]
    status = 0
    try:
        while time.monotonic() < end:
            examples()
    except Exception:  # noqa: BLE001 - whatever it is, it is what was looked for
        traceback.print_exc()
        found = Path(f"{options.get('artifact_prefix', './')}crash-{sha1(last[0]).hexdigest()}")
        found.write_bytes(last[0])
        status = 77
    rate = int(done / (time.monotonic() - start))
    sys.stderr.write(f"stat::number_of_executed_units: {done}\n")
    sys.stderr.write(f"stat::average_exec_per_sec:     {rate}\n")
    return status


def _inputs(st: Any, kept: list[bytes], longest: int) -> Any:
    """Bytes of any kind, and kept inputs with a piece taken out, put in or doubled."""
    piece = st.binary(max_size=16)
    change = st.tuples(st.floats(0, 1), st.integers(0, 8), piece, st.booleans())

    def changed(data: bytes, changes: list[tuple[float, int, bytes, bool]]) -> bytes:
        for where, cut, new, doubled in changes:
            at = int(where * len(data))
            new = data[at : at + 8 * cut] + new if doubled else new
            data = data[:at] + new + data[at + cut :]
        return data[:longest]

    of_kept = st.builds(changed, st.sampled_from(kept), st.lists(change, max_size=6))
    return st.one_of(of_kept, st.binary(max_size=min(longest, 256)))


if __name__ == "__main__":
    sys.exit(main())
