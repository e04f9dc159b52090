# SPDX-License-Identifier: MIT
"""A worker's jail: carries out its plan and remembers what was done.

Invariants:
- birth comes before anything is opened and before the second thread; the steps for handles come
  before the first use of the handles; entry comes before the worker looks at anything that a guest
  wrote;
- each step that was left out is reported to the supervisor, with its reason;
- if a step fails that should have worked, the process must not go on: `HostError`.

After entry no file can be opened. So Python must not look for files later: modules come from memory
or not at all, and tracebacks have no source lines. One case remains: source text that is compiled
inside must be right, because Python opens a file to show the line of a syntax error.
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
    """One worker's jail. `birth`, `confine` and `enter` are called once each, in that order."""

    def __init__(
        self,
        worker: WorkerSpec,
        spec: JailSpec,
        *,
        max_grants: int | None,
        descriptors: tuple[int, ...],
    ) -> None:
        """`descriptors` were passed to the process and stay open.

        Raises:
            ConfigError: the device type asks for system calls that do not exist.
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
        """What is true for this process, step by step."""
        self.left_out: list[str] = []
        """What is not true, and why."""
        self.entered = False

    def birth(self) -> None:
        """Call it first; raises HostError, or ConfigError for the type's list of calls."""
        self._run(self.plan.birth)
        self._program()  # while its files can still be read

    def confine(self, handles: Handles) -> None:
        """Call it after the handles were opened, before their first use; raises HostError."""
        self._handles = handles
        self._run(self.plan.handles)

    def enter(self) -> None:
        """Call it when everything is open; raises HostError."""
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
    """Do one step; return the reason if it was left out, else "".

    Raises:
        HostError: the step should have worked and did not.
    """
    try:
        step.execute()
    except LeftOutError as error:
        return str(error)
    except (OSError, BlamedError) as error:
        raise HostError(f"jail: {step.name} ({step.describe()}): {error}") from error
    return ""


def _forget_files() -> None:
    """Keep Python from looking for files, for which the filter would kill it."""
    # A module that was not imported before counts as missing: an ordinary error.
    sys.meta_path[:] = [
        importlib.machinery.BuiltinImporter,
        importlib.machinery.FrozenImporter,
    ]
    # For a traceback Python parses a cached source line to find the place in it. If the line is no
    # expression, it looks for a file named "<unknown>" (PyErr_ProgramText, 3.13).
    linecache.clearcache()
    linecache.checkcache = lambda filename=None: None
    linecache.updatecache = lambda filename, module_globals=None: []
