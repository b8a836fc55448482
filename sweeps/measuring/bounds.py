"""Least times of a network and its blocks by the ceilings of the machine, and the times that are reached.

The bound of a block is the larger of two times: its multiply-accumulates at the rate of a large matrix product in the
same precision, and its unavoidable traffic (weights, input and output once, everything between them kept on the chip)
at the bandwidth of a large copy. Both ceilings are measured on the spot. What lies outside the blocks (patch embedding,
downsampling, head) is one more part; in a network without blocks that is all of it.

A time below its bound is a mistake somewhere, most often a ceiling that was measured while something else ran. The
ceilings are then measured again, and the higher ones count.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dualformer.macs import count_macs
from dualformer.model_contract import blocks, config_of
from dualformer.modes import evaluating
from sweeps import machine_lock
from sweeps.measuring import machine
from sweeps.measuring.forward import forward_pass, random_clip
from sweeps.measuring.gate import Gate, passed
from sweeps.measuring.settings import settings
from sweeps.measuring.timing import LEAST_WARMUP_MS, clock_of, warm_up
from sweeps.run_config import MeasureConfig

COPY_BYTES = {"cpu": 2**27, "cuda": 2**32}
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
NORMS = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
OUTSIDE = "outside the blocks"
ATTEMPTS = 3
"""How often ceilings that a time beats are measured again."""


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """What the machine can do at best.

    Attributes:
        gmacs_per_s: multiply-accumulates of a large square matrix product in the precision of the run.
        gib_per_s: bytes read plus bytes written of a large copy.
    """

    gmacs_per_s: float
    gib_per_s: float

    def bound_ms(self, macs: float, num_bytes: float) -> float:
        """Least milliseconds of work that does so much arithmetic and moves so much."""
        return max(macs / (self.gmacs_per_s * 1e9), num_bytes / (self.gib_per_s * 2**30)) * 1e3

    def or_higher(self, others: Ceilings) -> Ceilings:
        """The higher of each."""
        return Ceilings(max(self.gmacs_per_s, others.gmacs_per_s), max(self.gib_per_s, others.gib_per_s))


@dataclasses.dataclass(frozen=True)
class Part:
    """Equal blocks of a network, or all that is outside the blocks.

    Attributes:
        kind: class of the block's attention and the shape of one clip's input, or "outside the blocks".
        count: how many blocks there are of this kind.
        gmacs: matrix work of one of them for one batch, norms left out.
        mib: unavoidable traffic of one of them for one batch.
        bound_ms: least time of one of them.
        time_ms: measured time of one of them alone; None outside the blocks, and where nothing was timed.
    """

    kind: str
    count: int
    gmacs: float
    mib: float
    bound_ms: float
    time_ms: float | None


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Ceilings, parts, and the whole network, in milliseconds of one batch.

    Attributes:
        time_ms: one forward pass, median.
        flags: what disturbed the timing, in words.
        gate: what the network was compared with before it was timed; None where nobody did.
    """

    ceilings: Ceilings
    parts: tuple[Part, ...]
    time_ms: float
    flags: tuple[str, ...] = ()
    gate: Gate | None = None

    @property
    def bound_ms(self) -> float:
        """Least time of a forward pass: the sum of its parts'."""
        return sum(part.count * part.bound_ms for part in self.parts)

    @property
    def beaten(self) -> list[str]:
        """What took less time than it can have taken by the ceilings."""
        parts = [part.kind for part in self.parts if part.time_ms is not None and part.time_ms < part.bound_ms]
        return parts + (["whole network"] if self.time_ms < self.bound_ms else [])

    def under(self, ceilings: Ceilings) -> Roofline:
        """The same times under other ceilings."""
        parts = (
            dataclasses.replace(part, bound_ms=ceilings.bound_ms(part.gmacs * 1e9, part.mib * 2**20))
            for part in self.parts
        )
        return dataclasses.replace(self, ceilings=ceilings, parts=tuple(parts))


