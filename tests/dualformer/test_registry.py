"""Models by import path: built, counted, rebuilt, and refused in words that help."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from dualformer import ConfigError, count_macs, create_model, list_models
from dualformer.macs import closed_form
from dualformer.model_config import ModelConfig
from dualformer.registry import model_config, source_files

SOURCE = """
    import torch
    from torch import nn

    import dualformer
    from beside_models import WIDTH
    from dualformer.registry import model_config

    NUMBER = 3

    class Net(nn.Module):
        def __init__(self, num_classes, width=WIDTH):
            super().__init__()
            self.body = nn.Conv3d(3, width, 3, stride=2)
            self.fc = nn.Linear(width, num_classes)

        def forward(self, clip):
            return self.fc(self.body(clip).mean(dim=(2, 3, 4)))

    def net(num_classes=400, width=WIDTH):
        return Net(num_classes, width)

    def sized(num_classes, num_frames=4, crop_size=(16, 24)):
        assert isinstance(crop_size, tuple)
        return Net(num_classes, width=num_frames)

    def with_value(num_classes):
        torch.ones(1).item()
        return Net(num_classes)

    def adapted(num_classes, num_frames=4):
        return dualformer.adapt(Net(num_classes), (3, num_frames, 16, 16), call=lambda module, clip: module(clip * 2))

    def named(num_classes):
        return Net(num_classes, **{"width": 3})

    def keywords(**options):
        return Net(**options)

    def config(wide=1):
        return model_config(
            "dualformer_tiny", embed_dims=(16 * wide, 32 * wide), depths=(1, 1), num_heads=(1, 2), num_frames=4,
            crop_size=32, fine_sizes=((2, 2, 2),) * 2, coarse_sizes=(None, None),
        )

    def config_keywords(**changes):
        return model_config("video_swin_tiny", mlp_ratio=3.0, **changes)

    def twice(depth=1):
        return model_config("timesformer_divided", depth=2 * depth)

    def fixed():
        return Net(7)

    def raises(num_classes):
        raise RuntimeError("no such luck\\nand more")

    def mapping(num_classes):
        return {}
"""
SHAPE = {"num_frames": 4, "crop_size": 16}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with modules in it, which is not on the path, as for a console script."""
    (tmp_path / "own_models.py").write_text(textwrap.dedent(SOURCE))
    (tmp_path / "beside_models.py").write_text("WIDTH = 6\n")
    (tmp_path / "broken_models.py").write_text("import no_such_library\n")
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    (tmp_path / "own_package" / "nets.py").write_text("from . import sizes\nfrom own_models import net\n")
    (tmp_path / "own_package" / "sizes.yaml").write_text("a: 1\n")
    (tmp_path / "own_package" / "sizes.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    for name in (
        "own_models",
        "beside_models",
        "broken_models",
        "own_package",
        "own_package.nets",
        "own_package.sizes",
    ):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("function", "changes"),
    [
        ("net", {**SHAPE, "width": 3}),
        ("Net", SHAPE),
        ("sized", {"num_frames": 5}),
        ("adapted", {}),
        ("with_value", SHAPE),
        ("keywords", {**SHAPE, "width": 3}),
        ("config", {}),
        ("config", {"wide": 2, "attention": "LL"}),
        ("config_keywords", {"num_frames": 4, "crop_size": 32, "drop_path_rate": 0.0}),
    ],
)
def test_config_rebuilds_the_model(function, changes):
    path = f"own_models:{function}"
    model = create_model(path, num_classes=5, **changes)
    config = model.config
    assert config.name == path
    assert {config: 1}[model_config(path, num_classes=5, **changes)] == 1
    fields = json.loads(json.dumps(config.to_dict()))
    assert type(config).from_dict(fields) == config
    again = create_model(**fields)
    assert again.config == config
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]
    assert again.eval()(torch.randn(2, *config.clip_shape)).shape == (2, 5)
    fields.pop("name")
    assert count_macs(path, **fields) == count_macs(model)


def test_arguments_reach_the_function():
    assert create_model("own_models:net", width=3, **SHAPE).network.fc.in_features == 3
    assert create_model("own_models:sized", num_frames=5).network.fc.in_features == 5
    assert create_model("own_models:sized").config.clip_shape == (3, 4, 16, 24)
    assert create_model("own_models:keywords", width=2, **SHAPE).network.fc.in_features == 2
    assert model_config("own_models:config", wide=2).embed_dims == (32, 64)
    assert model_config("own_models:config_keywords").mlp_ratio == 3.0
    assert model_config("own_models:net", **SHAPE).changed(width=2) == model_config("own_models:net", width=2, **SHAPE)


def test_counting_by_path_allocates_no_weights():
    changes = {"width": 10**7, **SHAPE}  # 3.6 GiB of weights
    assert count_macs("own_models:net", **changes).total == 10**7 * (81 * 7 * 7 + 400)


