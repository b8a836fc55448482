"""Checkpoint files as they lie around: whoever wrapped them, however they were saved, and what is no checkpoint."""

from __future__ import annotations

import argparse
import fractions
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dualformer import create_model
from dualformer.weights import WeightsError, load_weights

SIZE = {"num_frames": 4, "crop_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}


def vivit(value: float | None = None):
    model = create_model("vivit_base", **SIZE).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if value is None else torch.nn.init.constant_(parameter, value)
    return model


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def compiled_inside(state):
    return {name.replace("blocks.0.", "blocks.0._orig_mod."): value for name, value in state.items()}


WRAPPED = {
    "model_state_dict": lambda s: {"model_state_dict": s, "epoch": 3, "optimizer_state_dict": OPTIMIZER},
    "module": lambda s: {"module": s, "global_steps": 7},
    "average_alone": lambda s: {"model_ema": s, "epoch": 1},
    "twice": lambda s: {"checkpoint": {"state_dict": s}, "scaler": {"scale": torch.ones(1)}},
    "own_name": lambda s: {"net_g": s},
    "compiled": lambda s: {"model": prefixed("_orig_mod.", s)},
    "compiled_in_parallel": lambda s: prefixed("module._orig_mod.", s),
    "parallel_compiled": lambda s: {"state_dict": prefixed("_orig_mod.module.", s)},
    "twice_parallel": lambda s: prefixed("module.module.", s),
    "lightning": lambda s: {"state_dict": prefixed("model.", s), "hyper_parameters": {"rate": torch.ones(3)}},
    "lightning_compiled": lambda s: {"state_dict": prefixed("model._orig_mod.", s)},
    "averaged_by_torch": lambda s: {"n_averaged": torch.tensor(5), **prefixed("module.", s)},
    "part_of_a_program": lambda s: prefixed("video_encoder.", s),
    "compiled_blocks": compiled_inside,
    "options_beside": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1), "rng_state": torch.get_rng_state()},
}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".model"])
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_whoever_wrapped_them_the_weights_are_found(tmp_path, wrap, suffix):
    trained, fresh = vivit(), vivit()
    torch.save(wrap(trained.state_dict()), tmp_path / f"weights{suffix}")
    report = load_weights(fresh, tmp_path / f"weights{suffix}")
    assert (report.missing, report.unexpected) == ((), ())
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_a_prefix_that_belongs_to_a_layout_is_left_to_it(prefix):
    """Released TimeSformer weights have `model.` before their names, and are recognised by it."""
    size = {**SIZE, "attention": None}
    trained, fresh = (create_model("timesformer_divided", **size) for _ in range(2))
    released = prefixed("model.", trained.state_dict())
    assert load_weights(fresh, {"model_state": prefixed(prefix, released)}).layout.startswith("timesformer")


