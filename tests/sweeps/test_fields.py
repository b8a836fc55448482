"""The list of what can be configured, and the schema of grid files that editors read."""

import json
from pathlib import Path

import jsonschema
import pytest

from dualformer import attention, strict_yaml
from dualformer.cli import main
from dualformer.config_fields import fields_of
from dualformer.registry import list_models, model_config
from sweeps.fields import choices, model_fields
from sweeps.grid_schema import grid_schema
from sweeps.launching.grid import load_grid
from sweeps.run_config import RunConfig, describe_fields

GRIDS = sorted((Path(__file__).parents[2] / "sweeps/grids").glob("*.yaml"))


def listed(capsys, *words):
    assert main(["fields", *words]) == 0
    lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()[1:]
    return [line.lstrip("* ").split()[0] for line in lines]


def test_every_field_is_listed_and_explained(capsys):
    assert main(["fields"]) == 0
    out = capsys.readouterr().out
    known = describe_fields()
    lines = dict(zip((field.path for field in known), out.splitlines()[1:]))
    for field in known:
        assert field.text and lines[field.path].endswith(field.text)
        assert lines[field.path].startswith("*") == field.irrelevant
        assert f"  {field.type}  " in lines[field.path]
    assert "* can't change what a run comes to" in out


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("seed", ["seed"]),
        (
            "train.token_labels",
            [
                f"train.token_labels.{name}"
                for name in ("teacher", "weights", "weight_set", "overrides", "weight", "top_k")
            ],
        ),
        ("*.precision", ["train.precision", "measure.precision"]),
        ("data.augment.m*", ["data.augment.mixup"]),
        ("model.overrides", ["model.overrides", *[field.path for field in model_fields("dualformer_tiny")]]),
        ("model.overrides.share*", ["model.overrides.share_kv"]),
    ],
)
def test_patterns(pattern, paths, capsys):
    found = listed(capsys, pattern)
    assert [path for path in found if ".attention_options." not in path] == paths


@pytest.mark.parametrize("name", list_models())
def test_fields_of_a_model_have_its_published_values(name):
    published = model_config(name).to_dict()
    found = {field.path.removeprefix("model.overrides."): field.default for field in model_fields(name)}
    assert set(found) == set(published) - {"name", "num_classes", "num_frames", "crop_size", "attention"}
    assert all(published[field] == default for field, default in found.items())


def test_options_of_every_attention_are_listed(capsys):
    found = listed(capsys, "attention")
    expected = [
        f"model.overrides.attention_options.{letter}.{field.path}"
        for letter in attention.letters()
        for field in fields_of(attention.find(letter).Options)
    ]
    assert found == expected and len(found) > 3


def test_what_matches_nothing_is_told_with_the_nearest(capsys):
    assert main(["fields", "train.batchsize"]) == 2
    assert "no field matches 'train.batchsize'; did you mean 'train.batch_size'" in capsys.readouterr().err
    assert main(["fields", "model.overrides.dept", "--model", "vivit_base"]) == 2
    assert "did you mean 'model.overrides.depth" in capsys.readouterr().err
    assert main(["fields", "model.overrides.*", "--model", "vivit"]) == 2
    assert "unknown model 'vivit'; did you mean 'vivit_base'" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [60, 250])
