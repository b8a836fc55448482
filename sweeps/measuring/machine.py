"""What a machine says about itself around a timing: clocks, throttling, neighbours.

What can't be read is absent, with the reason, and never a number.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import psutil
import torch

from sweeps.measuring import nvml

# Bits of nvmlClocksEventReasons (NVML API reference) that mean slower than the work would allow.
THROTTLE_REASONS = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
BUSY_NEIGHBOURS = 0.1
"""Fraction of one core that other processes may use on average before a CPU timing is flagged."""


def observe(device: torch.device) -> dict[str, Any]:
    """Returns the machine's state now, as plain JSON data; `flags` compares two of these.

    On a GPU: sm_clock_mhz, power_limit_w, temperature_c, throttle_reasons and gpu_processes, as far as NVML is there.
    Always: the CPU seconds used so far by this process and by all.
    """
    times = psutil.cpu_times()
    own = psutil.Process().cpu_times()
    state: dict[str, Any] = {
        "seconds": time.monotonic(),
        "cpu_busy_s": sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0),
        "cpu_own_s": own.user + own.system,
    }
    if device.type == "cuda":
        library, reason = nvml.load()
        state.update(_gpu_state(library, nvml.handle_of(library, device)) if library else {"nvml": reason})
    return state


def flags(before: Mapping[str, Any], after: Mapping[str, Any], device: torch.device) -> list[str]:
    """Returns what disturbed the time between two observations, in words; empty where nothing was seen."""
    found = []
    elapsed = max(after["seconds"] - before["seconds"], 1e-9)
    others = (after["cpu_busy_s"] - before["cpu_busy_s"]) - (after["cpu_own_s"] - before["cpu_own_s"])
    if device.type == "cpu" and others / elapsed > BUSY_NEIGHBOURS:
        found.append(f"other processes used {others / elapsed:.1f} cores")
    reasons = {*before.get("throttle_reasons", ()), *after.get("throttle_reasons", ())}
    found += [f"throttled: {reason}" for reason in sorted(reasons)]
    neighbours = max(before.get("gpu_processes", 1), after.get("gpu_processes", 1)) - 1
    if neighbours > 0:
        found.append(f"{neighbours} other processes on the GPU")
    return found


def throttle_reasons(bits: int) -> list[str]:
    """Names the bits of NVML's clock event reasons that slow a GPU down; idling and set clocks don't count."""
    return [name for bit, name in THROTTLE_REASONS.items() if bits & bit]


def _gpu_state(library: Any, handle: Any) -> dict[str, Any]:
    readings = {
        "sm_clock_mhz": lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM),
        "power_limit_w": lambda: library.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "temperature_c": lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU),
        "throttle_reasons": lambda: throttle_reasons(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        "gpu_processes": lambda: len(library.nvmlDeviceGetComputeRunningProcesses(handle)),
    }
    state = {}
    for name, read in readings.items():
        try:
            state[name] = read()
        except library.NVMLError as error:
            state[f"{name}_missing"] = str(error)
    return state
