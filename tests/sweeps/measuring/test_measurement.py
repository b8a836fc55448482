"""Measuring: what is reported is what was done, and each way of getting it wrong is noticed."""

import pytest
import torch
from torch import nn

from dualformer.attention.base import Attention
from dualformer.config import ConfigError
from dualformer.model_config import ModelConfig
from dualformer.model_contract import blocks
from dualformer.registry import create_model
from sweeps.measuring import compiling, energy, gate, machine, max_batch, timing
from sweeps.measuring import measurement as measure
from sweeps.measuring.energy import EnergyCounter
from sweeps.measuring.forward import forward_pass
from sweeps.measuring.memory import peak_memory
from sweeps.run_config import MeasureConfig

SMALL = {
    "num_classes": 4,
    "embed_dims": (16, 32),
    "depths": (2, 2),
    "num_heads": (1, 2),
    "fine_sizes": ((2, 2, 2), None),
    "coarse_sizes": ((1, 1, 1), None),
    "num_frames": 4,
    "crop_size": 16,
}
CPU = torch.device("cpu")


@pytest.fixture
def model():
    return create_model("dualformer_tiny", **SMALL)


class SimulatedDevice(timing.Clock):
    """A device that works through a queue in simulated time: a pass takes `pass_ms` there and 0.1 ms to start."""

    def __init__(self, pass_ms=5.0):
        self.pass_ms, self.host_ms, self.free_ms, self.passes = pass_ms, 0.0, 0.0, 0

    def step(self):
        self.host_ms += 0.1
        self.free_ms = max(self.free_ms, self.host_ms) + self.pass_ms
        self.passes += 1

    def now_ms(self):
        return self.host_ms

    def synchronize(self):
        self.host_ms = max(self.host_ms, self.free_ms)

    def time_ms(self, work):
        self.synchronize()
        begin = self.host_ms
        work()
        self.synchronize()
        return self.host_ms - begin


class ClockThatDoesNotWait(SimulatedDevice):
    def time_ms(self, work):
        begin = self.host_ms
        work()
        return self.host_ms - begin


class ClockThatStands(SimulatedDevice):
    def time_ms(self, work):
        work()
        return 5.0


def test_honest_clock_is_believed():
    device = SimulatedDevice()
    times = timing.time_passes(device.step, device, MeasureConfig(samples=8))
    assert times.doubt == ""
    assert times.samples_ms == pytest.approx([5.1] * 8)
    assert times.pass_ms == pytest.approx(5.0, rel=0.01)  # starting one pass overlaps with the one before it
    assert times.canary_ratio == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(("clock", "doubt"), [(ClockThatDoesNotWait, "nobody waited"), (ClockThatStands, "1.00 times")])
def test_bad_clock_is_noticed(clock, doubt):
    device = clock()
    assert doubt in timing.time_passes(device.step, device, MeasureConfig()).doubt


class SimulatedCuda(SimulatedDevice):
    """What `torch.cuda` offers for timing, of a device in simulated time."""

    def event(self, enable_timing):
        return SimulatedEvent(self)


class SimulatedEvent:
    def __init__(self, device):
        self.device, self.waited_for = device, False

    def record(self):
        self.reached_ms = max(self.device.host_ms, self.device.free_ms)

    def synchronize(self):
        self.device.host_ms, self.waited_for = max(self.device.host_ms, self.reached_ms), True

    def elapsed_time(self, end):
        if not end.waited_for:
            raise RuntimeError("the event is not done")
        return end.reached_ms - self.reached_ms


def test_the_clock_of_a_gpu_waits_for_it(monkeypatch):
    device = SimulatedCuda()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "synchronize", device.synchronize)
    clock = timing.CudaClock()
    monkeypatch.setattr(clock, "now_ms", device.now_ms)
    times = timing.time_passes(device.step, clock, MeasureConfig(samples=8))
    assert times.doubt == "" and times.samples_ms == pytest.approx([5.0] * 8, rel=0.05)
    assert times.pass_ms == pytest.approx(5.0, rel=0.05) and times.start_ms == pytest.approx(0.1)


