"""Networks of other people's making: counted, trained, drawn and loaded like ours, and told what they lack."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import dualformer
from dualformer import ConfigError, adapt, count_macs, load_weights
from dualformer.gradcam import gradcam
from dualformer.macs import count_training_macs
from dualformer.model_contract import LacksPartError, VideoModel, blocks, head_name, need
from dualformer.optim import parameter_groups
from dualformer.reference import num_twins
from tests.helpers.other_networks import (
    CLASSES,
    CLIP_SHAPE,
    STAND_INS,
    ConvHead,
    ConvNet,
    FramesFirst,
    NeedsValues,
    frames_first,
    small_transformers,
    torchvision_video,
)

every_stand_in = pytest.mark.parametrize("name", STAND_INS)


def adapted(name):
    torch.manual_seed(0)
    make, call = STAND_INS[name]
    return adapt(make(), CLIP_SHAPE, call=call)


def clips(model, batch=2):
    return torch.randn(batch, *model.config.clip_shape, generator=torch.Generator().manual_seed(1))


def torch_flops(model):
    """What torch's own counter counts on real tensors: twice the matrix work."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            model.eval()(clips(model, batch=1))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()


@every_stand_in
def test_is_a_model_that_gives_what_the_network_gives(name):
    torch.manual_seed(0)
    make, call = STAND_INS[name]
    network = make()
    model = adapt(network, CLIP_SHAPE, call=call).eval()
    assert isinstance(model, VideoModel)
    assert (model.config.num_classes, model.config.clip_shape) == (CLASSES, CLIP_SHAPE)
    clip = clips(model)
    assert torch.equal(model(clip), call(network, clip) if call else network(clip))
    assert num_twins(model) == 0


@every_stand_in
def test_is_counted_as_torch_counts_it(name):
    model = adapted(name)
    before = copy.deepcopy(model.state_dict())
    assert 2 * count_macs(model).matrix_work == torch_flops(model)
    training = count_training_macs(model)
    assert training.backward > 0 and training.recomputation == 0
    assert training.forward == count_macs(model).matrix_work
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@every_stand_in
def test_trains_and_its_state_dict_is_the_networks_own(name):
    model, other = adapted(name).train(), adapted(name)
    model(clips(model)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert list(model.state_dict()) == list(model.network.state_dict())
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    report = load_weights(other, model.network.state_dict())
    assert (report.layout, set(report.matched)) == ("own", set(model.state_dict()))
    assert torch.equal(other.eval()(clips(model)), model.eval()(clips(model)))


def test_head_is_left_out_replaced_and_trained_at_its_own_rate():
    model, other = adapted("conv"), adapt(ConvNet(num_classes=7), CLIP_SHAPE)
    whole, without = count_macs(model), count_macs(model, include_head=False)
    assert head_name(model) == "network.fc"
    assert whole.total - without.total == 8 * CLASSES
    assert "network.fc" not in without.by_module and not without.head_included
    report = load_weights(other, model.state_dict(), replace_head=True)
    assert set(report.kept) == {"fc.weight", "fc.bias"}
    rates = {
        name: group["lr"] for group in parameter_groups(model, "intended", 1.0, 0.0) for name, _ in group["params"]
    }
    assert {name for name, rate in rates.items() if rate == 1.0} == {"network.fc.weight", "network.fc.bias"}


def test_what_a_network_lacks_is_said_and_for_what():
    model = adapt(ConvHead(), CLIP_SHAPE, name="mine")
    for use in (
        lambda: count_macs(model, include_head=False),
        lambda: parameter_groups(model, "intended", 1.0, 0.0),
        lambda: load_weights(model, model.state_dict(), replace_head=True),
    ):
        with pytest.raises(LacksPartError, match=r"mine has no head, so .* can't be done: no linear layer comes last"):
            use()
    with pytest.raises(LacksPartError, match="mine has no blocks, so compile 'blocks' can't be done"):
        need(model, "blocks", "compile 'blocks'")
    frames = adapt(FramesFirst(), CLIP_SHAPE, call=frames_first)
    with pytest.raises(
        LacksPartError, match=r"where its 64 tokens lie in the clip isn't known; give adapt\(.*features"
    ):
        frames.forward_features(clips(frames))
    with pytest.raises(ConfigError, match="adapted at hand, so it can't be built again"):
        count_macs(model, num_frames=8)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv", (2, 8, 2, 16, 16)),
        ("conv_head", (2, CLASSES, 2, 16, 16)),
        ("class_token", (2, 16, 2, 4, 4)),
        ("mean_token", (2, 16, 2, 4, 4)),
        ("channels_last", (2, 12, 2, 8, 8)),
    ],
)
def test_map_before_the_head_is_found(name, shape):
    model = adapted(name).eval()
    assert model.forward_features(clips(model)).shape == shape
    logits, features = model.logits_and_features(clips(model))
    assert torch.equal(logits, model(clips(model)))
    assert features.shape == shape


def test_tokens_become_a_map_in_their_places():
    model = adapted("mean_token").eval()
    for layer in model.network.encoder.layers:
        for weight in (layer.self_attn.out_proj.weight, layer.linear2.weight):
            nn.init.zeros_(weight)  # then nothing passes from token to token
    clip = clips(model)
    other = clip.clone()
    other[:, :, 2:, 8:16, 24:] += 1.0  # the patches at time 1, row 1, column 3
    changed = (model.forward_features(other) - model.forward_features(clip)).abs().amax(dim=(0, 1)) > 1e-4
    assert changed.nonzero().tolist() == [[1, 1, 3]]


