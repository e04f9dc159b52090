# SPDX-License-Identifier: MIT
"""How devices of a type differ from others in their life, as far as the life cycle must know.

The defaults (`USUAL`) are those of a disk. `shared.lifecycle_rules` has the rows that look at them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a manifest says of the life of its devices."""

    ignore_frontend_state: bool = False
    """The frontend has no `state`, or one that says nothing (S13, S24), as the primary console. Its
    ring is taken up once the backend is in InitWait and served until the backend closes, whatever
    can be read there. Nodes that name the ring must be there with the device."""
    hotplug: Literal["ours", "script", "none"] = "ours"
    """Who writes `hotplug-status`. "ours": we write "connected" with InitWait. "script": a hotplug
    script writes it after InitWait, and Connected waits for its "connected". "none": nobody."""
    reconfigures: bool = False
    """Both ends may go through Reconfiguring and Reconfigured while they are connected. The ring
    stays the guest's; the worker lets go of it and takes it up again with the new nodes."""
    returns: bool = True
    """A frontend that closed may connect again (S16). Otherwise Closed is the end of the device."""


USUAL: Final = Traits()
"""Of a type that says nothing about it."""
