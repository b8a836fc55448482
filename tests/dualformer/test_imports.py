"""What needs no torch loads none, and names are there all the same."""

import subprocess
import sys
from pathlib import Path

import pytest

import dualformer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "code",
    [
        "import dualformer; dualformer.__version__, dir(dualformer)",
        "import dualformer; dualformer.ConfigError('x')",
        "from dualformer import ConfigError, list_models; list_models('video_*')",
        "import dualformer; dualformer.list_models()",
        "from dualformer.config import ConfigError",
        "import dualformer.model_config",
        "import dualformer.results, dualformer.results.result, dualformer.results.files, dualformer.results.layout",
        "import sweeps.launching.run_status",
        "import sweeps.run_config; sweeps.run_config.describe_fields()",
        "import sweeps.fields",
        "import dualformer.attention; dualformer.attention.letters()",
        "import dualformer.completion",
        "import sweeps.completion",
    ],
)
def test_no_torch(code):
    code += "; import sys; print(sorted({'torch', 'pandas', 'av', 'decord'} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (process.stdout, process.stderr) == ("[]\n", "")


def test_every_public_name_is_there():
    for name in dualformer.__all__:
        assert getattr(dualformer, name).__name__ == name
        assert name in dir(dualformer)
    with pytest.raises(AttributeError, match="module 'dualformer' has no attribute 'create_modell'"):
        dualformer.create_modell  # noqa: B018


def test_star_import_gives_the_public_names():
    names = {}
    exec("from dualformer import *", names)
    assert set(dualformer.__all__) <= set(names)


def test_type_checkers_see_what_is_imported_late():
    """Every lazy name is imported under `TYPE_CHECKING` from the very module that `__getattr__` takes it from."""
    source = Path(dualformer.__file__).read_text()
    for name, module in dualformer._MODULES.items():
        assert any(
            line.split()[1] == module and name in line.replace(",", " ").split()[3:]
            for line in source.splitlines()
            if line.startswith("    from ")
        ), name
    assert set(dualformer._MODULES) == set(dualformer.__all__)
