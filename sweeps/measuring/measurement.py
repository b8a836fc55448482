"""How fast a network is, how much memory it needs and how much energy it uses, or the reason why that isn't known.

What each number means:

- latency: one synchronised forward pass after another, batch included; median, 20th and 80th percentile.
  Where a GPU finishes sooner than the host can start its kernels, that is the host's time, and flagged as such;
  `cuda_graph` leaves the host out.
- throughput: forward passes without synchronising between them, timed at the ends; clips per second.
- peak memory: weights and clip plus the most that one forward pass holds beyond them. On a GPU that is what torch's
  allocator gave out. On a CPU it is the sizes of all live tensors, uncompiled, without the scratch space of kernels.
- energy: of a clip, idle power subtracted, while forward passes run without a pause.

Nothing is timed before the logits agree with the naive reference at the timed shape and settings (see `gate`), and no
time is reported by a clock that can't tell the same work done twice from done once (see `timing`). Weights stay where
`measure` moved them; everything else that it changes (mode, precision, threads, compiled blocks) is put back.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dualformer.config import ConfigError
from dualformer.modes import evaluating
from dualformer.results.result import of_kind
from sweeps import machine_lock
from sweeps.measuring import gate, machine
from sweeps.measuring.compiling import compiled, no_recompilation
from sweeps.measuring.energy import energy_counter, energy_per_clip
from sweeps.measuring.forward import forward_pass, random_clip, recorded
from sweeps.measuring.memory import GIB, is_out_of_memory, peak_memory
from sweeps.measuring.settings import settings
from sweeps.measuring.steadiness import complaints
from sweeps.measuring.timing import Clock, Times, clock_of, quantiles, time_passes
from sweeps.run_config import MeasureConfig

FIELDS = of_kind("timed")
"""What `measure` gives to a result; None means not measured."""

HOST_BOUND = 0.8
"""Above this ratio of a pass' start to its latency the GPU waits for the host, whose speed the latency then is."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What came out.

    Attributes:
        status: "ok", "oom", or "error" where the network doesn't compute what the reference does.
        reason: why the status isn't ok, or why a time is withheld although it is.
        fields: every name of `FIELDS` -> value, None where there is none.
        details: raw samples and the evidence, plain JSON data.
    """

    status: Literal["ok", "oom", "error"]
    reason: str
    fields: Mapping[str, float | None] = dataclasses.field(default_factory=lambda: dict.fromkeys(FIELDS))
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def measure(model: nn.Module, config: MeasureConfig, *, device: str | torch.device, threads: int) -> Measurement:
    """Measures one network at one batch size; waits until no other run of this machine is training or timing.

    Args:
        model: a model with a `config`; it is moved to `device`.
        config: what to measure and under which settings.
        device: "cpu" or "cuda".
        threads: CPU threads of the forward passes.

    Raises:
        ConfigError: `config.compile` is "blocks" and the model has none; `config.cuda_graph` without a GPU.
        RuntimeError: torch refuses the settings (no such attention kernel on this device, say).
    """
    if not config.latency:
        return Measurement("ok", "")
    device = torch.device(device)
    if config.cuda_graph and device.type != "cuda":
        raise ConfigError(f"cuda_graph: a {device.type} has no CUDA graphs")
    try:
        with evaluating(model.to(device)), settings(config, threads):
            return _measure(model, config, device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return Measurement("oom", f"out of memory at batch size {config.batch_size}")


def _measure(model: nn.Module, config: MeasureConfig, device: torch.device) -> Measurement:
    clip = random_clip(model, config.batch_size, device)
    try:
        wanted = gate.reference_logits(model, clip)
    except torch.OutOfMemoryError:
        return Measurement("oom", "the naive reference is out of memory, so nothing was timed")
    clock = clock_of(device)
    with compiled(model, config.compile):
        plain = forward_pass(model, clip, config)
        first_ms = clock.time_ms(plain)
        step = recorded(plain) if config.cuda_graph else plain
        compared = gate.compare(model, step(), wanted, config)
        evidence = {"gate": compared.to_dict(), "compile_s": first_ms / 1e3 if config.compile != "off" else None}
        if compared.reason:
            return Measurement("error", compared.reason, details=evidence)
        with no_recompilation(config.compile):
            times, energy_j, details = time_alone(step, clock, config, device)
        peak_bytes = peak_memory(plain, [model, clip], device)
    fields = {**dict.fromkeys(FIELDS), "peak_mem_gib": peak_bytes / GIB}
    if not times.doubt:
        fields |= time_fields(times, config.batch_size) | {"energy_j_per_clip": energy_j}
    return Measurement("ok", times.doubt, fields, evidence | details)


def time_alone(
    step: Callable[[], Tensor], clock: Clock, config: MeasureConfig, device: torch.device
) -> tuple[Times, float | None, dict[str, Any]]:
    """Times passes and takes their energy while this process has the machine to itself.

    Returns:
        The times, joules of a clip, and all samples and what disturbed them, as plain JSON data.
    """
    with machine_lock.exclusive():
        before = machine.observe(device)
        times = time_passes(step, clock, config)
        after = machine.observe(device)
        joules, energy = energy_per_clip(step, clock, times.pass_ms, config.batch_size, energy_counter(device))
    flags = machine.flags(before, after, device) + time_flags(times, device)
    seen = {"energy": energy, "flags": flags, "machine_before": before, "machine_after": after}
    return times, joules, dataclasses.asdict(times) | seen


def time_flags(times: Times, device: torch.device) -> list[str]:
    """What speaks against times, in words: the machine is not steady, or they are the host's and not the GPU's."""
    found = [] if times.settled else ["times never settled"]
    found += complaints(times.samples_ms, times.pass_ms, times.drift, overlaps=device.type == "cuda")
    latency_ms = statistics.median(times.samples_ms)
    if device.type == "cuda" and times.start_ms > HOST_BOUND * latency_ms:
        found.append(f"bound by the host: starting takes {times.start_ms:.3g} of {latency_ms:.3g} ms")
    return found


def time_fields(times: Times, batch_size: int) -> dict[str, float]:
    """The fields of `FIELDS` that come from times."""
    p20, p50, p80 = quantiles(times.samples_ms, (0.2, 0.5, 0.8))
    throughput = batch_size / times.pass_ms * 1e3
    return {
        "latency_ms_p50": p50,
        "latency_ms_p20": p20,
        "latency_ms_p80": p80,
        "throughput_clips_per_s": throughput,
    }
