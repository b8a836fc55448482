"""Loading weights: every layout, every refusal, and what inflation of image weights promises."""

import pickle

import pytest
import safetensors.torch
import torch
from torch.nn import functional

from dualformer import ConfigError, create_model
from dualformer.attention.local_window import LocalWindowAttention
from dualformer.weights import WeightsError, load_weights
from tests.helpers.golden_values import LIBRARIES, golden, library_model, ruled_state

VIT = {"num_frames": 4, "crop_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
SWIN = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5, "window_size": (4, 3, 3)}
DUAL = {"embed_dims": (8, 8, 16, 16), "depths": (2, 2, 2, 2), "num_heads": (1, 1, 2, 2), "num_classes": 5}
SMALL = {
    "dualformer_tiny": {**DUAL, "num_frames": 4, "crop_size": 32},
    "video_swin_tiny": {**SWIN, "num_frames": 4, "crop_size": 32},
    "timesformer_divided": VIT,
    "timesformer_joint": VIT,
    "timesformer_space": VIT,
    "vivit_base": VIT,
}


def small(name, **changes):
    return create_model(name, **{**SMALL[name], **changes}).eval()


def shaken(model, seed=0):
    """All weights random: nothing hides behind a start value."""
    torch.manual_seed(seed)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def same_logits(one, other):
    clip = torch.randn(2, *one.config.clip_shape)
    with torch.inference_mode():
        torch.testing.assert_close(one(clip), other(clip))


# --- our own layout, files and wrappers


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_saved_and_loaded_is_the_same_model(name, suffix, tmp_path):
    trained, fresh = shaken(small(name)), small(name)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(trained.state_dict(), path)
    else:
        torch.save(trained.state_dict(), path)
    report = load_weights(fresh, path)
    assert set(report.matched) == set(fresh.state_dict())
    assert (report.missing, report.unexpected, report.kept, report.notes) == ((), (), (), ())
    assert report.layout == name.rsplit("_", 1)[0]
    same_logits(trained, fresh)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "meta": {"epoch": 30}},
        lambda state: {"epoch": 15, "model_state": state, "optimizer_state": {"state": {}}},
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    ],
    ids=["state_dict", "model_state", "model", "data_parallel"],
)
def test_wrappers_of_training_frameworks_are_opened(wrap, tmp_path):
    trained, fresh = shaken(small("vivit_base")), small("vivit_base")
    torch.save(wrap(trained.state_dict()), tmp_path / "checkpoint.pyth")
    load_weights(fresh, tmp_path / "checkpoint.pyth")
    same_logits(trained, fresh)


def test_weights_take_the_type_of_the_model():
    fresh = small("vivit_base").double()
    load_weights(fresh, shaken(small("vivit_base")).half().state_dict())
    assert fresh.head.weight.dtype == torch.float64


# --- other people's layouts; that logits are theirs too is in test_golden.py


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("dualformer_tiny", "dualformer_released"),
        ("dualformer_base", "dualformer_released"),
        ("video_swin_tiny", "video_swin_released"),
        ("timesformer_divided", "timesformer_released"),
        ("timesformer_joint", "timesformer_released"),
    ],
)
def test_released_checkpoints_are_recognised(name, layout, wrapped):
    with torch.device("meta"):
        model = create_model(name)
        state = {key: torch.empty(shape) for key, shape in golden(name)["state_dict"].items()}
    report = load_weights(model, {"state_dict": state} if wrapped else state)
    assert report.layout == layout
    assert set(report.matched) == set(model.state_dict())


