"""What every model of the registry promises, at reduced size. A new model is tested by its line in the registry."""

import copy
import dataclasses
import json

import pytest
import torch

from dualformer import ConfigError, count_macs, create_model, list_models, load_weights
from dualformer.attention import letters
from dualformer.reference import num_twins
from dualformer.tracing import shared_functions
from tests.helpers.small_models import clip_for, distinct_models, small_config, small_model

NAMES = list_models()
PUBLISHED = [(name, {}) for name in distinct_models()]
# DualFormer with every letter, and with the position encoding that its published form lacks at an odd size.
VARIANTS = [
    ("dualformer_tiny", {"attention": "".join(letters()), "depths": (len(letters()), 1)}),
    ("dualformer_tiny", {"attention": "LS", "position": "relative", "num_frames": 5, "crop_size": (33, 47)}),
]


def cases(*marks):
    """Published networks and variants as parameters of a test; `marks` for the variants."""
    published = [pytest.param(name, changes, id=name) for name, changes in PUBLISHED]
    variants = [
        pytest.param(name, changes, id=f"{name}-{changes['attention']}", marks=marks) for name, changes in VARIANTS
    ]
    return published + variants


every_network = pytest.mark.parametrize(("name", "changes"), cases())
every_network_slowly = pytest.mark.parametrize(("name", "changes"), cases(pytest.mark.slow))
BATCH = ({0: torch.export.Dim("batch")},)


def traced_model(name, changes):
    """In eval mode, with no more blocks than there are kinds of them: tracing is what takes the time here."""
    fewer = {"depths": (2, 1), "depth": 1}
    fields = {field: value for field, value in fewer.items() if hasattr(small_config(name), field)}
    return small_model(name, **{**fields, **changes}).eval()


@pytest.mark.parametrize("name", NAMES)
def test_logits_in_train_and_eval_and_a_feature_map(name):
    model = small_model(name)
    clip = clip_for(model)
    for mode in (True, False):
        logits = model.train(mode)(clip)
        assert logits.shape == (2, 5)
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()
    features = model.forward_features(clip)
    assert features.ndim == 5
    assert features.shape[:2] == (2, model.head.in_features)
    assert all(1 < tokens <= size for tokens, size in zip(features.shape[2:], model.config.clip_shape[1:]))


@every_network
def test_samples_of_a_batch_are_independent_in_eval(name, changes):
    model = small_model(name, **changes).eval()
    clip = clip_for(model, batch=3)
    alone = torch.cat([model(sample) for sample in clip.split(1)])
    torch.testing.assert_close(model(clip), alone, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(alone[0], alone[1])


@every_network
def test_twins_share_nothing_with_the_fast_path_but_weights(name, changes):
    model = small_model(name, **changes)
    assert num_twins(model) and shared_functions(model, clip_for(model, batch=1)) == []


@every_network
def test_every_parameter_receives_a_gradient(name, changes):
    model = small_model(name, drop_path_rate=0.0, **changes).train()
    for (
        parameter
    ) in model.parameters():  # what starts at zero, such as the way out of time attention, hides what is behind
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    model(clip_for(model)).square().sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("name", NAMES)
def test_config_rebuilds_the_model(name):
    config = small_config(name, num_classes=7)
    fields = json.loads(json.dumps(config.to_dict()))
    assert type(config).from_dict(fields) == config
    again = create_model(**fields)
    assert again.config == config
    assert again.head.out_features == 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        again.config.num_classes = 3


@every_network
@pytest.mark.parametrize("wrapped", [False, True])
def test_own_state_dict_loads_strictly(name, changes, wrapped):
    model, other = small_model(name, **changes).eval(), small_model(name, **changes).eval()
    for parameter in other.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    state = model.state_dict()
    report = load_weights(other, {"state_dict": state} if wrapped else state)
    assert set(report.matched) == set(state)
    assert not report.missing and not report.unexpected
    clip = clip_for(model)
    assert torch.equal(model(clip), other(clip))


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(small_config(name), "norm_eps")])
def test_norm_eps_is_that_of_every_layer_norm(name):
    changes = {"attention": "".join(letters()), "depths": (len(letters()), 1)} if "dualformer" in name else {}
    model, other = small_model(name, **changes).eval(), small_model(name, norm_eps=0.5, **changes).eval()
    norms = [module for module in other.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) > 4 and {norm.eps for norm in norms} == {0.5}
    assert {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)} == {
        model.config.norm_eps
    }
    clip = clip_for(model)
    assert not torch.allclose(model(clip), other(clip))


