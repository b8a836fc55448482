import math
import textwrap
from pathlib import Path

import pytest

from dualformer.config import ConfigError, flatten
from dualformer.model import DualFormerConfig
from dualformer.model_config import ModelConfig
from sweeps.launching.grid import FOLDER, load_grid
from sweeps.launching.grid_check import MOST_BUILT, check_build
from tests.helpers.small_models import distinct_models, small_config

SMALL = "base: {model: {name: dualformer_tiny, num_frames: 4, crop_size: 32}}\n"


@pytest.fixture
def load(tmp_path: Path):
    def load(text: str, **arguments):
        path = tmp_path / "some.yaml"
        path.write_text(SMALL + textwrap.dedent(text))
        return load_grid(path, **arguments)

    return load


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_projects_grids_are_right(path: Path, tmp_path: Path):
    data = [f"data.root={tmp_path}"] if "data.root" in path.read_text() else []
    grid = load_grid(path.name, overrides=data)
    assert grid.runs and grid.name == path.stem and grid.description


def test_a_demo_that_is_killed_goes_on_within_a_run():
    trains = [run.config.train for run in load_grid("ablations.yaml").runs]
    assert all(0 < train.save_every <= train.steps / 8 for train in trains)


def test_axes_multiply_and_rows_add(load):
    grid = load(
        """
        axes:
          seed: [0, 1]
          clip:
            short: {model.num_frames: 4}
            long: {model: {num_frames: 8}, data.frame_stride: 2}
        rows:
          - {seed: 7}
        """
    )
    found = [
        (planned.config.seed, planned.config.model.num_frames, planned.config.data.frame_stride)
        for planned in grid.runs
    ]
    assert found == [(0, 4, 1), (0, 8, 2), (1, 4, 1), (1, 8, 2), (7, 4, 1)]
    assert grid.runs[1].name == "seed=0, clip=long" and grid.runs[4].name == "row 1"
    assert grid.runs[1].differs == {"seed": 0, "model.num_frames": 8, "data.frame_stride": 2}
    assert len({planned.run_id for planned in grid.runs}) == 5


def test_a_grid_of_base_alone_is_one_run_and_rows_alone_are_the_rows(load):
    assert len(load("").runs) == 1
    assert [planned.config.seed for planned in load("rows: [{seed: 3}, {seed: 4}]").runs] == [3, 4]


def test_yaml_words_and_numbers_mean_what_they_look_like(load):
    planned = load("rows: [{train.learning_rate: 1e-3, model.attention: LG}]").runs[0]
    assert planned.config.train.learning_rate == 1e-3
    with pytest.raises(ConfigError, match="'on'"):
        load("rows: [{measure.latency: on}]")


def test_set_holds_for_every_run_and_only_selects(load):
    grid = load("axes: {seed: [0, 1, 2]}", overrides=["train.steps=5", "train.learning_rate=2e-3"], only=["seed=1"])
    (planned,) = grid.runs
    assert (planned.config.seed, planned.config.train.steps, planned.config.train.learning_rate) == (1, 5, 2e-3)
    several = load("axes: {seed: [0, 1, 2]}", only=["seed=0", "seed=2"])
    assert [planned.config.seed for planned in several.runs] == [0, 2]


LABELS = """
    axes:
      seed: [0, 1]
      clip: {short: {model.num_frames: 4}, long: {model.num_frames: 8}, other: {model.name: vivit_base}}
    rows: [{seed: 7}]
"""


def test_only_picks_by_the_labels_of_an_axis(load):
    grid = load(LABELS, only=["clip=long", "clip=short", "seed=1"])
    assert [(planned.config.seed, planned.config.model.num_frames) for planned in grid.runs] == [(1, 4), (1, 8)]


