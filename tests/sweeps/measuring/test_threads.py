"""Every way to time a network gives each of its passes, and each ceiling, the CPU threads that were asked for."""

import pytest
import torch

from sweeps.measuring import bounds
from sweeps.measuring.measurement import measure
from sweeps.measuring.side_by_side import side_by_side
from sweeps.run_config import MeasureConfig
from tests.helpers.small_models import small_model

WAYS = {
    "measure": measure,
    "side_by_side": lambda model, *args, **kwargs: side_by_side({"one": model}, *args, **kwargs),
    "roofline": bounds.roofline,
    "lower_bound_ms": bounds.lower_bound_ms,
}


@pytest.fixture
def threads_before():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_every_pass_has_the_threads_that_were_asked_for(monkeypatch, threads_before, way, threads):
    seen = {"pass": [], "ceilings": []}

    def ceilings(*args):
        seen["ceilings"].append(torch.get_num_threads())
        return bounds.Ceilings(1e6, 1e6)

    monkeypatch.setattr(bounds, "measure_ceilings", ceilings)
    model = small_model("dualformer_tiny")
    model.head.register_forward_hook(lambda *args: seen["pass"].append(torch.get_num_threads()))
    WAYS[way](model, MeasureConfig(samples=2, settled=1.0), device="cpu", threads=threads)
    assert set(seen["pass"]) == {threads}
    assert set(seen["ceilings"]) == ({threads} if way in ("roofline", "lower_bound_ms") else set())
    assert torch.get_num_threads() == threads_before
