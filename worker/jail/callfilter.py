# SPDX-License-Identifier: MIT
"""The last step of the jail: the system-call filter on all threads (worker.jail.filters)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from shared.worker_spec import HypervisorKind
from worker.jail import seccomp


@dataclass(frozen=True, slots=True)
class FilterCalls:
    """Allows all threads only those system calls that device type and hypervisor need.

    `program` returns the filter. It was made earlier, because the manifests are in files.
    """

    handler: str
    hypervisor: HypervisorKind
    mode: Literal["enforce", "log"]
    program: Callable[[], bytes] = field(compare=False)
    name: str = "system-calls"

    def describe(self) -> str:
        what = "kills" if self.mode == "enforce" else "is logged and allowed (mode log)"
        whose = self.handler or "every worker"
        return f"system calls of {whose} on {self.hypervisor} only; any other {what}"

    def execute(self) -> None:
        seccomp.install(self.program(), log=self.mode == "log")
