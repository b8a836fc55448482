"""What a machine says about itself around a timing: clocks, throttling, neighbours, and the energy that it used.

NVML is read through `pynvml` (the package nvidia-ml-py) where it is installed and RAPL through Linux's powercap files.
What can't be read is absent, with the reason, and never a number.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

RAPL = Path("/sys/class/powercap")

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


def observe(device: torch.device) -> dict[str, Any]:
    """Returns the machine's state now, as plain JSON data; `flags` compares two of these.

    On a GPU: sm_clock_mhz, power_limit_w, temperature_c, throttle_reasons and gpu_processes, as far as NVML is there.
    Always: the CPU seconds used so far by this process and by all.
    """
    times = psutil.cpu_times()
    own = psutil.Process().cpu_times()
    state = {
        "seconds": time.monotonic(),
        "cpu_busy_s": sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0),
        "cpu_own_s": own.user + own.system,
    }
    if device.type == "cuda":
        nvml, reason = _nvml()
        state.update(_gpu_state(nvml, _handle(nvml, device)) if nvml else {"nvml": reason})
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


def energy_counter(device: torch.device, rapl: Path = RAPL) -> EnergyCounter:
    """Returns the meter of `device`: NVML's for a GPU, RAPL's packages for a CPU."""
    return _nvml_counter(device) if device.type == "cuda" else _rapl_counter(rapl)


def throttle_reasons(bits: int) -> list[str]:
    """Names the bits of NVML's clock event reasons that slow a GPU down; idling and set clocks don't count."""
    return [name for bit, name in THROTTLE_REASONS.items() if bits & bit]


def _nvml() -> tuple[Any, str]:
    """The initialised module, or None and why."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except ImportError:
        return None, "pynvml is not installed"
    except Exception as error:  # NVML's own error class, which only exists where the import worked
        return None, f"NVML: {error}"
    return nvml, ""


def _handle(nvml: Any, device: torch.device) -> Any:
    """NVML's handle of a torch device, by identity, because the two number GPUs differently."""
    return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")


def _gpu_state(nvml: Any, handle: Any) -> dict[str, Any]:
    readings = {
        "sm_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "throttle_reasons": lambda: throttle_reasons(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        "gpu_processes": lambda: len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)),
    }
    state = {}
    for name, read in readings.items():
        try:
            state[name] = read()
        except nvml.NVMLError as error:
            state[f"{name}_missing"] = str(error)
    return state


def _nvml_counter(device: torch.device) -> EnergyCounter:
    nvml, reason = _nvml()
    if nvml is None:
        return EnergyCounter(None, reason=reason)
    handle = _handle(nvml, device)
    try:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError as error:
        return EnergyCounter(None, reason=f"NVML: {error}")
    return EnergyCounter(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, source="nvml")


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
