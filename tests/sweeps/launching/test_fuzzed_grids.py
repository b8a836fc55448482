"""Whatever a grid, a flag or a profile says: it is expanded, or refused in words, at once and with nothing written."""

import json
import os
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dualformer.results.result import read_result
from sweeps.launching import launcher
from sweeps.launching.grid import load_grid
from sweeps.run import execute
from sweeps.run_config import describe_fields
from tests.helpers import hostile
from tests.helpers.bounded import call, fuzzed
from tests.helpers.small_run import MODEL, prepare_run, write_bright_and_dark

FIELDS = [field.path for field in describe_fields()]
SMALL = {"model": {"name": "dualformer_tiny", "num_frames": 4, "crop_size": 16}}

numbers = st.sampled_from([-1, 0, 1, 2, 3, 7, 8, 64, 10**6, 10**9, 10**19, 10**30, 0.5, -0.5, 1e-300, 1e300, 1.5])
words = st.sampled_from(
    ["", " ", "on", "no", "LG", "FF", "cuda", "cpu", "embedded", ".", "/", "/dev/zero", "~", "1e999", ".inf", ".nan"]
    + ["vivit_base", "os:system", "tests.helpers.nowhere:f", "x" * 5000, "é", "\u202e", "2:00:00", *hostile.NAMES]
)
scalars = st.one_of(numbers, words, st.booleans(), st.none())
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)
fields = st.sampled_from(
    [*FIELDS, "sed", "model", "train.token_labels", "a.b.c.d", "model.overrides.depths", ".", "a..b"]
)
some_fields = st.dictionaries(fields, values, max_size=3)
some_axes = st.lists(values, max_size=4) | st.dictionaries(words, some_fields, max_size=3)
grids = st.fixed_dictionaries(
    {},
    optional={
        "description": scalars,
        "base": some_fields | values,
        "axes": st.dictionaries(fields | words, some_axes, max_size=3),
        "rows": st.lists(some_fields, max_size=3) | values,
        "row": values,
    },
)  # fmt: skip
texts = st.one_of(
    grids.map(json.dumps),
    grids.map(yaml.safe_dump),
    st.text(max_size=200),
    st.text("{}[]:,&*!|>-?'\"# \n\tab1", max_size=60),
    st.sampled_from(
        ["&a [*a]", "!!python/object/apply:os.system [id]", "a: &b [x]\n" + "<<: *b", "{" * 1000, "- " * 1000]
    ),
)


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory):
    """Imports what the first launch imports, which no bound is about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fuzzed"))
        Path("grid.yaml").write_text(json.dumps({"base": {**SMALL, "train.steps": 1}}))
        call(dry_run)
        yield


def dry_run(arguments) -> int:
    return launcher.main(["--grid", "grid.yaml", "--executor", "local", "--dry-run", *arguments])


def refused_or_shown(*flags: str) -> None:
    before = sorted(os.listdir())
    status, said = call(dry_run, *flags)
    assert sorted(os.listdir()) == before and "runs" not in before
    if status == 0:
        assert "nothing was started" in said


@given(texts)
@fuzzed(300)
def test_any_text_as_a_grid(text: str):
    Path("grid.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused_or_shown()


@given(st.binary(max_size=60))
@fuzzed(60)
def test_any_bytes_as_a_grid(content: bytes):
    Path("grid.yaml").write_bytes(content)
    refused_or_shown()


@given(some_fields, some_fields)
@fuzzed(300)
def test_any_values_of_fields(base: dict, row: dict):
    Path("grid.yaml").write_text(json.dumps({"base": SMALL, "rows": [{**base, **row}, {"seed": 5}]}))
    refused_or_shown()


@given(
    st.lists(st.tuples(st.sampled_from(["--set", "--only", "--axis", "--limit"]), fields | words, values), max_size=3)
)
@fuzzed(200)
def test_any_flags(given_flags: list):
    Path("grid.yaml").write_text(json.dumps({"base": SMALL, "axes": {"seed": [0, 1]}}))
    refused_or_shown(*(f"{flag}={field}={json.dumps(value)}" for flag, field, value in given_flags))


@given(
    st.dictionaries(words | st.sampled_from(["partition", "time_min", "mem_gib", "sbatch", "setup", "nodes"]), values)
)
@fuzzed(150)
def test_any_profile(profile: dict):
    Path("grid.yaml").write_text(json.dumps({"base": SMALL}))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(json.dumps(profile))
        file.flush()
        refused_or_shown("--profile", file.name)


CHOICES = {
    "train.optimizer": ["sgd"], "train.groups": ["released", "tables"], "train.micro_steps": [3, 4], "train.ema": [1.0],
    "train.epochs": [1e-9, 1], "train.clip_grad_norm": [0.0], "train.label_smoothing": [1.0], "train.momentum": [0.0],
    "data.sampling": ["spread"], "data.resize": [8, 20, [16, 16]], "data.test_resize": [8, [8, 99]],
    "data.augment.short_side": [[8, 9], [16, 30]], "data.augment.crop_area": [[1e-9, 1e-9]], "data.holdout": [0.001],
    "data.augment.mixup": [1e-300, 100], "data.augment.randaugment_ops": [1], "data.frame_stride": [1, 2],
    "data.decoder": ["auto", "pyav", "torchcodec"], "data.short_video": ["loop"], "evaluate.num_crops": [2, 3],
    "evaluate.num_clips": [2], "evaluate.average": ["score"], "data.std": [[0.001, 1.0, 1e6]], "data.root": [" "],
    "device": ["cpu", "cuda"], "measure.attention_backend": ["cudnn"], "train.log_to": [["wandb"]],
}  # fmt: skip
choices = st.dictionaries(st.sampled_from(sorted(CHOICES)), st.integers(0, 2), min_size=1, max_size=3)


@given(choices)
@fuzzed(8)
def test_what_a_dry_run_accepts_a_job_can_compute(tmp_path_factory, chosen: dict):
    folder = tmp_path_factory.mktemp("accepted")
    root = write_bright_and_dark(folder / "data", clips=2)
    row = {name: CHOICES[name][number % len(CHOICES[name])] for name, number in chosen.items()}
    train = {"batch_size": 4, "warmup_steps": 1, "epochs": 0.5}
    base = {"model": MODEL, "data": {"root": str(root)}, "train": train, "measure": {"latency": False}}
    Path("grid.yaml").write_text(json.dumps({"base": base, "rows": [row]}))
    status, _ = call(dry_run)
    if status == 0:
        (planned,) = load_grid("grid.yaml").runs
        run_dir = prepare_run(folder / "runs", planned.config)
        execute(run_dir)
        result = read_result(run_dir)
        assert result.status == "ok", f"{row}: {result.reason}"