def test_times_of_a_doubted_clock_are_withheld(model, monkeypatch):
    monkeypatch.setattr(measure, "clock_of", lambda device: ClockThatStands())
    monkeypatch.setattr(timing, "unsynchronised_ms", lambda *args: 5.0)
    result = measure.measure(model, MeasureConfig(), device="cpu", threads=1)
    assert result.status == "ok" and "withheld" in result.reason
    assert {name for name, value in result.fields.items() if value is not None} == {"peak_mem_gib"}
    assert len(result.details["samples_ms"]) == 20


def test_warm_up_lasts_until_times_settle():
    device = SimulatedDevice()
    cooling = iter([50, 40, 30, 20, 10, 5, 5, 5])

    def step():
        device.pass_ms = next(cooling, 5.0)
        device.step()

    times, settled = timing.warm_up(step, device, MeasureConfig(), least_ms=0)
    assert settled
    assert times[-6:] == pytest.approx([10.1, 5.1, 5.1, 5.1, 5.1, 5.1])  # equal medians: one outlier doesn't count


def test_times_that_never_settle_are_noted():
    device = SimulatedDevice()

    def step():
        device.pass_ms *= 1.5
        device.step()

    times, settled = timing.warm_up(step, device, MeasureConfig(warmup_limit=9))
    assert len(times) == 9 and not settled


def test_variants_take_turns():
    order = []
    device = SimulatedDevice()
    times = timing.interleave({name: lambda name=name: order.append(name) for name in "abc"}, device, 3)
    assert "".join(order) == "abcbcacab"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_measurement_is_complete_and_leaves_no_trace(model):
    model.train()
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    config = MeasureConfig(batch_size=3, samples=5, attention_backend="math", tf32=True)
    result = measure.measure(model, config, device="cpu", threads=1)

    assert result.status == "ok"
    assert set(result.fields) == set(measure.FIELDS)
    assert len(result.details["samples_ms"]) == 5
    assert result.details["gate"]["error"] < 1e-5
    assert all(module.training for module in model.modules())
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    assert not any(module.__dict__.get("forward") for module in model.modules())


def test_fields_from_times():
    times = timing.Times(
        [], True, [float(n) for n in range(1, 12)], 4.0, start_ms=0.1, canary_ratio=2.0, drift=0.0, doubt=""
    )
    assert measure.time_fields(times, batch_size=8) == {
        "latency_ms_p20": 3,
        "latency_ms_p50": 6,
        "latency_ms_p80": 9,
        "throughput_clips_per_s": 2000,
    }


def test_wrong_attention_is_never_timed(model, monkeypatch):
    attend = Attention.attend
    monkeypatch.setattr(Attention, "attend", lambda *args: 1.5 * attend(*args))
    monkeypatch.setattr(measure, "time_passes", lambda *args: pytest.fail("was timed"))
    result = measure.measure(model, MeasureConfig(), device="cpu", threads=1)
    assert result.status == "error"
    assert "differ from the reference" in result.reason
    assert set(result.fields.values()) == {None}


def test_gate_sees_the_last_clip_and_nan():
    wanted = torch.tensor([[1.0, -4.0], [2.0, 3.0]])
    logits = torch.tensor([[1.0, -4.0], [9.0, 9.0], [2.0, 3.4]])
    assert gate.relative_error(logits, wanted) == pytest.approx(0.1)
    assert not gate.relative_error(logits * torch.nan, wanted) <= 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision_is_what_is_asked_for(model, precision):
    seen = []
    model.head.register_forward_hook(lambda module, inputs, logits: seen.append(logits.dtype))
    clip = torch.zeros(1, *model.config.clip_shape)
    forward_pass(model.eval(), clip, MeasureConfig(precision=precision))()
    assert seen == [getattr(torch, precision)]


def test_out_of_memory_is_a_result(model):
    result = measure.measure(model, MeasureConfig(batch_size=10**10), device="cpu", threads=1)
    assert result.status == "oom"
    assert "batch size 10000000000" in result.reason
    assert set(result.fields.values()) == {None}