def roofline(model: nn.Module, config: MeasureConfig, *, device: str | torch.device, threads: int) -> Roofline:
    """Measures the ceilings, every kind of block alone, and the whole network, uncompiled, once its logits are right.

    Args:
        model: a model with a `config`; it is moved to `device`.
        config: batch size, precision, attention kernel and number of samples.
        device: "cpu" or "cuda".
        threads: CPU threads.

    Raises:
        WrongLogitsError: the network differs from its naive reference, so that its times would mean nothing.
    """
    device = torch.device(device)
    with evaluating(model.to(device)), settings(config, threads), torch.inference_mode():
        clip = random_clip(model, config.batch_size, device)
        gate = passed(config_of(model).name, model, clip, forward_pass(model, clip, config), config)
        with machine_lock.exclusive():
            before = machine.observe(device)
            found = _timed(model, clip, config, device)
            flags = machine.flags(before, machine.observe(device), device)
    return dataclasses.replace(found, flags=tuple(flags), gate=gate)


def _timed(model: nn.Module, clip: Tensor, config: MeasureConfig, device: torch.device) -> Roofline:
    """Times everything; ceilings that a time beats are measured again, and the higher ones count."""
    ceilings = measure_ceilings(config, device)
    parts = tuple(parts_of(model, clip, config, ceilings, timed=True))
    found = Roofline(ceilings, parts, _median_ms(model, clip, config))
    for _ in range(ATTEMPTS):
        if not found.beaten:
            break
        found = found.under(found.ceilings.or_higher(measure_ceilings(config, device)))
    return found


def lower_bound_ms(
    model: nn.Module, config: MeasureConfig, *, device: str | torch.device, threads: int
) -> float | None:
    """Least milliseconds of a forward pass; only the ceilings are timed. Arguments as `roofline`.

    None where the network's blocks aren't in lists named `blocks`, or no memory is left for the ceilings.
    """
    if not blocks(model):
        return None
    device = torch.device(device)
    try:
        with evaluating(model.to(device)), settings(config, threads), torch.inference_mode(), machine_lock.exclusive():
            clip = random_clip(model, config.batch_size, device)
            parts = parts_of(model, clip, config, measure_ceilings(config, device), timed=False)
    except torch.OutOfMemoryError:
        return None
    return sum(part.count * part.bound_ms for part in parts)


