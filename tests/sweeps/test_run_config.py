import pytest

from dualformer.config import ConfigError, flatten
from sweeps.run_config import IRRELEVANT_FIELDS, RunConfig


def test_id_is_short_and_depends_on_content_only():
    written_out = RunConfig.from_dict(RunConfig().to_dict())
    assert written_out == RunConfig() and written_out.run_id == RunConfig().run_id
    assert len(RunConfig().run_id) == 12 and int(RunConfig().run_id, 16) >= 0


def _changed(value):
    """Another value of the same type; None where that depends on the field."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 + 0.01  # stays a share where it was one
    if isinstance(value, int):
        return value + 1
    return None


SIMPLE = [field for field, value in flatten(RunConfig().to_dict()).items() if _changed(value) is not None]


@pytest.mark.parametrize("field", [field for field in SIMPLE if not field.startswith("data.")])
def test_every_number_is_in_the_identity_unless_it_cannot_matter(field: str):
    values = flatten(RunConfig().to_dict())
    parents = field.split(".")
    change = _changed(values[field])
    for parent in reversed(parents):
        change = {parent: change}
    same = RunConfig().changed(**change).run_id == RunConfig().run_id
    assert same == (field in IRRELEVANT_FIELDS)


def test_resources_are_no_part_of_the_identity():
    assert RunConfig().changed(resources={"gpus_per_node": 8}).run_id == RunConfig().run_id


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sed": 1}, "unknown field 'sed'; did you mean 'seed'"),
        ({"train": {"learning_rat": 1e-3}}, r"unknown field 'train\.learning_rat'; did you mean 'learning_rate'"),
        ({"train": {"steps": "many"}}, r"train\.steps: .*integer.*'many'"),
        ({"train": {"steps": -1}}, "steps must be at least 0"),
        ({"threads": 0}, "threads must be at least 1"),
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
