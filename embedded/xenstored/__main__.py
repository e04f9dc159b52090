# SPDX-License-Identifier: MIT
"""`python -m embedded.xenstored --dir DIR`: the server as a process of its own.

Prints nothing when all is well. Ready when DIR/socket accepts, which it tells by one byte to
`--ready-fd`. Ends with 0 on SIGTERM and SIGINT, otherwise with the error's exit code.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import sys
from pathlib import Path

from embedded.xenstored.server import STOP_SIGNALS, Server
from shared.errors import BlamedError


def main(arguments: list[str] | None = None) -> int:
    """Run the server; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="xenstored", description="A xenstore server without Xen, on UNIX sockets."
    )
    parser.add_argument(
        "--dir",
        type=Path,
        required=True,
        help="holds the sockets (socket, domain/N), the journal and the lock; made if missing",
    )
    parser.add_argument(
        "--ready-fd", type=int, metavar="N", help="write one byte there when ready, then close it"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(format="xenstored: %(message)s")
    _raise_descriptor_limit()
    # Held back until the loop can take them: a stop during the start is orderly too.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    server = Server(options.dir)
    try:
        server.open()
        if options.ready_fd is not None:
            os.write(options.ready_fd, b"\n")
            os.close(options.ready_fd)
        server.run()
    except BlamedError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    finally:
        server.close()
    return 0


def _raise_descriptor_limit() -> None:
    """One socket and one connection per domain: the usual 1024 descriptors are soon gone."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
