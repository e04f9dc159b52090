# SPDX-License-Identifier: MIT
"""A worker's jail: its plan, and what has become of it.

Invariants:
- birth comes before anything is opened and before the second thread, the handles' steps before
  their first use, entry before anything that a guest wrote is looked at;
- what was left out is known, with its reason, and is told to the supervisor;
- a step that should have worked and did not leaves a process that must not go on: `HostError`.

After entry no file can be opened, so what Python would look up in files later is settled first:
modules come from memory or not at all, tracebacks have no lines of source. One thing stays: source
text compiled inside must be right, for Python opens a file to show the line of a syntax error.
"""

from __future__ import annotations

import functools
import importlib.machinery
import linecache
import sys
from collections.abc import Iterable
from typing import Any

from shared.errors import BlamedError, HostError
from shared.hypervisor.interface import Handles
from shared.messages import STEP_TEXT_MAX
from shared.worker_spec import JailSpec, WorkerSpec
from worker.jail import facts, identity
from worker.jail.filters import filter_for
from worker.jail.plan import Plan, Subject, make_plan
from worker.jail.step import LeftOutError, Step


class Jail:
    """One worker's. `birth`, `confine` and `enter` are called once each, in that order."""

    def __init__(
        self,
        worker: WorkerSpec,
        spec: JailSpec,
        *,
        max_grants: int | None,
        descriptors: tuple[int, ...],
    ) -> None:
        """`descriptors`: those handed to the process that stay open.

        Raises:
            ConfigError: the handler asks for system calls there are not.
        """
        self._handles: Handles | None = None
        self._threads: list[int] = []
        self._program = functools.partial(filter_for, worker.handler, worker.hypervisor, spec.mode)
        subject = Subject(
            handler=worker.handler,
            hypervisor=worker.hypervisor,
            domid=worker.device.domid,
            max_grants=max_grants,
            descriptors=descriptors,
            handles=self._opened_handles,
            threads=lambda: self._threads,
            program=self._program,
        )
        self.plan: Plan = make_plan(spec, facts.look(), subject)
        self.done: list[str] = []
        """What is true of this process, step by step."""
        self.left_out: list[str] = []
        """What is not, and why."""
        self.entered = False

    def birth(self) -> None:
        """First of all; raises HostError, or ConfigError for the handler's list of calls."""
        self._run(self.plan.birth)
        self._program()  # read now what it is made of

    def confine(self, handles: Handles) -> None:
        """The handles were opened and not used yet; raises HostError."""
        self._handles = handles
        self._run(self.plan.handles)

    def enter(self) -> None:
        """Everything that is ever opened is open; raises HostError."""
        self._threads = identity.threads()
        _forget_files()
        self._run(self.plan.entry)
        self.entered = True

    def told(self) -> dict[str, Any]:
        """The fields of the message `Jailed`."""
        return {"steps": tuple(self.done), "left_out": tuple(self.left_out)}

    def _run(self, steps: Iterable[Step]) -> None:
        for step in steps:
            reason = carry_out(step)
            if reason:
                self.left_out.append(f"{step.describe()}: {reason}"[:STEP_TEXT_MAX])
            else:
                self.done.append(step.describe()[:STEP_TEXT_MAX])

    def _opened_handles(self) -> Handles:
        assert self._handles is not None
        return self._handles


def carry_out(step: Step) -> str:
    """Do one step; the reason if it was left out.

    Raises:
        HostError: it should have worked.
    """
    try:
        step.execute()
    except LeftOutError as error:
        return str(error)
    except (OSError, BlamedError) as error:
        raise HostError(f"jail: {step.name} ({step.describe()}): {error}") from error
    return ""


def _forget_files() -> None:
    """Python must not look for files that it would be killed for looking for."""
    # A module that was not imported before is missing, which is an error like any other.
    sys.meta_path[:] = [
        importlib.machinery.BuiltinImporter,
        importlib.machinery.FrozenImporter,
    ]
    # Lines held already would be parsed for the place in the line, and a line that is no expression
    # makes Python look for a file named "<unknown>" (PyErr_ProgramText, 3.13).
    linecache.clearcache()
    linecache.checkcache = lambda filename=None: None
    linecache.updatecache = lambda filename, module_globals=None: []