def test_unavailable_attention_kernel_is_an_error(model):
    with pytest.raises(RuntimeError, match=r"(?i)backend|kernel"):
        measure.measure(model, MeasureConfig(attention_backend="cudnn"), device="cpu", threads=1)


def test_nothing_is_measured_unless_asked(model):
    result = measure.measure(model, MeasureConfig(latency=False), device="cpu", threads=1)
    assert (result.status, set(result.fields.values())) == ("ok", {None})


def test_peak_memory_counts_every_live_byte_once():
    """Input 1000 floats, weight 1000 x 10; the pass holds a doubled input and the output, then only the output."""
    layer = nn.Linear(1000, 10, bias=False)
    clip = torch.ones(1, 1000)
    with torch.no_grad():
        peak = peak_memory(lambda: layer(clip.view(1, 1000) * 2).relu_(), [layer, clip], CPU)
    assert peak == 4 * (1000 + 10_000 + 1000 + 10)


def test_peak_memory_forgets_what_is_freed():
    clip = torch.ones(1000)

    def chain():
        x = clip
        for _ in range(10):
            x = x + 1
        return x

    with torch.no_grad():
        assert peak_memory(chain, [clip], CPU) == 4 * 3000  # input, and two of a chain at a time


def test_compiled_blocks_are_timed_and_then_uncompiled():
    one_block = {"embed_dims": (16,), "depths": (1,), "num_heads": (1,), "fine_sizes": (None,), "coarse_sizes": (None,)}
    model = create_model("dualformer_tiny", **{**SMALL, **one_block, "attention": "F"})
    result = measure.measure(model, MeasureConfig(compile="blocks", samples=3), device="cpu", threads=1)
    assert result.status == "ok" and result.details["gate"]["error"] < 1e-4
    assert all(block._compiled_call_impl is None for block in blocks(model))


class Doubling(nn.Module):
    def forward(self, x):
        return 2 * x


def test_recompilation_while_timing_is_an_error():
    model = nn.ModuleDict({"blocks": nn.ModuleList([Doubling()])})
    block = model["blocks"][0]
    with compiling.compiled(model, "blocks"):
        block(torch.zeros(3))
        with compiling.no_recompilation("blocks"):
            block(torch.ones(3))
            with pytest.raises(RuntimeError, match="recompile"):
                block(torch.zeros(4))


def test_model_without_blocks_cannot_be_compiled_by_block():
    class Plain(nn.Linear):
        config = ModelConfig(name="plain", num_frames=1, crop_size=(1, 4))

    with pytest.raises(ConfigError, match="plain has no blocks, so compile 'blocks' can't be done"):
        measure.measure(Plain(4, 4), MeasureConfig(compile="blocks"), device="cpu", threads=1)


def test_energy_is_above_idling(monkeypatch):
    """10 W idle, 110 W busy, 5 ms a pass of 2 clips: 0.25 J a clip."""
    device = SimulatedDevice()
    monkeypatch.setattr(
        energy.time, "sleep", lambda seconds: setattr(device, "host_ms", device.host_ms + seconds * 1e3)
    )
    meter = EnergyCounter(lambda: (10 * device.host_ms + 100 * device.passes * device.pass_ms) / 1e3, source="rapl")
    joules, how = energy.energy_per_clip(device.step, device, 5.0, 2, meter)
    assert joules == pytest.approx(0.25)
    assert how["idle_w"] == pytest.approx(10)


def test_energy_without_a_meter_has_a_reason():
    device = SimulatedDevice()
    nothing = EnergyCounter(None, reason="no meter")
    assert energy.energy_per_clip(device.step, device, 5.0, 2, nothing) == (None, {"reason": "no meter"})