@pytest.mark.parametrize("name", NAMES)
def test_clip_of_another_shape_is_refused_by_name_and_shape(name):
    model = small_model(name)
    clip = clip_for(model)
    for wrong in (clip[:, :, :4], clip[..., :16], clip[:, :1], clip[0]):
        with pytest.raises(ValueError, match=rf"{name} was built for clips .*got \[{', '.join(map(str, wrong.shape))}"):
            model(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_counting_leaves_the_model_as_it_is(name):
    model = small_model(name).train()
    state = copy.deepcopy(model.state_dict())
    assert count_macs(model) == count_macs(name, **{k: v for k, v in model.config.to_dict().items() if k != "name"})
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_frames", "crop_size"), [(6, (32, 48)), (5, (33, 47)), (1, (16, 80))], ids=str)
def test_any_clip_size_works_or_names_the_nearest_that_does(name, num_frames, crop_size):
    try:
        model = small_model(name, num_frames=num_frames, crop_size=crop_size).eval()
    except ConfigError as error:
        assert "is not a multiple of" in str(error)
        assert crop_size == (33, 47) or num_frames == 1
        return
    logits = model(clip_for(model))
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()


@every_network
def test_memory_format_of_the_clip_does_not_matter(name, changes):
    model = small_model(name, **changes).eval()
    clip = clip_for(model)
    channels_last = clip.to(memory_format=torch.channels_last_3d)
    assert channels_last.stride() != clip.stride()
    torch.testing.assert_close(model(channels_last), model(clip), rtol=1e-4, atol=1e-6)
    frames_first = clip.transpose(1, 2).contiguous().transpose(1, 2)  # as a loader that stacks frames leaves it
    torch.testing.assert_close(model(frames_first), model(clip), rtol=1e-4, atol=1e-6)


@every_network
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)], ids=str)
def test_autocast_stays_near_float32(name, changes, dtype, tolerance):
    model = small_model(name, **changes).train()
    clip = clip_for(model)
    with torch.autocast("cpu", dtype):
        model(clip).float().square().sum().backward()
        logits = model.eval()(clip)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    exact = model(clip)
    assert logits.dtype == dtype
    assert (logits - exact).abs().max() <= tolerance * exact.abs().max()


@every_network
def test_gradient_checkpointing_changes_no_gradient_and_no_statistic(name, changes):
    plain, recomputing = (
        small_model(name, gradient_checkpointing=on, drop_path_rate=0.3, **changes).train() for on in (False, True)
    )
    for model in (plain, recomputing):
        torch.manual_seed(3)  # of what is dropped; recomputation must drop the same
        model(clip_for(model)).square().sum().backward()
    assert recomputing.config.gradient_checkpointing
    for (name, p), q in zip(plain.named_parameters(), recomputing.parameters()):
        torch.testing.assert_close(q.grad, p.grad, msg=lambda m, name=name: f"{name}: {m}")
    for (name, one), two in zip(plain.named_buffers(), recomputing.buffers()):
        assert torch.equal(one, two), f"{name}: recomputing a block must not count its batch again"


@every_network
def test_exports_with_any_batch_size(name, changes):
    model = traced_model(name, changes)
    with torch.no_grad():
        exported = torch.export.export(model, (clip_for(model),), dynamic_shapes=BATCH).module()
        for batch in (2, 3):
            clip = clip_for(model, batch)
            torch.testing.assert_close(exported(clip), model(clip), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@every_network
def test_exports_strictly(name, changes):
    model = traced_model(name, changes)
    clip = clip_for(model)
    exported = torch.export.export(model, (clip,), strict=True).module()
    torch.testing.assert_close(exported(clip), model(clip), rtol=1e-4, atol=1e-6)


@every_network_slowly
def test_compiles_as_one_graph(name, changes):
    model = traced_model(name, changes)
    clip = clip_for(model)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(clip), model(clip), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@every_network
def test_compiled_training_step_equals_the_plain_one(name, changes):
    """Through the default backend, forward and backward."""
    plain, compiled = (traced_model(name, changes).eval() for _ in range(2))
    clip = clip_for(plain)
    plain(clip).square().sum().backward()
    torch.compile(compiled, fullgraph=True)(clip).square().sum().backward()
    for p, q in zip(plain.parameters(), compiled.parameters()):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-5)


@every_network_slowly
def test_onnx_export_gives_the_same_logits(name, changes, tmp_path):
    for library in ("onnx", "onnxscript"):
        pytest.importorskip(library)
    onnxruntime = pytest.importorskip("onnxruntime")
    model = traced_model(name, changes)
    program = torch.onnx.export(model, (clip_for(model),), dynamic_shapes=BATCH, dynamo=True, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (2, 3):
        clip = clip_for(model, batch)
        (logits,) = session.run(None, {session.get_inputs()[0].name: clip.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(clip).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@every_network
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_cuda_equals_cpu(name, changes, dtype):
    model = small_model(name, **changes).eval()
    clip = clip_for(model)
    exact = model(clip)
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.004}[dtype]
    autocast = torch.autocast("cuda", dtype, enabled=dtype != torch.float32)
    with autocast, torch.backends.cudnn.flags(allow_tf32=False):
        logits = model.cuda()(clip.cuda(memory_format=torch.channels_last_3d)).cpu()
    assert (logits - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.gpu
@every_network
def test_cuda_compiled_and_exported_equal_the_plain_model(name, changes):
    model = traced_model(name, changes).cuda()
    clip = clip_for(model).cuda()
    with torch.no_grad():
        expected = model(clip)
        for other in (torch.compile(model, fullgraph=True), torch.export.export(model, (clip,)).module()):
            torch.testing.assert_close(other(clip), expected, rtol=1e-3, atol=1e-5)
