"""Loading weights: every layout, every refusal, and what inflation of image weights promises."""

import pickle

import pytest
import safetensors.torch
import torch

from dualformer import create_model
from dualformer.weights import WeightsError, load_weights
from tests.helpers.golden_values import LIBRARIES, golden, library_model, ruled_state
from tests.helpers.small_weights import SMALL, same_logits, shaken, small


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