def test_random_state_does_not_depend_on_describing_a_model():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    model_config("own_models:with_value", **SHAPE)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        ("own_models:nte", SHAPE, "own_models has no function 'nte'; did you mean 'net'"),
        ("own_modles:net", SHAPE, "no module 'own_modles' in this folder or installed; did you mean 'own_models'"),
        ("own_package.net:f", SHAPE, "no module 'own_package.net' .*did you mean 'own_package.nets'"),
        ("broken_models:net", SHAPE, "importing broken_models: No module named 'no_such_library'"),
        ("own_models.py:net", SHAPE, "did you mean 'own_models:net'"),
        ("./own_models.py:net", SHAPE, "did you mean 'own_models:net'"),
        ("own_models:", SHAPE, r"is no model: an import path is package.module:function"),
        ("own_models.net", SHAPE, r"a model of your own is named package.module:function"),
        ("own_models:NUMBER", SHAPE, "own_models:NUMBER is int and no function"),
        ("own_models:net", {}, "doesn't say which clips it takes; give num_frames and crop_size"),
        ("own_models:net", {"num_frames": 4}, "give crop_size"),
        ("own_models:net", {**SHAPE, "widht": 3}, "takes no argument 'widht'; did you mean 'width'"),
        ("own_models:net", {**SHAPE, "attention": "LG"}, "takes no argument 'attention'"),
        ("own_models:net", {**SHAPE, "num_frames": "4"}, "num_frames: Input should be a valid integer"),
        ("own_models:net", {**SHAPE, "width": torch.float32}, "'width' must be plain data"),
        ("own_models:net", {**SHAPE, "width": -1}, "own_models:net: RuntimeError: "),
        ("own_models:adapted", {"crop_size": 32}, r"with crop_size \(16, 16\), and \(32, 32\) is asked for"),
        ("own_models:fixed", SHAPE, "must take num_classes"),
        ("own_models:raises", {}, "own_models:raises: RuntimeError: no such luck$"),
        ("own_models:mapping", {}, "returned a dict where a ModelConfig or a torch.nn.Module is wanted"),
        ("own_models:twice", {"depth": 1}, r"can't be built again from its own fields \(depth\)"),
        ("own_models:config", {"attenton": "LL"}, "unknown field 'attenton'; did you mean 'attention'"),
        ("own_models:config_keywords", {"attention": "LL"}, "attention"),
    ],
)
def test_what_is_no_model_is_refused_in_words(path, changes, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        create_model(path, **changes)
    assert len(str(refusal.value).splitlines()) == 1


def test_network_without_closed_form_says_so():
    with pytest.raises(ConfigError, match="own_models:net has no closed form of its cost"):
        closed_form(model_config("own_models:net", **SHAPE))
    config = model_config("own_models:config")
    assert closed_form(config) == count_macs("own_models:config").matrix_work
    with pytest.raises(ConfigError, match="plain has no closed form"):
        closed_form(ModelConfig(name="plain", num_frames=1, crop_size=(2, 2)))


def test_files_of_a_model_are_its_module_and_what_lies_beside_it(folder):
    own = [folder / "beside_models.py", folder / "own_models.py"]
    assert source_files("own_models:net") == own
    package = [folder / "own_package" / name for name in ("__init__.py", "nets.py", "sizes.py", "sizes.yaml")]
    assert source_files("own_package.nets:net") == sorted([*own, *package])
    assert "own_models" not in sys.modules


@pytest.mark.parametrize(
    "name", ["dualformer_tiny", "dualformer.model:dualformer_tiny", "torch.nn:Linear", "json:loads"]
)
def test_files_of_the_project_and_of_libraries_are_left_out(name):
    assert source_files(name) == []


def test_files_of_what_is_no_model():
    with pytest.raises(ConfigError, match="did you mean 'dualformer_tiny'"):
        source_files("dualformer_tin")


def test_registry_lists_itself_alone():
    create_model("own_models:net", **SHAPE)
    assert not [name for name in list_models() if ":" in name]


def test_console_script_finds_the_working_directory(folder):
    """Python's safe path leaves the working directory out, as console scripts do."""
    code = "from dualformer import create_model; print(create_model('own_models:sized').config.name)"
    root = os.path.dirname(os.path.dirname(__import__("dualformer").__file__))
    environment = {**os.environ, "PYTHONPATH": root, "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=folder)
    assert done.stdout.strip() == "own_models:sized", done.stderr


@pytest.mark.parametrize("thing", [None, 3, torch.nn.Linear(2, 2)], ids=lambda thing: type(thing).__name__)
def test_what_is_no_name_is_refused_by_its_kind(thing):
    with pytest.raises(ConfigError, match=f"named by text, got a {type(thing).__name__}"):
        create_model(thing)


def test_a_config_that_describes_clips_alone_builds_nothing_and_says_so():
    with pytest.raises(ConfigError, match="plain can't be built from its config"):
        ModelConfig(name="plain", num_frames=1, crop_size=(2, 2)).build()
