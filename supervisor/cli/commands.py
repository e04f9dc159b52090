# SPDX-License-Identifier: MIT
"""The sub-commands: names, modules, and their lines in `xenbackd --help`."""

from __future__ import annotations

from typing import Final, NamedTuple


class Command(NamedTuple):
    """A sub-command: its module below this package and its line in `xenbackd --help`."""

    module: str
    summary: str


COMMANDS: Final = {
    "serve": Command("serve", "serve the devices of the configuration (the supervisor)"),
    "status": Command("status", "all devices at a glance"),
    "show": Command("show", "everything about one device"),
    "events": Command("events", "what happened lately, or as it happens"),
    "restart": Command("restart", "replace the worker of a device, or of many one by one"),
    "clear": Command("clear", "let a device out of quarantine and forget its failures"),
    "upgrade": Command("upgrade", "replace the supervisor in place by the code now installed"),
    "reload": Command("reload", "check the configuration file and apply the difference"),
    "log-level": Command("log_level", "change the log level of a device while it runs"),
    "command": Command("command", "ask something of one device that its type knows how to do"),
    "check-config": Command("check_config", "say what is wrong with a configuration file"),
    "doctor": Command("doctor", "what this host has and lacks, with the remedies"),
    "embedded": Command("embedded", "run the embedded hypervisor alone"),
    "guest": Command("guest", "guests of the embedded hypervisor: create, list, load"),
}