@pytest.mark.parametrize("save", [torch.save, safetensors.torch.save_file], ids=["torch", "safetensors"])
def test_weights_in_several_files_are_put_together_by_their_index(tmp_path, save):
    trained, fresh = vivit(), vivit()
    state, parts = trained.state_dict(), {}
    for number in range(3):
        part = {name: state[name] for name in list(state)[number::3]}
        save(part, tmp_path / f"part-{number}")
        parts |= dict.fromkeys(part, f"part-{number}")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": parts}))
    assert set(load_weights(fresh, index).matched) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"weight_map": {"a": "../secret.pth"}}, "names a file that doesn't lie beside it: '../secret.pth'"),
        ({"weight_map": {"a": "/etc/passwd"}}, "names a file that doesn't lie beside it"),
        ({"weight_map": {"a": "x.index.json"}}, "names a file that doesn't lie beside it"),
        ({"weight_map": {"a": "gone.pth"}}, "no weights file .*gone.pth"),
        ({"weight_map": {"a": "part.pth", "b": "part.pth"}}, "1 entries are in none of its files: b"),
        ({"weights": {}}, "is no index of weights"),
        ([], "is no index of weights"),
    ],
)
def test_an_index_that_leads_elsewhere_or_nowhere_is_refused(tmp_path, text, message):
    torch.save({"a": torch.ones(3)}, tmp_path / "part.pth")
    (tmp_path / "w.index.json").write_text(json.dumps(text))
    with pytest.raises((WeightsError, FileNotFoundError), match=message):
        load_weights(vivit(), tmp_path / "w.index.json")


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (("model_ema", "model"), "model"),
        (("state_dict_ema", "state_dict"), "state_dict"),
        (("ema_state_dict", "net"), "net"),
        (("teacher", "student"), "student"),
        (("swa", "best", "model_state_dict"), "model_state_dict"),
    ],
)
def test_every_set_of_weights_is_named_and_any_can_be_taken(names, first):
    source = {name: vivit(float(value)).state_dict() for value, name in enumerate(names, 1)}
    fresh = vivit()
    report = load_weights(fresh, source)
    assert (set(report.sets), report.taken) == (set(names), first)
    others = [name for name in report.sets if name != first]
    assert f"took '{first}', and left {', '.join(map(repr, others))} (weight_set takes another)" in str(report)
    for name in names:
        assert load_weights(fresh, source, weight_set=name).taken == name
        assert torch.equal(fresh.head.bias, source[name]["head.bias"])
    with pytest.raises(WeightsError, match=rf"no set of weights '{names[0][:-1]}'; did you mean .*'{names[0]}'"):
        load_weights(fresh, source, weight_set=names[0][:-1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_never_loaded(value):
    state, model = vivit().state_dict(), vivit()
    state["head.weight"][2, 3] = value
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 entries hold NaN or infinity: head\.weight$"):
        load_weights(model, state)
    with pytest.raises(WeightsError, match="NaN or infinity"):
        load_weights(model, state, strict=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    load_weights(model, state, replace_head=True)  # which leaves it out


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/weights.bin", b"x")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("weights"), io.BytesIO())


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
NOT_WEIGHTS = {
    "html": (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html><title>Sign in"), "it is a page of the web"),
    "lower_html": (lambda path: path.write_bytes(b"<html>"), "it is a page of the web"),
    "xml": (lambda path: path.write_bytes(b'<?xml version="1.0"?><Error>AccessDenied'), "it is a page of the web"),
    "lfs": (lambda path: path.write_bytes(LFS), "it is a Git LFS pointer"),
    "json": (lambda path: path.write_bytes(b'{"error": "not found"}'), "it is a JSON text"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08\x00"), "it is a gzip archive"),
    "tar": (tarred, "it is a tar archive"),
    "zip": (zipped, "it is a zip archive that torch didn't write: model/weights.bin"),
    "numpy": (lambda path: np.savez(path.open("wb"), a=np.ones(3)), r"it is NumPy arrays \(.npz\)"),
    "script": (scripted, "it is a TorchScript program"),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "it is an HDF5 file"),
    "video": (lambda path: path.write_bytes(b"\0\0\0\x18ftypisom"), "it is a video"),
    "empty": (Path.touch, r"it is empty \(0 bytes\)"),
    "text": (
        lambda path: path.write_bytes(b"404: Not Found"),
        "unknown kind of file.*it begins with b'404: Not Found'",
    ),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt"])
@pytest.mark.parametrize(("write", "message"), NOT_WEIGHTS.values(), ids=NOT_WEIGHTS)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path, write, message, suffix):
    path = tmp_path / f"weights{suffix}"
    write(path)
    if (suffix, message[:7]) == (".safetensors", "unknown"):
        message = "is no safetensors file"
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(vivit(), path)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)


class Sprung:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("value", "refused"), [(Sprung(), "posix.system"), (fractions.Fraction(1, 3), "fractions.Fraction")]
)
@pytest.mark.parametrize("new_format", [True, False])
def test_what_is_refused_is_named_and_nobody_is_told_to_open_it_all_the_same(tmp_path, value, refused, new_format):
    path = tmp_path / "weights.pth"
    torch.save({"model": {"a": torch.ones(3)}, "best": value}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match=rf"holds more than tensors and plain data \({refused}\)") as caught:
        load_weights(vivit(), path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("whoever made it can save its state_dict alone")
    assert not any(word in message for word in ("weights_only", "safe_globals", "trust"))


def test_a_folder_and_a_misspelt_name_lead_to_the_file(tmp_path):
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"is a folder; name the file, such as weights\.pth"):
        load_weights(vivit(), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no weights file .*; did you mean 'weights\.pth'"):
        load_weights(vivit(), tmp_path / "wieghts.pth")
