"""Joules of a clip: the meter of the device while forward passes run without a pause, less what idling takes.

A GPU's meter is NVML's counter, a CPU's the packages that Linux shows as RAPL. Where there is no meter there is a
reason, and never a number.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sweeps.measuring import nvml
from sweeps.measuring.timing import Clock

RAPL = Path("/sys/class/powercap")

IDLE_S = 1.0
BUSY_S = 3.0
"""How long idle and busy power are integrated; NVML's counter moves about ten times a second."""


@dataclasses.dataclass(frozen=True)
class EnergyCounter:
    """A meter of joules since some fixed moment.

    Attributes:
        joules: reads the meter; None where there is no meter.
        source: "nvml" or "rapl"; "" where there is no meter.
        reason: why there is no meter; "" where there is one.
    """

    joules: Callable[[], float] | None
    source: str = ""
    reason: str = ""


def energy_per_clip(
    step: Callable[[], object], clock: Clock, pass_ms: float, batch_size: int, counter: EnergyCounter
) -> tuple[float | None, dict[str, Any]]:
    """Joules of a clip above idling, and how they were got; None and the reason where there is no meter."""
    if counter.joules is None:
        return None, {"reason": counter.reason}
    passes = math.ceil(BUSY_S * 1e3 / pass_ms)

    def busy() -> None:
        for _ in range(passes):
            step()
        clock.synchronize()

    clock.synchronize()
    idle_w, _ = _power(counter.joules, clock, lambda: time.sleep(IDLE_S))
    busy_w, seconds = _power(counter.joules, clock, busy)
    joules = (busy_w - idle_w) * seconds / (passes * batch_size)
    how = {"source": counter.source, "idle_w": idle_w, "busy_w": busy_w, "passes": passes}
    if joules <= 0:
        return None, {**how, "reason": "the meter saw no more than idling"}
    return joules, how


def _power(joules: Callable[[], float], clock: Clock, work: Callable[[], object]) -> tuple[float, float]:
    """Average watts while `work` runs, and its seconds."""
    start, begin = joules(), clock.now_ms()
    work()
    seconds = (clock.now_ms() - begin) / 1e3
    return (joules() - start) / seconds, seconds


def energy_counter(device: torch.device, rapl: Path = RAPL) -> EnergyCounter:
    """Returns the meter of `device`: NVML's for a GPU, RAPL's packages for a CPU."""
    return _nvml_counter(device) if device.type == "cuda" else _rapl_counter(rapl)


def _nvml_counter(device: torch.device) -> EnergyCounter:
    library, reason = nvml.load()
    if library is None:
        return EnergyCounter(None, reason=reason)
    handle = nvml.handle_of(library, device)
    try:
        library.nvmlDeviceGetTotalEnergyConsumption(handle)
    except library.NVMLError as error:
        return EnergyCounter(None, reason=f"NVML: {error}")
    return EnergyCounter(lambda: library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, source="nvml")


def _rapl_counter(folder: Path) -> EnergyCounter:
    packages = sorted(folder.glob("intel-rapl:[0-9]"))
    if not packages:
        return EnergyCounter(None, reason="this machine shows no RAPL counter")
    try:
        ranges = [int((package / "max_energy_range_uj").read_text()) for package in packages]
        last = [int((package / "energy_uj").read_text()) for package in packages]
    except OSError as error:
        return EnergyCounter(None, reason=f"RAPL can't be read: {error.strerror}")
    total = 0

    def joules() -> float:
        nonlocal total
        for number, package in enumerate(packages):
            now = int((package / "energy_uj").read_text())
            total += (now - last[number]) % (ranges[number] + 1)  # the counter wraps
            last[number] = now
        return total / 1e6

    return EnergyCounter(joules, source="rapl")
