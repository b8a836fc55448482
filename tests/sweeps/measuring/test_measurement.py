"""Measuring: what is reported is what was done, and each way of getting it wrong is noticed."""

import pytest
import torch
from torch import nn

from dualformer.attention.base import Attention
from dualformer.config import ConfigError
from dualformer.model_config import ModelConfig
from dualformer.model_contract import blocks
from dualformer.registry import create_model
from sweeps.measuring import compiling, gate, timing
from sweeps.measuring import measurement as measure
from sweeps.measuring.forward import forward_pass
from sweeps.run_config import MeasureConfig
from tests.helpers.small_models import TWO_STAGES


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


def test_out_of_memory_is_a_result(model, monkeypatch):
    monkeypatch.setattr(measure, "random_clip", lambda *_: torch.empty(2**55))  # more than any machine has
    result = measure.measure(model, MeasureConfig(batch_size=10**6), device="cpu", threads=1)
    assert result.status == "oom"
    assert "batch size 1000000" in result.reason
    assert set(result.fields.values()) == {None}


def test_unavailable_attention_kernel_is_an_error(model):
    with pytest.raises(RuntimeError, match=r"(?i)backend|kernel"):
        measure.measure(model, MeasureConfig(attention_backend="cudnn"), device="cpu", threads=1)


def test_nothing_is_measured_unless_asked(model):
    result = measure.measure(model, MeasureConfig(latency=False), device="cpu", threads=1)
    assert (result.status, set(result.fields.values())) == ("ok", {None})


def test_compiled_blocks_are_timed_and_then_uncompiled():
    one_block = {"embed_dims": (16,), "depths": (1,), "num_heads": (1,), "fine_sizes": (None,), "coarse_sizes": (None,)}
    model = create_model("dualformer_tiny", **{**TWO_STAGES, **one_block, "attention": "F"})
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


def test_a_cpu_has_no_cuda_graphs(model):
    with pytest.raises(ConfigError, match="cuda_graph: a cpu has no CUDA graphs"):
        measure.measure(model, MeasureConfig(cuda_graph=True), device="cpu", threads=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_measurement_on_a_gpu(model):
    config = MeasureConfig(batch_size=2, precision="bfloat16", compile="blocks")
    result = measure.measure(model, config, device="cuda", threads=1)
    assert result.status == "ok", result.reason
    resident = 4 * sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    assert result.fields["peak_mem_gib"] * 2**30 > resident
    assert (result.fields["energy_j_per_clip"] is None) == ("reason" in result.details["energy"])