def measure_ceilings(config: MeasureConfig, device: torch.device) -> Ceilings:
    """Rate of a large square matrix product in the run's precision, and of a large copy; the best of all samples.

    A disturbed sample would make a ceiling too low and a bound too high, so here the quickest counts.
    """
    size = MATRIX_SIZE[device.type]
    matrix = torch.randn(size, size, device=device)
    product_ms = min(_samples_ms(matrix.to(getattr(torch, config.precision)).matmul, matrix, config))
    source = torch.empty(COPY_BYTES[device.type] // 4, device=device)
    copy_ms = min(_samples_ms(torch.empty_like(source).copy_, source, config))
    return Ceilings(size**3 / product_ms / 1e6, 2 * source.nbytes / 2**30 / copy_ms * 1e3)


def parts_of(model: nn.Module, clip: Tensor, config: MeasureConfig, ceilings: Ceilings, *, timed: bool) -> list[Part]:
    """Groups equal blocks, times one of each if wanted, and bounds what is left of the network."""
    width = getattr(torch, config.precision).itemsize
    work = matrix_work(model)
    parts = []
    for name, kind in kinds_of_blocks(model, clip, config).items():
        macs = work.get(kind.block, 0) * len(clip)
        num_bytes = (_numel(kind.block) + kind.moved) * width
        time_ms = _median_ms(kind.again, clip, config) if timed else None
        bound_ms = ceilings.bound_ms(macs, num_bytes)
        parts.append(Part(name, kind.count, macs / 1e9, num_bytes / 2**20, bound_ms, time_ms))
    inside = blocks(model)
    macs = (work[model] - sum(work.get(block, 0) for block in inside)) * len(clip)
    num_bytes = (_numel(model) - sum(map(_numel, inside)) + clip.numel()) * width
    return [*parts, Part(OUTSIDE, 1, macs / 1e9, num_bytes / 2**20, ceilings.bound_ms(macs, num_bytes), None)]


@dataclasses.dataclass
class Kind:
    """Blocks of one class and input shape.

    Attributes:
        block: the first of them.
        inputs: what it was called with, positional and by name.
        moved: numbers that go in and come out of one of them.
        count: how many there are.
    """

    block: nn.Module
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    moved: int
    count: int = 0

    def again(self, _: Tensor) -> Any:
        """Calls the block as the network did."""
        args, by_name = self.inputs
        return self.block(*args, **by_name)


def kinds_of_blocks(model: nn.Module, clip: Tensor, config: MeasureConfig) -> dict[str, Kind]:
    """The kinds of blocks by name, in the order of the network."""
    kinds: dict[str, Kind] = {}

    def note(block: nn.Module, args: tuple[Any, ...], by_name: dict[str, Any], output: Any) -> None:
        tensors = [x for x in tree_leaves((args, by_name)) if isinstance(x, Tensor)]
        shape = "x".join(map(str, tensors[0].shape[1:]))
        moved = sum(x.numel() for x in [*tensors, *tree_leaves(output)] if isinstance(x, Tensor))
        name = f"{type(getattr(block, 'attn', block)).__name__} {shape}"
        kinds.setdefault(name, Kind(block, (args, by_name), moved)).count += 1

    hooks = [block.register_forward_hook(note, with_kwargs=True) for block in blocks(model)]
    try:
        forward_pass(model, clip, config)()
    finally:
        for hook in hooks:
            hook.remove()
    return kinds


def matrix_work(model: nn.Module) -> dict[nn.Module, int]:
    """Multiply-accumulates of one clip in every submodule and the model itself, without norms."""
    by_module = count_macs(model, include_head=True).by_module
    modules = dict(model.named_modules())
    norms = {name: macs for name, macs in by_module.items() if isinstance(modules[name], NORMS)}
    return {
        modules[name]: macs - sum(norms[norm] for norm in norms if f"{norm}.".startswith(f"{name}." if name else ""))
        for name, macs in by_module.items()
    }


def _numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _median_ms(work: Callable[[Tensor], Tensor], x: Tensor, config: MeasureConfig) -> float:
    return statistics.median(_samples_ms(work, x, config, least_ms=0.0))  # the ceilings have warmed the machine up


def _samples_ms(
    work: Callable[[Tensor], Tensor], x: Tensor, config: MeasureConfig, least_ms: float = LEAST_WARMUP_MS
) -> list[float]:
    clock = clock_of(x.device)
    step = forward_pass(work, x, config)
    warm_up(step, clock, config, least_ms)
    return [clock.time_ms(step) for _ in range(config.samples)]


def table(found: Roofline) -> str:
    """What was found, as text."""
    lines = [
        f"ceilings: matrix product {found.ceilings.gmacs_per_s:.4g} GMAC/s, copy {found.ceilings.gib_per_s:.4g} GiB/s",
        f"{'part':44} {'count':>5} {'GMACs':>9} {'MiB':>9} {'bound ms':>9} {'time ms':>9} {'reached':>8}",
    ]
    for part in found.parts:
        measured = f"{part.time_ms:9.3f} {part.bound_ms / part.time_ms:8.1%}" if part.time_ms else f"{'-':>9} {'-':>8}"
        lines.append(f"{part.kind:44} {part.count:5} {part.gmacs:9.3f} {part.mib:9.2f} {part.bound_ms:9.3f} {measured}")
    share = found.bound_ms / found.time_ms
    lines.append(f"{'whole network':44} {'':5} {'':9} {'':9} {found.bound_ms:9.3f} {found.time_ms:9.3f} {share:8.1%}")
    if found.beaten:
        lines.append(
            f"wrong: less time than its bound took {', '.join(found.beaten)}; the ceilings were measured too low, or "
            "what it moves stayed in a cache: don't believe these shares"
        )
    lines += [found.gate.told] if found.gate else []
    lines += [f"disturbed: {flag}" for flag in found.flags]
    return "\n".join(lines)
