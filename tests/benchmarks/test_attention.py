"""Speed of every attention side by side, grouped by token grid, forward and forward with backward.

    python -m pytest tests/benchmarks --benchmark-only                              # times, side by side
    python -m pytest tests/benchmarks --benchmark-only --benchmark-save=before      # keep them
    python -m pytest tests/benchmarks --benchmark-only --benchmark-compare          # against the last kept

Environment: BENCHMARK_DEVICE (cpu, cuda), BENCHMARK_DTYPE (float32, bfloat16, float16), BENCHMARK_THREADS (of the CPU).

Each attention is the one that DualFormer-T has at that grid. It is compared with its naive twin before it is timed; a
wrong one fails and shows no time. `extra_info` says what a saved file needs to be compared with another: device,
precision, versions, clocks, and what disturbed the timing; a disturbed row of the table says so in its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dualformer.attention import find, letters
from dualformer.attention.base import Attention
from dualformer.checking import twin_errors
from dualformer.registry import model_config
from dualformer.results.disturbance import MARK, speaking
from sweeps.measuring import machine
from sweeps.measuring.gate import TOLERANCE
from sweeps.measuring.settings import settings
from sweeps.measuring.steadiness import complaints, drift
from sweeps.provenance import provenance
from sweeps.run_config import MeasureConfig, RunConfig

DEVICE = os.environ.get("BENCHMARK_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
DTYPE = os.environ.get("BENCHMARK_DTYPE", "float32")
THREADS = int(os.environ.get("BENCHMARK_THREADS", "1"))
CLIP = {"num_frames": 32, "crop_size": 224} if DEVICE == "cuda" else {"num_frames": 8, "crop_size": 112}
BATCH_SIZE = 2

CONFIG = model_config("dualformer_tiny", **CLIP)
STAGES = range(len(CONFIG.embed_dims))
RECORDED = (
    "torch",
    "python",
    "device",
    "device_name",
    "driver",
    "matmul_precision",
    "attention_backends",
    "commit",
    "dirty",
)


@pytest.fixture(autouse=True)
def stated_settings() -> Iterator[None]:
    """No TF32, and as many CPU threads as asked for."""
    with settings(MeasureConfig(), THREADS):
        yield


@pytest.fixture(scope="module")
def circumstances() -> dict[str, object]:
    known = provenance(RunConfig(threads=THREADS), DEVICE)
    return {name: known[name] for name in RECORDED} | {"dtype": DTYPE, "threads": THREADS, "batch_size": BATCH_SIZE}


@pytest.mark.benchmark(max_time=0.5, min_rounds=5, warmup=True, warmup_iterations=3)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("stage", STAGES, ids=["x".join(map(str, CONFIG.stage_grid(stage))) for stage in STAGES])
@pytest.mark.parametrize("letter", letters())
def test_attention(benchmark, circumstances, letter, stage, backward):
    torch.manual_seed(0)
    attention = find(letter)(CONFIG.stage_place(stage), CONFIG.block_options(stage, letter)).to(DEVICE).eval()
    grid = CONFIG.stage_grid(stage)
    x = torch.randn(BATCH_SIZE, *grid, CONFIG.embed_dims[stage], device=DEVICE, requires_grad=backward)

    benchmark.group = f"{'x'.join(map(str, grid))} tokens, {'forward+backward' if backward else 'forward'}"
    benchmark.extra_info.update(circumstances, letter=letter, grid=grid, macs_per_clip=attention.macs())
    try:
        check(attention, x)
        before = machine.observe(torch.device(DEVICE))
        benchmark(run, attention, x, DTYPE)
        after = machine.observe(torch.device(DEVICE))
        flags = machine.flags(before, after, torch.device(DEVICE)) + time_flags(benchmark)
        benchmark.extra_info.update(machine=after, flags=flags)
        mark(benchmark, flags)
    except torch.OutOfMemoryError as error:
        pytest.skip(f"out of memory: {error}")


def time_flags(benchmark) -> list[str]:
    """What its times say against themselves; nothing where benchmarks are disabled."""
    if not benchmark.stats:
        return []
    times_ms = [seconds * 1e3 for seconds in benchmark.stats.stats.data]
    return complaints(times_ms, None, drift([times_ms]))


def mark(benchmark, flags: list[str]) -> None:
    """Makes a row of the table say that its times were disturbed, and by what."""
    if benchmark.stats and (against := speaking(flags)):
        benchmark.stats.name += f" {MARK} {'; '.join(against)}"


def run(attention: Attention, x: Tensor, dtype: str) -> list[Tensor]:
    """Output and, where `x` requires it, every gradient; waits until they are there."""
    with (
        torch.autocast(DEVICE, getattr(torch, dtype), enabled=dtype != "float32"),
        torch.set_grad_enabled(x.requires_grad),
    ):
        results = [attention(x)]
    if x.requires_grad:
        results += torch.autograd.grad(results[0].float().square().sum(), [x, *attention.parameters()])
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return results


def check(attention: Attention, x: Tensor) -> None:
    """Fails unless the output in the timed precision, and everything in float32, equal what the naive twin gives.

    Gradients aren't compared in less than float32: those of keys are sums that nearly cancel, and rounding is all that
    half precision leaves of some.
    """
    for what, error in twin_errors(attention, x).items():
        assert error <= TOLERANCE["float32"], f"the {what} differs from the naive twin's by {error:.1e} of its largest"
    exact, timed = (run(attention, x.detach(), dtype)[0].float() for dtype in ("float32", DTYPE))
    error = ((timed - exact).abs().max() / exact.abs().max()).item()
    assert error <= TOLERANCE[DTYPE], f"differs in {DTYPE} by {error:.1e} of its largest value"
