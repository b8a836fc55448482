import dataclasses
import importlib
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from analysis.compare import CompareError, Side, compare
from dualformer import registry
from dualformer.attention.local_window import LocalWindowAttention
from dualformer.config import IRRELEVANT, Config, ConfigError, flatten, irrelevant, nest
from dualformer.config_fields import fields_of
from sweeps import run_config
from sweeps.run_config import RunConfig
from tests.helpers.planted import FREE, copied


def test_id_is_short_and_depends_on_content_only():
    written_out = RunConfig.from_dict(RunConfig().to_dict())
    assert written_out == RunConfig() and written_out.run_id == RunConfig().run_id
    assert len(RunConfig().run_id) == 12 and int(RunConfig().run_id, 16) >= 0


OTHER = {
    "model.name": "dualformer_small",
    "model.num_frames": 16,
    "model.crop_size": 112,
    "model.attention": "LL",
    "model.weights": "weights.pth",
    "model.weight_set": "model_ema",
    "model.overrides": {"dropout": 0.1},
    "device": "cpu",
    "data.root": "videos",
    "data.sampling": "spread",
    "data.resize": 64,
    "data.test_resize": 64,
    "data.augment.short_side": [32, 40],
    "data.augment.crop_area": [0.5, 1.0],
    "data.mean": [1.0, 2.0, 3.0],
    "data.std": [1.0, 2.0, 3.0],
    "data.short_video": "loop",
    "data.fold": 1,
    "data.decoder": "pyav",
    "data.embedded.num_train": 64,
    "data.embedded.num_test": 64,
    "data.embedded.num_frames": 16,
    "data.embedded.height": 32,
    "data.embedded.width": 64,
    "data.embedded.event_width": 8,
    "train.epochs": 2.0,
    "train.stop_after": 3,
    "train.optimizer": "sgd",
    "train.groups": "released",
    "train.schedule": "step",
    "train.milestones": [0.5],
    "train.warmup_epochs": 1.0,
    "train.precision": "bfloat16",
    "train.clip_grad_norm": 1.0,
    "train.ema": 0.9,
    "train.token_labels.teacher": "vivit_base",
    "train.token_labels.weights": "teacher.pth",
    "train.token_labels.weight_set": "model_ema",
    "train.token_labels.overrides": {"dropout": 0.1},
    "train.log_to": ["tensorboard"],
    "evaluate.average": "score",
    "evaluate.num_crops": 3,
    "measure.precision": "bfloat16",
    "measure.compile": "blocks",
    "measure.attention_backend": "math",
    "resources.nodes": 2,
    "resources.gpus_per_node": 2,
    "resources.mem_gib": 2.0,
    "resources.time_min": 2,
}
"""Another value of each field that isn't simply a number or a switch."""

TOGETHER = {
    "model.weight_set": {"model.weights": "weights.pth"},
    "train.milestones": {"train.schedule": "step", "train.milestones": [0.25]},
    "train.schedule": {"train.schedule": "step", "train.milestones": [0.5]},
    "train.token_labels.weights": {"train.token_labels.teacher": "vivit_base"},
    "train.token_labels.weight_set": {
        "train.token_labels.teacher": "vivit_base",
        "train.token_labels.weights": "teacher.pth",
    },
    "train.token_labels.overrides": {"train.token_labels.teacher": "vivit_base"},
}
"""What a field takes beside it, lest its value contradict another; where that has the field too, it starts there."""


