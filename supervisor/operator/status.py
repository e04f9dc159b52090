# SPDX-License-Identifier: MIT
"""What people are told of a device: one line of `status`. Reads, and changes nothing."""

from __future__ import annotations

from shared.control import DeviceStatus
from supervisor.device.device import Device


def status_of(device: Device, now: float) -> DeviceStatus:
    """One device at the time `now` of the loop's clock."""
    life, link = device.lifecycle, device.link
    return DeviceStatus(
        device=str(device.id),
        backend=str(life.backend),
        frontend=str(life.frontend),
        online=life.online,
        phase=life.worker.value,
        hold=_hold(device),
        pid=link.pid,
        generation=link.generation,
        restarts=max(0, link.generation - 1),
        failures=link.policy.failures,
        last_failure=link.policy.last,
        health=link.health.word,
        error=device.reporter.text,
        since=max(0.0, now - device.since),
        counters=link.words.counters,
        jail=link.words.jail.steps if link.words.jail else (),
        jail_left_out=link.words.jail.left_out if link.words.jail else (),
    )


def _hold(device: Device) -> str:
    if device.link.death.unkillable:
        return "unkillable"
    return device.lifecycle.hold.value or ("" if device.lifecycle.enabled else "disabled")
