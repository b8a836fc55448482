"""How fast a network is, how much memory it needs and how much energy it uses, or the reason why that isn't known.

What each number means:

- latency: one synchronised forward pass after another, batch included; median, 20th and 80th percentile.
  Where a GPU finishes sooner than the host can start its kernels, that is the host's time, and flagged as such;
  `cuda_graph` leaves the host out.
- throughput: forward passes without synchronising between them, timed at the ends; clips per second.
- peak memory: weights and clip plus the most that one forward pass holds beyond them. On a GPU that is what torch's
  allocator gave out. On a CPU it is the sizes of all live tensors, uncompiled, without the scratch space of kernels.
- energy: of a clip, idle power subtracted, while forward passes run without a pause.

Nothing is timed before the logits agree with the naive reference at the timed shape and settings, and no time is
reported by a clock that can't tell the same work done twice from done once. Weights stay where `measure` moved them;
everything else that it changes (mode, precision, threads, compiled blocks) is put back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dualformer.config import ConfigError
from dualformer.reference import naive
from dualformer.results.result import of_kind
from sweeps import machine_lock
from sweeps.measuring import machine
from sweeps.measuring.timing import Clock, Times, clock_of, quantiles, time_passes
from sweeps.run_config import MeasureConfig

GIB = 2**30

FIELDS = of_kind("timed")
"""What `measure` gives to a result; None means not measured."""

BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}

TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest accepted difference of logits from the reference, relative to the reference's largest logit."""

HOST_BOUND = 0.8
"""Above this ratio of a pass' start to its latency the GPU waits for the host, whose speed the latency then is."""

RECORDING_WARMUP = 3
"""Passes before a CUDA graph is recorded, in which kernels are chosen and memory is reserved, as torch asks for."""