def test_what_is_set_must_suit_the_picked_labels_alone(load):
    depths = "model.overrides.depths=[1, 1, 1, 1]"
    (planned,) = load(LABELS, overrides=[depths], only=["clip=long", "seed=0"]).runs
    assert planned.config.model.overrides == {"depths": [1, 1, 1, 1]}
    with pytest.raises(ConfigError, match="unknown field 'depths'"):
        load(LABELS, overrides=[depths])


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("clip=lon", "--only clip=lon: no such label; did you mean 'long'"),
        ("clips=long", "unknown field 'clips'; did you mean 'clip'"),
        ("clip", "--only clip=: no such label; valid: long, other, short"),
    ],
)
def test_a_wrong_label_is_refused_with_the_nearest(load, only: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load(LABELS, only=[only])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes: {sed: [0, 1]}", "unknown field 'sed'; did you mean 'seed'.*2 of 2 runs.*sed=0"),
        ("axis: {seed: [0, 1]}", "unknown part 'axis'; did you mean 'axes'"),
        ("axes: {seed: 3}", "axis 'seed' must be a list"),
        ("axes: {seed: []}", "axis 'seed' must be a list"),
        ("rows: [{seed: one}]", r"seed: .*integer.*'one'.*row 1"),
        ("rows: [{model.name: dualformer_tin}]", "unknown model 'dualformer_tin'; did you mean 'dualformer_tiny'"),
        ("rows: [{model.attention: LX}]", "attention"),
        ("rows: [{model.overrides: {depth: [1]}}]", "unknown field 'depth'; did you mean 'depths'"),
        ("rows: [{model.num_frames: 0}]", "num_frames must be positive"),
        ("rows: [{data.root: nowhere}]", "no folder 'nowhere'"),
        ("axes: {seed: [0, 0]}", "'seed=0' and 'seed=0' are the same run"),
        ("axes: {seed: [0, 1]}\nrows: [{seed: 1}]", "'seed=1' and 'row 1' are the same run"),
        ("rows: [3]", "row 1 must be a mapping"),
        ("rows: [{seed: 1, seed: 2}]", "'seed' is given twice"),
        ("rows: [", "not valid YAML"),
    ],
)
def test_a_wrong_grid_is_refused_with_the_reason(load, text: str, message: str):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load(text)


@pytest.mark.parametrize(
    "fields", ["model.weights: {}", "train.token_labels: {{teacher: dualformer_base, weights: {}}}"]
)
def test_weights_that_are_not_there_are_refused_with_the_nearest(load, tmp_path: Path, fields: str):
    (tmp_path / "tiny.pth").touch()
    (tmp_path / "notes.txt").touch()
    assert load(f"rows: [{{{fields.format(tmp_path / 'tiny.pth')}}}]")
    field = "train.token_labels.weights" if "teacher" in fields else "model.weights"
    for name, hint in (("tinny.pth", "did you mean 'tiny.pth'"), ("aaaaaaaa.bin", r"valid: tiny.pth \[")):
        with pytest.raises(ConfigError, match=f"(?s){field}: no file '.*{name}'; {hint}"):
            load(f"rows: [{{{fields.format(tmp_path / name)}}}]")
    with pytest.raises(ConfigError, match="nor its folder"):
        load(f"rows: [{{{fields.format(tmp_path / 'gone' / 'tiny.pth')}}}]")


def test_a_misspelt_teacher_is_refused_with_the_nearest(load):
    with pytest.raises(ConfigError, match=r"unknown model 'dualformer_bse'; did you mean 'dualformer_base'"):
        load("rows: [{train.token_labels: {teacher: dualformer_bse}}]")


def test_all_that_is_wrong_is_told_at_once(load):
    with pytest.raises(ConfigError, match=r"(?s)'sed'.*row 1.*'one'.*row 3"):
        load("rows: [{sed: 1}, {seed: 1}, {seed: one}]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overrides": ["seed"]}, "--set seed: expected FIELD=VALUE"),
        ({"overrides": ["sed=1"]}, "unknown field 'sed'"),
        ({"overrides": ["seed=1"]}, "the same run.*--only"),
        ({"only": ["sed=1"]}, "unknown field 'sed'; did you mean 'seed'"),
        ({"only": ["seed=9"]}, "none of the 2 runs"),
    ],
)
def test_wrong_flags_are_refused(load, arguments: dict, message: str):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load("axes: {seed: [0, 1]}", **arguments)


def test_an_unknown_grid_names_the_nearest(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"did you mean 'ablations\.yaml'"):
        load_grid("ablation.yml")


def test_a_thousand_runs_are_found_apart(load):
    seeds = ", ".join(map(str, range(500)))
    assert len(load(f"axes: {{seed: [{seeds}], train.steps: [1, 2]}}").runs) == 1000


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[ModelConfig]:
    """The networks that checking a grid builds."""
    check_build.cache_clear()
    configs = []
    build = DualFormerConfig.build
    monkeypatch.setattr(DualFormerConfig, "build", lambda config: configs.append(config) or build(config))
    return configs


def test_of_a_thousand_networks_few_are_built_and_every_value_where_that_is_enough(load, built):
    axes = "axes: {model.num_frames: [4, 6, 8], model.attention: [LG, LL], model.overrides.mlp_ratio: [1.0, 2.0]}"
    load(axes)
    assert len(built) == 5
    assert {(config.num_frames, config.attention, config.mlp_ratio) for config in built} >= {
        (4, "LG", 1.0), (4, "LG", 2.0), (4, "LL", 1.0), (6, "LG", 1.0), (8, "LG", 1.0)
    }  # fmt: skip
    built.clear()
    check_build.cache_clear()
    ratios = ", ".join(f"{1 + number / 100}" for number in range(500))
    assert len(load(f"axes: {{model.attention: [LG, LL], model.overrides.mlp_ratio: [{ratios}]}}").runs) == 1000
    assert len(built) == MOST_BUILT
    assert min(config.mlp_ratio for config in built) == 1.0 and max(config.mlp_ratio for config in built) > 5.5


