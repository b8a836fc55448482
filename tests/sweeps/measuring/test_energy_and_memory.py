"""Energy above idling, memory at its peak, and the largest batch that fits."""

import pytest
import torch
from torch import nn

from sweeps.measuring import energy, max_batch
from sweeps.measuring.energy import EnergyCounter
from sweeps.measuring.memory import peak_memory
from sweeps.run_config import MeasureConfig
from tests.helpers.simulated_device import SimulatedDevice

CPU = torch.device("cpu")


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


@pytest.mark.parametrize("capacity", [0, 1, 2, 37, 63, 64, 65, 100, 1000])
def test_largest_batch_is_found(capacity):
    tried = []
    found = max_batch.largest(lambda size: (tried.append(size), size <= capacity)[1], limit=100)
    assert found == min(capacity, 100)
    assert max(tried, default=0) <= 100 and len(tried) <= 14


def test_largest_batch_of_a_cpu_is_not_searched(model):
    with pytest.raises(ValueError, match="CPU"):
        max_batch.max_batch(model, MeasureConfig(), device="cpu")
