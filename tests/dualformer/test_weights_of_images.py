"""Weights of image models: a still looks to the video model as it did to them."""

import pytest
import torch
from torch.nn import functional

from dualformer.attention.local_window import LocalWindowAttention
from dualformer.weights import WeightsError, load_weights
from tests.helpers.small_weights import shaken, small


def image_state(model):
    """The state dict of an image model: that of a one-frame model, its 3D kernels without their time axis."""
    return {
        name: value[:, :, 0] if value.ndim == 5 and value.shape[2] == 1 else value
        for name, value in model.state_dict().items()
    }


def still(image, frames):
    return image.unsqueeze(2).expand(-1, -1, frames, -1, -1)


@torch.inference_mode()
def test_video_swin_sees_a_still_as_its_image_model_does():
    """Frames repeat, so every window, shifted or not, holds each image token equally often: features are equal."""
    image_model = shaken(
        small("video_swin_tiny", num_frames=1, crop_size=48, patch_size=(1, 4, 4), window_size=(1, 3, 3))
    ).eval()
    model = small("video_swin_tiny", num_frames=16, crop_size=48)
    state = image_state(image_model)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(1)  # what image checkpoints carry besides weights
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(9, 9, dtype=torch.long)
    state["head.weight"] = torch.zeros(1000, 16)
    head = model.head.weight.clone()
    report = load_weights(model, {"model": state})
    assert report.layout == "swin_image"
    assert report.kept == ("head.weight", "head.bias")
    torch.testing.assert_close(model.head.weight, head)

    image = torch.randn(2, 3, 48, 48)
    expected = image_model.forward_features(still(image, 1))
    features = model.forward_features(still(image, 16))
    torch.testing.assert_close(features, expected.expand_as(features), rtol=1e-4, atol=1e-4)


def dualformer_image(**changes):
    """A one-frame DualFormer, and its state dict under the names of upstream's image checkpoints."""
    size = {
        "num_frames": 1,
        "crop_size": 224,
        "patch_size": (1, 4, 4),
        "window_size": (1, 7, 7),
        "fine_sizes": ((1, 7, 7),) * 4,
        **changes,
    }
    model = shaken(small("dualformer_tiny", **size)).eval()
    spelling = {
        "stages.": "",
        ".embed.": ".patch_embeds.",
        ".kv.0.": ".kv.",
        ".norms.0.": ".norm.",
        ".levels.fine.pool.": ".sr.",
        ".levels.coarse.pool.": ".lr.",
        ".peg.conv.": ".proj.0.",
    }
    state = {}
    for name, value in image_state(model).items():
        if ".peg." in name and value.ndim == 5:
            value = value[:, :, 1]  # on one frame, padded with zeros, only the middle of the kernel counts
        stage, rest = name.removeprefix("stages.").split(".", 1)
        for ours, theirs in spelling.items():
            rest = f".{rest}".replace(ours, theirs).removeprefix(".")
        if name.startswith("stages."):
            family, _, rest = rest.partition(".")
            family, rest = ("pos_block", f"proj.0.{rest.split('.')[-1]}") if ".peg." in name else (family, rest)
            name = f"{family}.{stage}.{rest}"
        state[name] = value
    return model, state