def test_a_terminal_gets_lines_that_fit(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["fields", "measure"]) == 0
    lines = capsys.readouterr().out.splitlines()
    texts = [line for line in lines if "field" not in line and not line.lstrip("* ").startswith("measure.")]
    assert texts and max(map(len, texts)) <= columns


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("Literal['a', 'b']", ("a", "b")),
        ("Literal['a'] | None", ("a",)),
        ("bool", ("true", "false")),
        ("tuple[Literal['a'], ...]", ()),
        ("int", ()),
    ],
)
def test_choices(type_, expected):
    field = describe_fields()[0]
    assert choices(type(field)(**{**vars(field), "type": type_})) == expected


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(json.dumps(grid_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_schema_knows_every_field(validator):
    known = set(validator.schema["$defs"]["fields"]["properties"])
    assert {field.path for field in describe_fields()} <= known
    assert {path for path in known if "." not in path} == set(RunConfig.from_dict({}).to_dict())


@pytest.mark.parametrize("grid", GRIDS, ids=lambda path: path.stem)
def test_schema_takes_the_projects_own_grids(grid, validator):
    assert not list(validator.iter_errors(read(grid)))


GOOD = (
    {"base": {"train": {"token_labels.teacher": "video_swin_tiny", "steps": 3}}},
    {"base": {"train": {"token_labels": {"top_k": 3}}, "seed": 1}},
    {"base": {"train.token_labels.weight": 1, "model": {"overrides.window_size": [2, 7, 7]}}},
    {"base": {"model.overrides.of_my_own": "anything", "model.name": "my.models:net"}},
    {"axes": {"seed": [0, 1], "clip": {"short": {"model.num_frames": 8}, "long": {"model": {"num_frames": 16}}}}},
    {"axes": {"model": [{"name": "vivit_base"}, {"name": "dualformer_tiny"}]}},
    {"axes": {"model.overrides.share_kv": [True, False], "model.overrides.mine.a": [1, "b"]}},
    {"rows": [{"model.attention": "LL,LG,LG,F"}, {"model.attention": None}, {"model.crop_size": [112, 160]}]},
    {"rows": [{"model.crop_size": 112}, {"train.milestones": [0.5, 0.75]}, {"train.epochs": 30}]},
    {"description": "nothing else"},
)
BAD = (
    {"bases": {}},
    {"base": {"train.stepz": 3}},
    {"base": {"train": {"stepz": 3}}},
    {"base": {"train": {"token_labels.teachers": "x"}}},
    {"base": {"train.steps": "many"}},
    {"base": {"train.steps": 1.5}},
    {"base": {"train.optimizer": "adam"}},
    {"base": {"model.name": "dualformer_tinny"}},
    {"base": {"model.attention": "LX"}},
    {"base": {"model.attention": ""}},
    {"base": {"model.crop_size": [1, 2, 3]}},
    {"base": {"model.overrides.share_kv": "yes"}},
    {"base": {"data.augment": 3}},
    {"axes": {"seed": []}},
    {"axes": {"seed": ["a"]}},
    {"axes": {"seed": 3}},
    {"axes": {"my_clip": [1, 2]}},
    {"axes": {"clip": {"short": {"model.frames": 8}}}},
    {"rows": {"seed": 1}},
    {"rows": [{"sed": 1}]},
    {"rows": ["seed"]},
    {"description": 3},
    [],
)


@pytest.mark.parametrize("grid", GOOD, ids=json.dumps)
def test_schema_takes_what_a_grid_may_say(grid, validator):
    assert not list(validator.iter_errors(grid))


@pytest.mark.parametrize("grid", BAD, ids=json.dumps)
def test_schema_refuses_what_reading_a_grid_refuses(grid, validator, tmp_path):
    assert list(validator.iter_errors(grid))
    (tmp_path / "bad.yaml").write_text(json.dumps(grid))
    with pytest.raises(ValueError):
        load_grid(tmp_path / "bad.yaml")


def test_schema_is_written_whole_or_printed(tmp_path, capsys):
    assert main(["fields", "--json-schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main(["fields", "--json-schema", str(tmp_path / "grid.schema.json")]) == 0
    assert "yaml-language-server: $schema=" in capsys.readouterr().out
    assert json.loads((tmp_path / "grid.schema.json").read_text()) == printed == json.loads(json.dumps(grid_schema()))
    assert main(["fields", "--json-schema", str(tmp_path / "no/folder.json")]) == 2
    assert "no/folder.json" in capsys.readouterr().err


def read(grid):
    return strict_yaml.read(grid)