def test_a_network_that_only_building_finds_wrong_starts_nothing(load, monkeypatch: pytest.MonkeyPatch):
    def build(config: DualFormerConfig) -> None:
        if config.mlp_ratio == 3.0:
            raise RuntimeError("no kernel for this")

    check_build.cache_clear()
    monkeypatch.setattr(DualFormerConfig, "build", build)
    with pytest.raises(ConfigError, match=r"dualformer_tiny: no kernel for this \[model\.overrides\.mlp_ratio=3\.0\]"):
        load("axes: {model.overrides.mlp_ratio: [2.0, 3.0, 4.0]}")


@pytest.mark.parametrize("name", distinct_models())
def test_what_a_config_accepts_can_be_built(name: str):
    """What makes it enough to build a few networks of a grid: a config's own check refuses all others."""
    published = small_config(name).to_dict()
    accepted = refused = 0
    for field, value in published.items():
        for odd in _odd_values(value):
            try:
                config = small_config(name, **{field: odd})
            except ConfigError:
                refused += 1
                continue
            check_build(config)
            accepted += 1
    assert accepted > 20 and refused > 20


def _odd_values(value: object) -> list[object]:
    """Values of the same type that are at the border of making sense, or beyond."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [-1, 0, 1, 2, 3, 7, 48]
    if isinstance(value, float):
        return [-1.0, 0.0, 1e-9, 0.3, 0.999, 1.0, 1.5, 1e9, math.inf, math.nan]
    if isinstance(value, list):
        ends = [[], [*value, value[-1]], value[:-1]]
        return ends + [[*value[:-1], odd] for odd in _odd_values(value[-1])]
    return []


def values(grid, *fields: str) -> list[tuple]:
    return [tuple(flatten(run.config.to_dict())[field] for field in fields) for run in grid.runs]


def test_an_axis_is_added_or_put_in_place_of_the_grids_own(load):
    text = "axes: {seed: [0, 1], train.steps: [5, 6]}"
    replaced = load(text, axes=["seed=7,8"])
    assert values(replaced, "seed", "train.steps") == [(7, 5), (7, 6), (8, 5), (8, 6)]
    added = load("axes: {seed: [0, 1]}", axes=["train.steps=5,6"])
    assert values(added, "seed", "train.steps") == [(0, 5), (0, 6), (1, 5), (1, 6)]
    assert values(load("", axes=["seed=0,1", "train.steps=5"]), "seed", "train.steps") == [(0, 5), (1, 5)]


def test_an_axis_is_added_to_rows_that_do_not_say_otherwise(load):
    grid = load("rows: [{train.steps: 5}, {train.steps: 6, seed: 9}]", axes=["seed=0,1"])
    assert values(grid, "train.steps", "seed") == [(5, 0), (5, 1), (6, 9)]
    assert [run.name for run in grid.runs] == ["row 1, seed=0", "row 1, seed=1", "row 2"]


def test_values_of_an_axis_are_yaml(load):
    (patterns,) = zip(*values(load("", axes=['model.attention="LL,LG,LG,F",LG']), "model.attention"), strict=True)
    assert patterns == ("LL,LG,LG,F", "LG")
    assert values(load("", axes=["model.crop_size=[16,16],32"]), "model.crop_size") == [([16, 16],), (32,)]


def test_a_limit_keeps_the_first_runs_of_those_selected(load):
    text = "axes: {seed: [0, 1, 2, 3]}"
    assert values(load(text, limit=2), "seed") == [(0,), (1,)]
    assert values(load(text, only=["seed=2", "seed=3"], limit=1), "seed") == [(2,)]
    assert len(load(text, limit=99).runs) == 4


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", {"axes": ["seed"]}, "--axis seed: expected FIELD=V1,V2"),
        ("", {"axes": ["seed="]}, "no values"),
        ("", {"axes": ["sed=1,2"]}, "unknown field 'sed'; did you mean 'seed'"),
        ("", {"axes": ["seed=1,1"]}, "the same run"),
        ("", {"axes": ["seed=1", "seed=2"]}, "given twice"),
        ("", {"axes": ["seed=1"], "overrides": ["seed=2"]}, "--axis seed and --set seed: one of them must go"),
        ("axes: {clip: {a: {seed: 1}, b: {seed: 2}}}", {"axes": ["clip=a"]}, "--only clip=LABEL"),
        ("", {"axes": [f"seed={','.join(map(str, range(200)))}", f"train.steps={','.join(map(str, range(200)))}"]},
         "more than 10000 runs"),
    ],
)  # fmt: skip
def test_a_wrong_axis_is_refused(load, text: str, arguments: dict, message: str):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load(text, **arguments)


_NAMES = ("steps", "batch_size", "log_every", "save_every", "keep_checkpoints", "num_workers", "evaluate_every")
ENDLESS = "axes: {" + ", ".join(f"train.{name}: [{', '.join(map(str, range(1, 101)))}]" for name in _NAMES) + "}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENDLESS, "100000000000000 runs, and a grid may have 10000"),
        ("rows: [{model.overrides.depths: [1000000000]}]", "numbers of a network are at most 1000000"),
        ("rows: [{model.overrides.depths: [5000]}]", "5000 blocks; at most 1000"),
        ("rows: [{model.num_frames: 1000000000}]", "numbers of a network are at most"),
        (f"rows: [{{train.milestones: [{', '.join(['0.5'] * 20000)}]}}]", "20000 values; at most 10000"),
        ("rows: [{evaluate.num_crops: 2}]", "num_crops must be 1 or 3, got 2"),
        ("rows: [{seed: 4294967296}]", "seed must be from 0 to 4294967295"),
        ("rows: [{train: {micro_steps: 33}}]", r"micro_steps \(33\) can't cut a batch of 32 clips"),
        ("rows: [{threads: 1000000000}]", "threads must be from 1 to 4096"),
        ("rows: [{train.num_workers: 100000}]", "num_workers must be from 0 to 1024"),
        ("rows: [{evaluate.num_workers: 100000}]", "num_workers must be from 0 to 1024"),
        ("rows: [{train.learning_rate: 1e300}]", r"learning_rate must be from 0 to 1000000000, got 1e\+300"),
        ("rows: [{train.epochs: 1e300}]", "epochs must be from 0"),
        ("rows: [{evaluate.num_clips: 1000000}]", "num_clips must be from 1 to 1000"),
        ("rows: [{measure.samples: 1000000000}]", "samples must be from 1 to"),
        ("rows: [{data.resize: 1000000000}]", "resize must be from 1 to 16384 px"),
        ("rows: [{data.resize: 0}]", "resize must be from 1 to 16384 px"),
        ("rows: [{data.test_resize: [16, 0]}]", "resize must be from 1 to 16384 px"),
        ("rows: [{data.embedded.num_train: 8000000000}]", "num_train must be a multiple of 8 up to 1000000"),
        ("rows: [{data.embedded: {num_frames: 4096, height: 4096, width: 4096}}]", "pixels; at most"),
        ("rows: [{data.std: [1e-300, 1, 1]}]", "std must be from 0.001"),
        ("rows: [{data.frame_stride: 1000000000000}]", "frame_stride must be from 1"),
        ("rows: [{resources.time_min: 0}]", "time_min must be at least 1, got 0"),
        ("rows: [{resources.nodes: 0}]", "nodes must be at least 1"),
        ("rows: [{resources.gpus_per_node: -1}]", "gpus_per_node must be at least 0"),
        ("rows: [{resources.mem_gib: 0}]", "mem_gib must be positive"),
        ("rows: [{resources.time_min: soon}]", "'soon' is no time"),
        ("rows: [{data.root: /dev/zero}]", "data.root: no folder '/dev/zero'"),
        ("rows: [{data.root: ''}]", "data.root: no folder ''"),
        (f"rows: [{{data.root: {'x' * 5000}}}]", r"data.root: no folder 'x{200}\.\.\.'"),
        (f"rows: [{{model.weights: {'x' * 5000}}}]", "model.weights: no file"),
        (f"rows: [{{{'a.' * 500}b: 1}}]", "unknown field 'a.a."),
        ("rows: [{3: 4}]", "the key '3' is not text"),
        ("rows: [!!set {a}]", "the tag"),
    ],
    ids=lambda text: text[:60],
)
def test_what_a_run_would_meet_is_refused_before(load, text: str, message: str):
    with pytest.raises(ConfigError, match=f"(?s){message}") as caught:
        load(text)
    assert len(str(caught.value)) < 2000


def test_resources_take_times_as_slurm_writes_them(load):
    assert values(load("rows: [{resources.time_min: 2:00:00}]"), "resources.time_min") == [(120,)]


def test_an_empty_mapping_of_base_is_not_shared_between_runs(tmp_path: Path):
    rows = "rows: [{model.overrides.depths: [1, 1, 1, 1]}, {model.overrides.mlp_ratio: 2.0}]"
    (tmp_path / "empty.yaml").write_text("base: {model: {num_frames: 4, crop_size: 32, overrides: {}}}\n" + rows)
    grid = load_grid(tmp_path / "empty.yaml")
    assert [sorted(run.config.model.overrides) for run in grid.runs] == [["depths"], ["mlp_ratio"]]
