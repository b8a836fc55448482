"""Timing: clocks that can't be believed are noticed, warm-up lasts, disturbed times are flagged."""

import pytest
import torch

from sweeps.measuring import gate, machine, timing
from sweeps.measuring import measurement as measure
from sweeps.run_config import MeasureConfig
from tests.helpers.simulated_device import SimulatedDevice


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


@pytest.mark.gpu
def test_a_replayed_graph_passes_the_gate_and_is_not_bound_by_the_host(model):
    config = MeasureConfig(batch_size=2, precision="bfloat16", cuda_graph=True)
    result = measure.measure(model, config, device="cuda", threads=1)
    assert result.status == "ok" and result.details["gate"]["error"] < gate.TOLERANCE["bfloat16"], result.reason
    assert result.fields["peak_mem_gib"] > 0
