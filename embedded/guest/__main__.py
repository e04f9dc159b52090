# SPDX-License-Identifier: MIT
"""`python -m embedded.guest`: one guest; started by `embedded.guest.launch`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from embedded.guest.process import run
from embedded.guest.side import PROTOCOLS
from shared.errors import BlamedError


def main() -> int:
    """Parse the arguments and be the guest."""
    parser = argparse.ArgumentParser(prog="guest", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="of the embedded hypervisor")
    parser.add_argument("--domid", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--lifeline", type=int, required=True, help="inherited descriptor")
    parser.add_argument("--memory", type=int, required=True, help="inherited descriptor")
    parser.add_argument("--ready-fd", type=int, required=True, help="gets a line when ready")
    parser.add_argument("--protocol", choices=PROTOCOLS, default=PROTOCOLS[0])
    args = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        return run(
            args.dir,
            args.domid,
            args.name,
            args.lifeline,
            args.memory,
            args.ready_fd,
            args.protocol,
        )
    except BlamedError as error:
        logging.getLogger("guest").error("%s", error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