def _changed(path: str, value: Any) -> Any:
    if path in OTHER:
        return OTHER[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 + 0.01  # stays a share where it was one
    return value + 1


def _pair(path: str) -> tuple[RunConfig, RunConfig]:
    """Two configs that differ in a field."""
    base = RunConfig().changed(**nest({"train.steps": 1}))
    beside = TOGETHER.get(path, {})
    if path == "train.schedule":
        return base, base.changed(**nest(beside))
    start = base.changed(**nest({"train.steps": 0} if path == "train.epochs" else beside))
    return start, start.changed(**nest({path: _changed(path, flatten(start.to_dict())[path])}))


def _row(config: RunConfig, run_id: str) -> dict[str, Any]:
    chosen = {name: value for name, value in flatten(config.to_dict()).items() if value not in (None, {})}
    return {**chosen, "run_id": run_id, "status": "ok", "schema_version": 1, "latency_ms_p50": 1.0}


def _told_apart(rows: list[dict[str, Any]], across: list[str]) -> bool:
    """Whether `compare` sees no pair in a row of A and one of B."""
    try:
        compare(*(Side(name, [row], {}) for name, row in zip("AB", rows)), across=across)
    except CompareError:
        return True
    return False


def test_a_set_of_weights_is_in_the_identity_only_where_one_is_named():
    """So that a run keeps the id that it had before there were sets."""
    labels = {"teacher": "vivit_base", "weights": "teacher.pth"}
    config = RunConfig.from_dict({"model": {"weights": "weights.pth"}, "train": {"token_labels": labels}})
    for one in (RunConfig(), config):
        assert not [path for path in flatten(one._resolved()) if path.endswith("weight_set")]


@pytest.mark.parametrize(
    "changes",
    [{"model": {"weight_set": "ema"}}, {"train": {"token_labels": {"teacher": "vivit_base", "weight_set": "ema"}}}],
)
def test_a_set_of_weights_needs_a_file_of_weights(changes: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"no weights to take .*'ema' from"):
        RunConfig().changed(**changes)


@pytest.mark.parametrize("path", [field.path for field in run_config.describe_fields()])
def test_a_field_is_in_the_identity_exactly_where_compare_tells_runs_apart_by_it(path: str):
    one, other = _pair(path)
    assert one != other
    across = {"threads": ["threads"], "measure.precision": ["precision"], "measure.batch_size": ["batch"]}
    conditions = ["device", *(name for names in across.values() for name in names if path not in across)]
    rows = [_row(config, run_id) for config, run_id in ((one, "a" * 12), (other, "b" * 12))]
    told_apart = _told_apart(rows, across=[] if path in (*across, "device") else conditions)
    assert told_apart == (one.run_id != other.run_id)
    assert told_apart == (path not in run_config.irrelevant_fields())


def test_what_only_says_how_a_run_is_watched_is_irrelevant():
    watched = {"log_every", "log_to", "save_every", "keep_checkpoints", "evaluate_every", "num_workers"}
    others = {"data.time_limit_s", "evaluate.num_workers", "resources.nodes", "resources.time_min"}
    assert {f"train.{name}" for name in watched} | others <= run_config.irrelevant_fields()


def test_compare_joins_spellings_of_one_run_and_numbers_as_other_programs_save_them():
    config = RunConfig()
    other = config.changed(model={"num_frames": 32})
    assert not _told_apart([_row(config, config.run_id), _row(other, other.run_id)], across=[])
    saved = {**_row(config, "b" * 12), "train.batch_size": 32.0, "data.embedded.noise": 5}
    assert not _told_apart([_row(config, "a" * 12), saved], across=[])


def test_spellings_of_one_network_are_one_run():
    spelt = [
        {},
        {"num_frames": 32},
        {"crop_size": 224},
        {"crop_size": [224, 224]},
        {"attention": "LG"},
        {"overrides": {"dropout": 0.5, "depths": [2, 2, 10, 4]}},
    ]
    assert {RunConfig().changed(model=choice).run_id for choice in spelt} == {RunConfig().run_id}
    teacher = {"teacher": "dualformer_small"}
    labels = [teacher, {**teacher, "overrides": {"dropout": 0.5}}]
    assert len({RunConfig().changed(train={"token_labels": choice}).run_id for choice in labels}) == 1


ONE_NETWORK = [
    [{"attention": "LG"}, {"attention": "LGLG"}, {"attention": "LG,LG,LG,LG"}, {"attention": "L1G2"}]
    + [{"overrides": {"attention_options": {"L": {"window_size": [8, 7, 7]}}}}],
    [{"attention": "FF"}, {"attention": "F", "overrides": {"window_size": [1, 1, 1], "pooling": "max"}}],
    [{"attention": "F", "overrides": {"coarse_sizes": [], "fine_sizes": [None]}}, {"attention": "F"}],
    [
        {"attention": "LG", "overrides": {"position": "relative"}},
        {
            "attention": "LG",
            "overrides": {"position": "none", "attention_options": {"L": {"relative_bias": True}}},
        },
    ],
    [
        {"attention": "G", "overrides": {"attention_options": {"G": {"pooling": "max", "share_kv": False}}}},
        {"attention": "G", "overrides": {"pooling": "max", "share_kv": False}},
    ],
    [{"attention": "L,L,L,G"}, {"attention": "L,LL,L1,G", "overrides": {"depths": [2, 2, 10, 4]}}],
]


@pytest.mark.parametrize("spelt", ONE_NETWORK)
def test_every_way_to_choose_the_same_blocks_is_one_run(spelt):
    assert len({RunConfig().changed(model=choice).run_id for choice in spelt}) == 1
    teachers = [
        {
            "teacher": "dualformer_tiny",
            "overrides": {"attention": choice.get("attention", "LG"), **choice.get("overrides", {})},
        }
        for choice in spelt
    ]
    assert len({RunConfig().changed(train={"token_labels": labels}).run_id for labels in teachers}) == 1


def test_networks_of_other_blocks_are_other_runs():
    options = {"L1": {"window_size": [4, 7, 7]}}
    choices = [
        *({"attention": pattern} for pattern in ("LG", "GL", "LGG", "LG,LG,LG,L", "LS", "L")),
        {"attention": "L1L2", "overrides": {"attention_options": options}},
        {"attention": "L2L1", "overrides": {"attention_options": options}},
        *({"overrides": {"position": position}} for position in ("none", "absolute", "relative")),
    ]
    assert len({RunConfig().changed(model=choice).run_id for choice in choices}) == len(choices)


def _id_with(folder: Path, *changes: tuple[str, str]) -> str:
    """The id of a run whose letter is a copy of local windows, with texts of its file replaced."""
    folder.mkdir()
    with copied(folder, LocalWindowAttention, *changes):
        return RunConfig().changed(model={"attention": FREE}).run_id


def test_an_edited_default_of_an_attention_makes_a_new_run(tmp_path):
    line = "        relative_bias: bool = False\n"
    option = (line, f"{line}        reach: int = 1\n")
    ids = {
        "none": _id_with(tmp_path / "none"),
        "one": _id_with(tmp_path / "one", option),
        "two": _id_with(tmp_path / "two", option, ("reach: int = 1", "reach: int = 2")),
    }
    assert len(set(ids.values())) == 3
    comment = ("# [K, K]\n\n    def forward", "# [K, K], by offset\n\n    def forward")
    assert _id_with(tmp_path / "again", comment) == ids["none"], "the text of a file is no part of it"


OWN = """
    from dualformer.registry import model_config
    from torch import nn

    class Net(nn.Module):
        def __init__(self, num_classes, width, act):
            super().__init__()
            self.conv = nn.Conv3d(3, width, 2, 2)
            self.fc = nn.Linear(width, num_classes)

        def forward(self, clip):
            return self.fc(self.conv(clip).mean((2, 3, 4)))

    def tiny(num_classes, num_frames=4, crop_size=(8, 8), width=6, act=nn.GELU, *, bias=True):
        return Net(num_classes, width, act)

    def config(windows=4):
        return model_config("dualformer_tiny", window_size=(windows, 7, 7))
"""


@pytest.fixture
def own_id(tmp_path, monkeypatch):
    """Gives the id of a run of a function of a module of one's own, after texts of the module were replaced."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def id_of(function: str, *changes: tuple[str, str], **overrides: Any) -> str:
        text = textwrap.dedent(OWN)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "own_nets.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop("own_nets", None)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)  # edits within a second may have one size
        return RunConfig().changed(model={"name": f"own_nets:{function}", "overrides": overrides}).run_id

    yield id_of
    sys.modules.pop("own_nets", None)


def test_defaults_of_a_function_of_ones_own_are_part_of_the_run(own_id):
    plain = own_id("tiny")
    assert own_id("tiny", width=6) == own_id("tiny", bias=True) == plain
    assert own_id("tiny", ("width=6", "width=12")) == own_id("tiny", width=12) != plain
    assert own_id("tiny", ("width=6", "width=12"), width=6) == plain
    assert own_id("tiny", ("act=nn.GELU", "act=nn.ReLU")) != plain
    assert own_id("tiny", ("bias=True", "bias=False")) == own_id("tiny", bias=False) != plain
    assert own_id("tiny", ("num_frames=4", "num_frames=6")) != plain
    config = own_id("config")
    assert (
        own_id("config", windows=4) == config == own_id("config", attention_options={"L": {"window_size": [4, 7, 7]}})
    )
    assert own_id("config", ("windows=4", "windows=2")) != config


def test_an_edited_default_of_a_model_makes_a_new_run(monkeypatch):
    before = RunConfig().run_id
    teacher = RunConfig().changed(train={"token_labels": {"teacher": "dualformer_tiny"}}, model={"name": "vivit_base"})
    teacher_before = teacher.run_id
    published = registry.model_config
    monkeypatch.setattr(
        registry, "model_config", lambda name, **changes: published(name, **{"dropout": 0.4, **changes})
    )
    assert RunConfig().changed(seed=0).run_id != before
    monkeypatch.setattr(
        registry,
        "model_config",
        lambda name, **changes: published(name, **({"dropout": 0.4} if name == "dualformer_tiny" else {}), **changes),
    )
    assert teacher.changed(seed=0).run_id != teacher_before, "the network of a teacher counts as well"


def test_a_model_that_there_is_not_has_an_id_all_the_same():
    config = RunConfig().changed(model={"name": "dualformer_tinny"})
    assert config.run_id != RunConfig().run_id and config.network["name"] == "dualformer_tinny"


def test_every_field_is_described():
    fields = run_config.describe_fields()
    assert [field.path for field in fields if not field.text] == []
    assert {field.path for field in fields} == set(flatten(RunConfig().to_dict()))
    values = flatten(RunConfig().to_dict())
    assert {field.path: field.default for field in fields} == values
    by_path = {field.path: field for field in fields}
    assert by_path["model.crop_size"].type == "tuple[int, int] | int | None"
    assert "Literal['tensorboard', 'wandb']" in by_path["train.log_to"].type
    assert by_path["train.evaluate_every"].text.endswith("The result is that of the last step all the same.")


def test_what_is_declared_irrelevant_is_so_with_all_below_it():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Inner(Config):
        depth: int = 1

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Outer(Config):
        inner: Inner = dataclasses.field(default_factory=Inner, metadata=IRRELEVANT)
        width: int = irrelevant(2)
        height: int = 3

    Outer.__annotations__["inner"] = Inner
    assert {field.path: field.irrelevant for field in fields_of(Outer)} == {
        "inner.depth": True,
        "width": True,
        "height": False,
    }


def test_describing_runs_loads_neither_torch_nor_a_decoder():
    heavy = ("torch", "av", "decord", "torchcodec", "pandas", "matplotlib")
    program = (
        "import sys\n"
        "from sweeps import run_config\n"
        "assert run_config.describe_fields() and run_config.RunConfig()\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sed": 1}, "unknown field 'sed'; did you mean 'seed'"),
        ({"train": {"learning_rat": 1e-3}}, r"unknown field 'train\.learning_rat'; did you mean 'learning_rate'"),
        ({"train": {"steps": "many"}}, r"train\.steps: .*integer.*'many'"),
        ({"train": {"steps": -1}}, "steps must be from 0"),
        ({"threads": 0}, "threads must be from 1 to"),
        ({"device": "gpu"}, "device: .*'cpu'"),
        ({"model": {"overrides": {"num_frames": 4}}}, "'num_frames' is not for overrides"),
    ],
)
def test_bad_values_are_named(fields: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict(fields)


def test_model_choice_becomes_changes_of_the_published_config():
    model = RunConfig.from_dict({"model": {"crop_size": 32, "overrides": {"depths": [1, 1]}}}).model
    assert model.changes() == {"crop_size": 32, "depths": [1, 1]}