@pytest.mark.parametrize("name", LIBRARIES)
def test_equals_the_real_library(name, tmp_path):
    """Random weights, saved by the library or as its state dict, give its logits (float32)."""
    try:
        library, logits_of = library_model(name)
    except ImportError as error:
        pytest.skip(f"{name} can't be built here, recorded values stand in for it: {error}")
    shaken(library)
    ours, size = LIBRARIES[name]
    if hasattr(library, "save_pretrained"):
        library.save_pretrained(tmp_path)
        source = tmp_path / "model.safetensors"
    else:
        source = tmp_path / "model.pth"
        torch.save(library.state_dict(), source)
    model = create_model(ours, **size).eval()
    load_weights(model, source)
    clip = torch.randn(2, *model.config.clip_shape)
    with torch.inference_mode():
        expected, logits = logits_of(clip), model(clip)
    assert (logits - expected).norm() <= 1e-4 * expected.norm()


def test_older_names_of_hugging_face_vivit_load_as_well():
    """Files keep the names of version 4 of the library; its models have others since version 5."""
    values = golden("huggingface_vivit")
    newer, older = (create_model("vivit_base", **values["overrides"]).eval() for _ in range(2))
    state = ruled_state(values["state_dict"])
    load_weights(newer, state)
    spelling = {
        "vivit.layers.": "vivit.encoder.layer.",
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    renamed = {}
    for key, value in state.items():
        for new, old in spelling.items():
            key = key.replace(new, old)
        renamed[key] = value
    assert renamed.keys() != state.keys()
    load_weights(older, renamed)
    same_logits(newer, older)


# --- refusals


def test_a_missing_and_an_unexpected_name_are_errors_and_nothing_is_loaded():
    model = small("video_swin_tiny")
    state = shaken(small("video_swin_tiny")).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    del state["norm.weight"]
    state["norm.gain"] = torch.ones(16)
    with pytest.raises(WeightsError, match=r"1 missing: norm\.weight; 1 unexpected: norm\.gain"):
        load_weights(model, state)
    torch.testing.assert_close(model.state_dict(), before)

    report = load_weights(model, state, strict=False)
    assert report.missing == ("norm.weight",)
    assert report.unexpected == ("norm.gain",)
    torch.testing.assert_close(model.layers[0].blocks[0].mlp.fc1.weight, state["layers.0.blocks.0.mlp.fc1.weight"])
    torch.testing.assert_close(model.norm.weight, before["norm.weight"])


def test_many_names_are_counted_and_the_first_shown():
    state = {name: value for name, value in small("vivit_base").state_dict().items() if "blocks.1." not in name}
    with pytest.raises(WeightsError, match=r"12 missing: blocks\.1\.norm1\.weight, .* and 7 more"):
        load_weights(small("vivit_base"), state)


def test_an_unknown_layout_says_what_it_saw():
    with pytest.raises(
        WeightsError, match=r"no known layout of ViViT \(known: huggingface_vivit.*saw 2 entries: a\.w, b"
    ):
        load_weights(small("vivit_base"), {"a.w": torch.ones(1), "b": torch.ones(1)})


@pytest.mark.parametrize(
    ("source", "message"),
    [({}, "no tensors by name"), ({"epoch": 3}, "a mapping of epoch"), ({"state_dict": {}}, "no")],
)
def test_a_mapping_without_tensors_is_refused(source, message):
    with pytest.raises(WeightsError, match=message):
        load_weights(small("vivit_base"), source)


class Trap:
    """Unpickles by creating a file: what a hostile checkpoint could do, only worse."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    trap = tmp_path / "sprung"
    torch.save({"state_dict": small("vivit_base").state_dict(), "meta": Trap(trap)}, tmp_path / "hostile.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap(trap)))
    for name in ("hostile.pth", "plain.pth"):
        with pytest.raises(WeightsError, match=f"{name} holds more than tensors"):
            load_weights(small("vivit_base"), tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_broken_file_is_named(name, tmp_path):
    whole = tmp_path / f"whole-{name}"
    state = small("vivit_base").state_dict()
    safetensors.torch.save_file(state, whole) if name.endswith("safetensors") else torch.save(state, whole)
    for content in (whole.read_bytes()[:5000], b""):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            load_weights(small("vivit_base"), tmp_path / name)


def test_a_file_that_is_absent_or_of_another_kind_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file .*absent\.pth"):
        load_weights(small("vivit_base"), tmp_path / "absent.pth")
    (tmp_path / "weights.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"weights\.onnx: unknown kind of file; known are \.safetensors"):
        load_weights(small("vivit_base"), str(tmp_path / "weights.onnx"))


# --- another class count


@pytest.mark.parametrize("name", SMALL)
def test_another_class_count_replaces_the_head_and_nothing_else_and_only_when_asked(name):
    state = shaken(small(name)).state_dict()
    model = small(name, num_classes=3)
    head = model.head.weight.clone()
    with pytest.raises(WeightsError, match=r"head\.weight \[5, .*replace_head=True"):
        load_weights(model, state)
    with pytest.raises(WeightsError):
        load_weights(model, state, strict=False)
    report = load_weights(model, state, replace_head=True)
    assert report.kept == ("head.weight", "head.bias")
    assert "head replaced: the checkpoint's 5 classes left out, 3 start anew" in str(report)
    torch.testing.assert_close(model.head.weight, head)
    loaded = model.state_dict()
    for key in state.keys() - {"head.weight", "head.bias"}:
        torch.testing.assert_close(loaded[key], state[key])


# --- another clip size


def ramp(grid):
    """A table whose three channels are the coordinates of each cell, from 0 at one end of the grid to 1."""
    axes = [(torch.arange(size) + 0.5) / size for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


@pytest.mark.parametrize(
    ("name", "table", "before", "after", "grids"),
    [
        ("vivit_base", "pos_embed", (8, 64), (16, 64), ((4, 4, 4), (8, 4, 4))),
        ("vivit_base", "pos_embed", (8, 64), (8, 96), ((4, 4, 4), (4, 6, 6))),
        ("vivit_base", "pos_embed", (32, 224), (8, 64), ((16, 14, 14), (4, 4, 4))),
        ("timesformer_joint", "pos_embed", (4, 64), (4, (96, 128)), ((1, 4, 4), (1, 6, 8))),
        ("timesformer_joint", "time_embed", (4, 64), (10, 64), ((4, 1, 1), (10, 1, 1))),
    ],
)
def test_position_tables_are_interpolated_on_request(name, table, before, after, grids):
    small_vit = {**VIT, "embed_dim": 3, "num_heads": 1}
    source = create_model(name, **{**small_vit, "num_frames": before[0], "crop_size": before[1]})
    model = create_model(name, **{**small_vit, "num_frames": after[0], "crop_size": after[1]})
    state = shaken(source).state_dict()
    leading = state[table][:, : int(table == "pos_embed")]
    state[table] = torch.cat([leading, ramp(grids[0])[None]], dim=1)
    with pytest.raises(WeightsError, match=rf"{table} .*interpolate=True"):
        load_weights(model, state)
    report = load_weights(model, state, interpolate=True)
    assert f"{table} interpolated" in str(report)

    loaded = getattr(model, table).detach()
    torch.testing.assert_close(loaded[:, : leading.shape[1]], leading)  # the class token has no place
    cells = loaded[0, leading.shape[1] :].reshape(*grids[1], 3)
    expected = ramp(grids[1]).reshape(*grids[1], 3)
    # A linear ramp stays one, but for cells beyond the centre of the outermost old cell.
    inner = tuple(slice(size // 4, size - size // 4) for size in grids[1])
    for axis in range(3):
        torch.testing.assert_close(cells[inner][..., axis], expected[inner][..., axis])


def test_a_table_of_the_right_shape_is_left_alone():
    trained, fresh = shaken(small("vivit_base")), small("vivit_base")
    assert load_weights(fresh, trained.state_dict(), interpolate=True).notes == ()
    same_logits(trained, fresh)


def test_a_grid_that_cannot_be_told_is_refused():
    state = small("vivit_base").state_dict()
    state["pos_embed"] = torch.zeros(1, 1 + 7, 24)
    with pytest.raises(WeightsError, match="can't tell which grid the 7 cells"):
        load_weights(small("vivit_base"), state, interpolate=True)
    with pytest.raises(WeightsError, match=r"tried \(1, 2, 2\)"):
        load_weights(small("vivit_base"), state, interpolate={"num_frames": 2})


def test_the_size_that_learned_a_table_may_be_stated():
    state = shaken(small("vivit_base", num_frames=16)).state_dict()  # 8x2x2: not to be told from 2x4x4
    model = small("vivit_base", crop_size=64)
    with pytest.raises(ConfigError, match="unknown field 'frames'; did you mean 'num_frames'"):
        load_weights(model, state, interpolate={"frames": 16})
    load_weights(model, state, interpolate={"num_frames": 16, "crop_size": 32})
    # The first of 2 time steps lies between the second and the third of 8; in space the first cell is the corner.
    _, second, third, *_ = state["pos_embed"][0, 1:].reshape(8, 2, 2, -1)[:, 0, 0]
    torch.testing.assert_close(model.pos_embed[0, 1].detach(), (second + third) / 2)


@pytest.mark.parametrize(
    ("name", "kind", "before", "after"),
    [
        ("dualformer_tiny", {"position": "absolute"}, {"crop_size": 32}, {"num_frames": 8, "crop_size": (48, 40)}),
        (
            "dualformer_tiny",
            {"attention": "LS", "position": "relative", "crop_size": 64},
            {"window_size": (8, 7, 7)},
            {"window_size": (8, 5, 5)},
        ),
        ("video_swin_tiny", {}, {"window_size": (4, 3, 3)}, {"window_size": (8, 4, 4)}),
    ],
)
def test_tables_of_windows_and_maps_keep_a_constant(name, kind, before, after):
    state = shaken(small(name, **kind, **before)).state_dict()
    tables = [key for key in state if key.endswith(("absolute_position", "bias_table"))]
    for key in tables:
        state[key] = torch.full_like(state[key], 0.7)
    model = small(name, **kind, **after)
    report = load_weights(model, state, interpolate={"num_frames": 4, **before})
    assert report.notes
    for key in tables:
        torch.testing.assert_close(model.state_dict()[key], torch.full_like(model.state_dict()[key], 0.7))


def test_pooling_kernels_of_dualformer_keep_what_they_sum_to():
    """A map that is the same everywhere pools to the same tokens at any clip size."""
    trained = shaken(small("dualformer_tiny", num_frames=32, crop_size=224))
    model = small("dualformer_tiny", num_frames=16, crop_size=(160, 192))
    with pytest.raises(WeightsError, match=r"levels\.fine\.pool\.weight.*interpolate=True"):
        load_weights(model, trained.state_dict())
    report = load_weights(model, trained.state_dict(), interpolate=True)
    assert "fine.pool.weight interpolated from [8, 1, 2, 8, 8] to [8, 1, 1, 6, 7]" in str(report)
    for stage in range(2):
        for level in ("fine", "coarse"):
            before, after = (m.stages[stage].blocks[1].attn.levels[level] for m in (trained, model))
            channels = torch.randn(1, 8, 1, 1, 1)
            with torch.inference_mode():
                expected = before(channels.expand(-1, -1, *before.grid))
                got = after(channels.expand(-1, -1, *after.grid))
            torch.testing.assert_close(got, expected[:, :, :1, :1, :1].expand_as(got), rtol=1e-4, atol=1e-4)


def test_video_swin_loads_at_any_clip_size_without_interpolation():
    state = shaken(small("video_swin_tiny")).state_dict()
    assert load_weights(small("video_swin_tiny", num_frames=7, crop_size=(50, 40)), state).missing == ()


# --- image weights


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
