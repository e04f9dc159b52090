# SPDX-License-Identifier: MIT
"""Builds the native modules of the table (shared/native/table.py).

setup.py takes each module by its variable here: its name with underscores for dots. By hand, from
the root: `.venv/bin/python -m shared.native.build [MODULE...]` builds in place; without a name it
builds all.
"""

from __future__ import annotations

import sys

from shared.native.declarations import ROOT
from shared.native.table import table


def main(names: list[str]) -> None:
    """Build the named modules in place; without names, all of them."""
    modules = table()
    for name in names or modules:
        modules[name].ffi().compile(tmpdir=str(ROOT), verbose=False)


if __name__ == "__main__":
    main(sys.argv[1:])
else:
    globals().update({one.variable: one.ffi() for one in table().values()})