IDLE_S = 1.0
BUSY_S = 3.0
"""How long idle and busy power are integrated; NVML's counter moves about ten times a second."""


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
        with eval_mode(model.to(device)), settings(config, threads):
            return _measure(model, config, device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return Measurement("oom", f"out of memory at batch size {config.batch_size}")


def _measure(model: nn.Module, config: MeasureConfig, device: torch.device) -> Measurement:
    clip = random_clip(model, config.batch_size, device)
    try:
        wanted = reference_logits(model, clip)
    except torch.OutOfMemoryError:
        return Measurement("oom", "the naive reference is out of memory, so nothing was timed")
    clock = clock_of(device)
    with _compiled(model, config.compile):
        plain = forward_pass(model, clip, config)
        first_ms = clock.time_ms(plain)
        step = recorded(plain) if config.cuda_graph else plain
        gate_error = relative_error(step(), wanted)
        details: dict[str, Any] = {"gate_error": gate_error}
        details["compile_s"] = first_ms / 1e3 if config.compile != "off" else None
        if wrong := disagreement(gate_error, config):
            return Measurement("error", wrong, details=details)
        with machine_lock.exclusive(), _no_recompilation(config.compile):
            before = machine.observe(device)
            times = time_passes(step, clock, config)
            after = machine.observe(device)
            meter = machine.energy_counter(device)
            energy_j, energy = energy_per_clip(step, clock, times.pass_ms, config.batch_size, meter)
        fields: dict[str, float | None] = dict.fromkeys(FIELDS)
        fields["peak_mem_gib"] = peak_memory(plain, [model, clip], device) / GIB
    if not times.doubt:
        fields |= time_fields(times, config.batch_size) | {"energy_j_per_clip": energy_j}
    found = machine.flags(before, after, device) + time_flags(times, device)
    details |= dataclasses.asdict(times) | {"energy": energy, "flags": found}
    details |= {"machine_before": before, "machine_after": after}
    return Measurement("ok", times.doubt, fields, details)


def time_flags(times: Times, device: torch.device) -> list[str]:
    """What speaks against times as such, in words: they never settled, or are the host's and not the GPU's."""
    found = [] if times.settled else ["times never settled"]
    latency_ms = statistics.median(times.samples_ms)
    if device.type == "cuda" and times.start_ms > HOST_BOUND * latency_ms:
        found.append(f"bound by the host: starting takes {times.start_ms:.3g} of {latency_ms:.3g} ms")
    return found


def recorded(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Returns a replay of `step` as one CUDA graph; it gives the same tensor each time, overwritten."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(RECORDING_WARMUP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


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


def energy_per_clip(
    step: Callable[[], object], clock: Clock, pass_ms: float, batch_size: int, counter: machine.EnergyCounter
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


def random_clip(model: nn.Module, batch_size: int, device: torch.device) -> Tensor:
    """The same clips every time, [batch_size, 3, T, H, W], made on the CPU."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, *model.config.clip_shape, generator=generator).to(device)


def forward_pass(module: nn.Module, x: Tensor, config: MeasureConfig) -> Callable[[], Tensor]:
    """What is timed: one forward pass in the configured precision, casts of the weights included."""
    dtype = getattr(torch, config.precision)

    def step() -> Tensor:
        with torch.inference_mode(), torch.autocast(x.device.type, dtype, enabled=config.precision != "float32"):
            return module(x)

    return step


def reference_logits(model: nn.Module, clip: Tensor) -> Tensor:
    """Logits of the first and the last clip of a batch, [2, num_classes], by the naive reference.

    Attention is written out, nothing is compiled or fused, and everything is float32.
    """
    ends = clip[[0, -1]]
    with torch.inference_mode(), _matmul_precision(tf32=False), sdpa_kernel(SDPBackend.MATH), naive(model):
        return model(ends)


def relative_error(logits: Tensor, wanted: Tensor) -> float:
    """Largest difference of the first and last row of `logits` from `wanted`, over the largest of `wanted`."""
    difference = (logits[[0, -1]].float() - wanted.float()).abs().max()
    return (difference / wanted.float().abs().max()).item()


def disagreement(error: float, config: MeasureConfig) -> str:
    """Why logits with this `relative_error` mustn't be timed; "" where they may."""
    tolerance = TOLERANCE["tf32" if config.tf32 and config.precision == "float32" else config.precision]
    if error <= tolerance:
        return ""
    return f"logits differ from the reference by {error:.1e} of its largest, more than {tolerance:g}"


def peak_memory(step: Callable[[], object], resident: Sequence[nn.Module | Tensor], device: torch.device) -> int:
    """Bytes of `resident` and of the most that one pass holds beyond them.

    Args:
        step: one forward pass, warmed up.
        resident: the model and its input.
        device: on a GPU torch's allocator is read; on a CPU live tensors are added up, uncompiled.
    """
    fixed = sum(tensor.untyped_storage().nbytes() for tensor in _storages(resident))
    if device.type == "cpu":
        with torch.compiler.set_stance("force_eager"), _LiveTensors() as live:
            step()
        return fixed + live.peak_bytes
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return fixed + torch.cuda.max_memory_allocated() - before


def _storages(resident: Sequence[nn.Module | Tensor]) -> list[Tensor]:
    """The tensors of modules, one for each storage."""
    tensors = [
        tensor
        for item in resident
        for tensor in ((*item.parameters(), *item.buffers()) if isinstance(item, nn.Module) else (item,))
    ]
    return list({tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}.values())


class _LiveTensors(TorchDispatchMode):
    """Adds up the storages that operators made and that are still referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        inputs = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **kwargs or {})
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in inputs:
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.live_bytes -= size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    text = str(error)
    allocator = "DefaultCPUAllocator" in text and "memory" in text
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or allocator


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def settings(config: MeasureConfig, threads: int) -> Iterator[None]:
    """Sets all that is otherwise ambient: threads, TF32, and which attention kernels may run."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_matmul_precision(tf32=config.tf32))
            if config.attention_backend != "auto":
                stack.enter_context(sdpa_kernel(BACKENDS[config.attention_backend]))
            yield
    finally:
        torch.set_num_threads(threads_before)


@contextlib.contextmanager
def _matmul_precision(*, tf32: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@contextlib.contextmanager
def _compiled(model: nn.Module, compile: str) -> Iterator[None]:
    """Compiles every block in place for the time of the context."""
    if compile == "off":
        yield
        return
    blocks = transformer_blocks(model)
    if not blocks:
        raise ConfigError(f"compile 'blocks': {type(model).__name__} has no list of modules named 'blocks'")
    torch.compiler.reset()
    try:
        with torch._dynamo.config.patch(recompile_limit=len(blocks) + 1):
            for block in blocks:
                block.compile(dynamic=False)
            yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


def _no_recompilation(compile: str) -> contextlib.AbstractContextManager[None]:
    """While timing, a shape that isn't compiled yet is an error and not a slow sample."""
    return contextlib.nullcontext() if compile == "off" else torch.compiler.set_stance("fail_on_recompile")


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """The entries of every module list named `blocks`."""
    return [
        block
        for name, modules in model.named_modules()
        if isinstance(modules, nn.ModuleList) and name.split(".")[-1] == "blocks"
        for block in modules
    ]
