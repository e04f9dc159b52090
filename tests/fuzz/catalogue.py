# SPDX-License-Identifier: MIT
"""What is fuzzed: the targets by name, and where their inputs are kept.

A native target is `fuzz_NAME` in `native/target_NAME.c`. A Python target is a module
`tests.fuzz.targets.NAME` with `check(untrusted_data)`, which raises if a promise is broken and
nothing otherwise; with it stand the modules whose coverage leads the fuzzer.

Imports nothing of what is fuzzed: the fuzzer has to be there first, to instrument it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.root import ROOT

HERE: Final = ROOT / "tests/fuzz"
CORPUS: Final = HERE / "corpus"
"""`corpus/TARGET/*`: inputs that reach what no other one does, and those that once found a bug."""

NATIVE: Final = ("request", "ring", "journal", "merge")

PYTHON: Final[dict[str, tuple[str, ...]]] = {
    "config": ("config.loader", "config.nodes", "config.check", "config.rules"),
    "control": ("shared.control", "shared.device_id", "supervisor.operator.control"),
    "devicemodel": (
        "supervisor.devicemodel.arguments",
        "supervisor.devicemodel.framing",
        "supervisor.devicemodel.qmp",
    ),
    "frontend": ("worker.nodes", "worker.devices.block.backend", "shared.untrusted"),
    "messages": ("shared.messages", "shared.device_id"),
    "records": ("supervisor.workers.records", "shared.device_id"),
    "xenstore": ("shared.xenstore.wire", "shared.xenstore.session", "shared.xenstore.transport"),
}

TARGETS: Final = (*NATIVE, *PYTHON)

INPUT_MAX: Final = {"config": 4096, "messages": 4300, "control": 4300, "records": 4300}
"""Bytes of an input, where what is fuzzed has bounds beyond the default."""
INPUT_MAX_DEFAULT: Final = 2048


def corpus_files(target: str) -> list[Path]:
    """The inputs of a target that are kept, by name."""
    return sorted(path for path in (CORPUS / target).iterdir() if path.is_file())
