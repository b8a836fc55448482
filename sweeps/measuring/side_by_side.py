"""Timing several networks in turns, so that drift of the machine hits all alike, and the table of what came out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from dualformer.modes import evaluating
from dualformer.results.statistics import median_ratio
from sweeps import machine_lock
from sweeps.measuring import gate, machine
from sweeps.measuring.forward import forward_pass, random_clip
from sweeps.measuring.settings import settings
from sweeps.measuring.steadiness import complaints, drift
from sweeps.measuring.timing import clock_of, interleave, quantiles, warm_up
from sweeps.run_config import MeasureConfig


def side_by_side(
    models: Mapping[str, nn.Module], config: MeasureConfig, *, device: str | torch.device, threads: int
) -> tuple[dict[str, list[float]], list[str]]:
    """Times several networks in turns.

    Args:
        models: name -> a model with a `config`; all are moved to `device`.
        config: batch size, precision, attention kernel, warm-up and samples of each.
        device: "cpu" or "cuda".
        threads: CPU threads.

    Returns:
        Milliseconds of each network's passes, and what disturbed them, in words.

    Raises:
        gate.WrongLogitsError: names the network that differs from its reference.
    """
    device = torch.device(device)
    clock = clock_of(device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(settings(config, threads))
        steps = {}
        for name, model in models.items():
            stack.enter_context(evaluating(model.to(device)))
            clip = random_clip(model, config.batch_size, device)
            steps[name] = forward_pass(model, clip, config)
            gate.passed(name, model, clip, steps[name], config)
        stack.enter_context(machine_lock.exclusive())
        before = machine.observe(device)
        for step in steps.values():
            warm_up(step, clock, config)
        times = interleave(steps, clock, config.samples)
        seen = machine.flags(before, machine.observe(device), device)
    told = (
        f"{name}: {said}" for name, samples in times.items() for said in complaints(samples, None, drift([samples]))
    )
    return times, [*seen, *told]


def table(times: Mapping[str, Sequence[float]]) -> str:
    """Milliseconds and ratios to the first network, as text."""
    baseline = next(iter(times.values()))
    width = max(map(len, times))
    lines = [f"{'network':{width}} {'p50 ms':>9} {'p20':>9} {'p80':>9}  ratio to the first, 95 % interval"]
    for name, samples in times.items():
        p20, p50, p80 = quantiles(samples, (0.2, 0.5, 0.8))
        ratio, low, high = median_ratio(samples, baseline)
        verdict = "" if samples is baseline else ", no difference seen" if low <= 1 <= high else ""
        interval = f"{ratio:.3f} [{low:.3f}, {high:.3f}]{verdict}"
        lines.append(f"{name:{width}} {p50:9.3f} {p20:9.3f} {p80:9.3f}  {interval}")
    return "\n".join(lines)