@pytest.mark.parametrize("name", ["conv", "mean_token", "channels_last"])
def test_evidence_of_a_pooled_map(name):
    model = adapted(name).eval()
    evidence, logits = gradcam(model, clips(model, batch=1), 2)
    assert evidence.shape == CLIP_SHAPE[1:]
    assert logits.shape == (CLASSES,)
    assert evidence.min() >= 0 and evidence.max() <= 1


@pytest.mark.parametrize("name", ["class_token"])
def test_evidence_is_refused_where_a_class_token_decides(name):
    with pytest.raises(ValueError, match="class token"):
        gradcam(adapted(name).eval(), clips(adapted(name), batch=1))


def test_features_can_be_said():
    model = adapt(FramesFirst(), CLIP_SHAPE, call=frames_first, features=lambda module, clip: clip[:, :, ::2, ::8, ::8])
    assert model.forward_features(clips(model)).shape == (2, 3, 2, 4, 4)


def test_blocks_that_repeat_are_found():
    assert len(blocks(adapted("mean_token"))) == 2
    assert blocks(adapted("conv")) == []


def test_network_is_left_as_it_was():
    network = NeedsValues().train()
    network.body[1].eval()
    statistics = network.body[1].running_mean.clone()
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    adapt(network, CLIP_SHAPE)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(network.body[1].running_mean, statistics)
    assert network.training and not network.body[1].training
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("network", "shape", "options", "message"),
    [
        (ConvNet(), (4, 32, 32), {}, r"clip_shape is \(3, frames, height, width\), got \(4, 32, 32\)"),
        (ConvNet(), (1, 4, 32, 32), {}, "clip_shape is"),
        (ConvNet(), CLIP_SHAPE, {"num_classes": 7}, "gives 5 logits, and 7 classes are asked for"),
        (FramesFirst(), CLIP_SHAPE, {}, r"FramesFirst can't take clips \[1, 3, 4, 32, 32\].*give adapt"),
        (nn.Conv3d(3, 8, 1), CLIP_SHAPE, {}, r"gave a tensor \[1, 8, 4, 32, 32\] where logits"),
        (ConvNet(), CLIP_SHAPE, {"call": lambda module, clip: {"scores": module(clip)}}, "gave a dict where logits"),
    ],
    ids=["three_numbers", "grey", "classes", "frames_first", "map", "mapping"],
)
def test_what_is_no_model_is_refused_in_words(network, shape, options, message):
    with pytest.raises(ConfigError, match=message):
        adapt(network, shape, **options)


def test_clips_of_another_shape_are_refused():
    model = adapted("conv")
    with pytest.raises(ValueError, match=r"ConvNet takes clips \[B, 3, 4, 32, 32\] and got \[2, 3, 4, 16, 32\]"):
        model(clips(model)[..., :16, :])


# GMACs as torchvision's documentation of these weights states them, head included, norms not, each at its own clip.
PUBLISHED_GMACS = {
    "r3d_18": ((3, 16, 112, 112), 40.70),
    "mvit_v2_s": ((3, 16, 224, 224), 64.22),
    "swin3d_t": ((3, 16, 224, 224), 43.88),
}
PARTS = {"r3d_18": ("fc", 8), "mvit_v2_s": ("head.1", 16), "swin3d_t": ("head", 12)}


@pytest.mark.parametrize("name", PUBLISHED_GMACS)
def test_torchvision_networks_cost_what_is_published(name):
    video = torchvision_video()
    shape, gmacs = PUBLISHED_GMACS[name]
    with torch.device("meta"):
        model = adapt(getattr(video, name)(), shape)
    assert count_macs(model).matrix_work / 1e9 == pytest.approx(gmacs, abs=0.006)
    assert count_training_macs(model).backward > count_macs(model).matrix_work
    head, num_blocks = PARTS[name]
    assert head_name(model) == f"network.{head}"
    assert len(blocks(model)) == num_blocks
    assert model.forward_features(torch.empty(1, *shape, device="meta")).ndim == 5


@pytest.mark.parametrize("name", ["Timesformer", "Vivit", "VideoMAE"])
def test_transformers_networks_are_models(name):
    network, shape = small_transformers()[name]
    model = adapt(network, shape, call=lambda module, clip: module(pixel_values=clip.transpose(1, 2)).logits)
    assert model.config.num_classes == CLASSES
    assert head_name(model) == "network.classifier"
    assert len(blocks(model)) == 2
    assert 2 * count_macs(model).matrix_work == torch_flops(model)
    assert count_training_macs(model).backward > 0
    if name == "Timesformer":
        with pytest.raises(LacksPartError, match="tokens lie in the clip"):
            model.forward_features(clips(model))
    else:
        assert model.forward_features(clips(model)).shape == (2, 24, 2, 2, 2)
    if name == "VideoMAE":
        assert gradcam(model.eval(), clips(model, batch=1))[0].shape == shape[1:]


def test_public_name():
    assert dualformer.adapt is adapt