def test_rapl_adds_packages_and_wraps(tmp_path):
    for number, start in enumerate((990, 100)):
        package = tmp_path / f"intel-rapl:{number}"
        package.mkdir()
        (package / "max_energy_range_uj").write_text("999\n")
        (package / "energy_uj").write_text(f"{start}\n")
    counter = energy.energy_counter(CPU, tmp_path)
    begin = counter.joules()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("15\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("130\n")
    assert counter.joules() - begin == pytest.approx(55e-6)
    assert energy.energy_counter(CPU, tmp_path / "nowhere").reason == "this machine shows no RAPL counter"


def observation(**changes):
    return {"seconds": 0.0, "cpu_busy_s": 0.0, "cpu_own_s": 0.0} | changes


@pytest.mark.parametrize(
    ("device", "after", "expected"),
    [
        ("cpu", {"cpu_busy_s": 10.0, "cpu_own_s": 9.5}, []),
        ("cpu", {"cpu_busy_s": 30.0, "cpu_own_s": 10.0}, ["other processes used 2.0 cores"]),
        ("cuda", {"cpu_busy_s": 30.0, "throttle_reasons": [], "gpu_processes": 1}, []),
        ("cuda", {"throttle_reasons": ["software power cap"]}, ["throttled: software power cap"]),
        ("cuda", {"gpu_processes": 3}, ["2 other processes on the GPU"]),
    ],
)
def test_disturbed_timings_are_flagged(device, after, expected):
    found = machine.flags(observation(), observation(seconds=10.0, **after), torch.device(device))
    assert found == expected


def test_idling_and_set_clocks_are_no_throttling():
    assert machine.throttle_reasons(0x1 | 0x2 | 0x10 | 0x100) == []
    assert machine.throttle_reasons(0x4 | 0x40) == ["software power cap", "hardware thermal slowdown"]


@pytest.mark.parametrize("capacity", [0, 1, 2, 37, 63, 64, 65, 100, 1000])
def test_largest_batch_is_found(capacity):
    tried = []
    found = max_batch.largest(lambda size: (tried.append(size), size <= capacity)[1], limit=100)
    assert found == min(capacity, 100)
    assert max(tried, default=0) <= 100 and len(tried) <= 14


def test_largest_batch_of_a_cpu_is_not_searched(model):
    with pytest.raises(ValueError, match="CPU"):
        max_batch.max_batch(model, MeasureConfig(), device="cpu")


@pytest.mark.parametrize(
    ("pass_ms", "device", "expected"),
    [(5.0, "cuda", 0), (0.02, "cuda", 1), (0.02, "cpu", 0)],  # starting a pass takes the simulated host 0.1 ms
)
def test_a_latency_that_is_the_hosts_is_flagged(pass_ms, device, expected):
    clock = SimulatedDevice(pass_ms)
    times = timing.time_passes(clock.step, clock, MeasureConfig(samples=8))
    assert times.start_ms == pytest.approx(0.1)
    found = measure.time_flags(times, torch.device(device))
    assert len(found) == expected and all("bound by the host: starting takes 0.1 of" in flag for flag in found)


def test_a_cpu_has_no_cuda_graphs(model):
    with pytest.raises(ConfigError, match="cuda_graph: a cpu has no CUDA graphs"):
        measure.measure(model, MeasureConfig(cuda_graph=True), device="cpu", threads=1)


@pytest.mark.gpu
def test_a_replayed_graph_passes_the_gate_and_is_not_bound_by_the_host(model):
    config = MeasureConfig(batch_size=2, precision="bfloat16", cuda_graph=True)
    result = measure.measure(model, config, device="cuda", threads=1)
    assert result.status == "ok" and result.details["gate"]["error"] < gate.TOLERANCE["bfloat16"], result.reason
    assert result.fields["peak_mem_gib"] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_measurement_on_a_gpu(model):
    config = MeasureConfig(batch_size=2, precision="bfloat16", compile="blocks")
    result = measure.measure(model, config, device="cuda", threads=1)
    assert result.status == "ok", result.reason
    resident = 4 * sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    assert result.fields["peak_mem_gib"] * 2**30 > resident
    assert (result.fields["energy_j_per_clip"] is None) == ("reason" in result.details["energy"])
