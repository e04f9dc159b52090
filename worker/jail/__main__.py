# SPDX-License-Identifier: MIT
"""`python -m worker.jail`: tries the jail on this host, in a process made for that.

The steps are those of a worker, except those on handles; they end at the first failure. As root it
needs a user id, for instance that of the first worker: --uid. It prints a table, or with --json a
list of `{"step": …, "text": …, "outcome": "done" | "left out" | "failed", "reason": …}`. The exit
status is 1 if a step failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from typing import Any

import msgspec

from shared.errors import BlamedError
from shared.worker_spec import JailSpec
from worker.jail import facts, identity
from worker.jail.filters import filter_for
from worker.jail.jail import carry_out
from worker.jail.plan import Plan, Subject, make_plan


def main() -> int:
    """Try the jail and print the outcomes."""
    parser = argparse.ArgumentParser(prog="python -m worker.jail", description="Try the jail.")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--uid", type=int, default=1_879_048_192, help="user id to change to")
    parser.add_argument("--mode", choices=("enforce", "log"), default="enforce")
    parser.add_argument("--cgroup", default="", help="directory of a control group to join")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as keep:
        spec = JailSpec(
            mode=args.mode,
            uid=args.uid if os.geteuid() == 0 else 0,
            keep=keep,
            open_files=256,
            pids=64,
            cgroup=args.cgroup,
        )
        outcomes = msgspec.json.decode(_in_child(spec), type=list[dict[str, Any]])
    if args.json:
        print(msgspec.json.encode(outcomes).decode())  # noqa: T201 — it is what it is for
    else:
        for one in outcomes:
            reason = f": {one['reason']}" if one["reason"] else ""
            print(f"{one['outcome']:9} {one['text']}{reason}")  # noqa: T201
    return any(one["outcome"] == "failed" for one in outcomes)


def _in_child(spec: JailSpec) -> bytes:
    """What a jailed child writes into a pipe."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, msgspec.json.encode(_try_all(spec, writer)))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return data or b'[{"step":"all","text":"jail","outcome":"failed","reason":"killed"}]'


def _try_all(spec: JailSpec, writer: int) -> list[dict[str, str]]:
    outcomes: list[dict[str, str]] = []
    threads = identity.threads()
    program = filter_for("", "embedded", spec.mode)
    subject = Subject(
        handler="",
        hypervisor="embedded",
        domid=0,
        max_grants=None,
        descriptors=(writer,),
        handles=_no_handles,
        threads=lambda: threads,
        program=lambda: program,
    )
    plan: Plan = make_plan(spec, facts.look(), subject)
    for step in (*plan.birth, *plan.entry):
        one = {"step": step.name, "text": step.describe(), "outcome": "done", "reason": ""}
        outcomes.append(one)
        try:
            one["reason"] = carry_out(step)
        except BlamedError as error:
            one["outcome"], one["reason"] = "failed", str(error)
            break
        if one["reason"]:
            one["outcome"] = "left out"
    return outcomes


def _no_handles() -> Any:
    raise AssertionError("the steps on handles are not tried")


if __name__ == "__main__":
    sys.exit(main())