@torch.inference_mode()
def test_dualformer_sees_a_still_as_its_image_model_does():
    """Without the two operators that see a clip's ends or start anew (PEG, coarse pooling), the whole network does."""
    plain = {"position": "none", "coarse_sizes": (None,) * 4}
    image_model, state = dualformer_image(**plain)
    model = small("dualformer_tiny", num_frames=32, crop_size=224, **plain)
    report = load_weights(model, state)
    assert report.layout == "dualformer_image"
    assert set(report.kept) == {"head.weight", "head.bias"}

    image = torch.randn(1, 3, 224, 224)
    expected = image_model.forward_features(still(image, 1))
    features = model.forward_features(still(image, 32))
    torch.testing.assert_close(features, expected.expand_as(features), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_dualformer_operators_keep_their_promise_on_a_still():
    """PEG does except at the ends of the clip, the first coarse convolution does; the second starts as an average."""
    image_model, state = dualformer_image(coarse_sizes=((1, 4, 4), (1, 4, 4), None, None))
    model = small("dualformer_tiny", num_frames=32, crop_size=224)
    load_weights(model, state)

    peg = model.stages[0].peg
    places = torch.randn(1, 56, 56, 8)
    expected = image_model.stages[0].peg(places.unsqueeze(1))
    got = peg(places.unsqueeze(1).expand(-1, 16, -1, -1, -1))
    torch.testing.assert_close(got[:, 1:-1], expected.expand(-1, 14, -1, -1, -1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got[:, 0], expected[:, 0], atol=1e-3)

    for stage in (0, 1):
        spatial, norm, _, average = model.stages[stage].blocks[1].attn.levels["coarse"].pool
        kernel = state[f"blocks.{stage}.1.attn.lr.0.weight"]
        x = torch.randn(1, 8, 28, 28)
        expected = functional.conv2d(x, kernel, spatial.bias, stride=7, groups=8)
        got = spatial(still(x, 8))
        torch.testing.assert_close(got, still(expected, 8), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.weight, state[f"blocks.{stage}.1.attn.lr.1.weight"])
        volume = torch.randn(1, 8, 8, 8, 8)
        torch.testing.assert_close(average(volume), functional.avg_pool3d(volume, average.kernel_size))


@torch.inference_mode()
def test_timesformer_starts_time_attention_as_a_copy_of_space_attention():
    image_model = shaken(small("timesformer_space", num_frames=1))
    for kind in ("divided", "joint"):
        model = small(f"timesformer_{kind}")
        report = load_weights(model, {**image_model.state_dict(), "head.weight": torch.zeros(1000, 24)})
        assert report.layout == "vit_image"
        assert set(report.kept) >= {"head.weight", "head.bias", "time_embed"}
        torch.testing.assert_close(model.blocks[1].attn.state_dict(), image_model.blocks[1].attn.state_dict())
        assert not model.time_embed.any()
    divided = small("timesformer_divided")
    load_weights(divided, image_model.state_dict())
    for block in divided.blocks:
        torch.testing.assert_close(block.temporal_attn.state_dict(), block.attn.state_dict())
        torch.testing.assert_close(block.temporal_norm1.state_dict(), block.norm1.state_dict())


@torch.inference_mode()
def test_vivit_starts_from_the_central_frame_and_repeated_positions():
    image_model = shaken(small("timesformer_space", num_frames=1))  # an image ViT, under the names it is known by
    model = small("vivit_base", num_frames=8)
    report = load_weights(model, image_model.state_dict())
    assert report.layout == "vit_image"
    assert report.kept == ("head.weight", "head.bias")
    clip = torch.randn(1, 3, 8, 32, 32)
    tokens = model.patch_embed(clip).unflatten(1, (4, 4))
    torch.testing.assert_close(tokens, image_model.patch_embed(clip[:, :, 1::2]), rtol=1e-4, atol=1e-4)
    places = model.pos_embed[0, 1:].unflatten(0, (4, 4))
    torch.testing.assert_close(places, image_model.pos_embed[:, 1:].expand_as(places))


def test_image_weights_of_another_window_are_interpolated_on_request():
    image_model = shaken(small("video_swin_tiny", num_frames=1, patch_size=(1, 4, 4), window_size=(1, 4, 4)))
    model = small("video_swin_tiny")
    with pytest.raises(WeightsError, match="interpolate=True"):
        load_weights(model, image_state(image_model))
    assert "interpolated" in str(load_weights(model, image_state(image_model), interpolate=True))


def test_windows_of_the_image_model_are_those_of_the_paper():
    """The property above would be empty if the small windows were the whole map."""
    attention = small("dualformer_tiny", num_frames=32, crop_size=224).stages[0].blocks[0].attn
    assert isinstance(attention, LocalWindowAttention)
    assert attention.layout.counts == (2, 8, 8)
