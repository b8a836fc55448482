import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

from dualformer.results.code import digest
from dualformer.results.provenance import CIRCUMSTANCES, FILES
from sweeps import source
from sweeps.provenance import finished, provenance
from sweeps.run_config import RunConfig

CONFIG = RunConfig(seed=3)


def test_provenance_says_what_a_reader_would_ask():
    facts = provenance(CONFIG, "cpu")
    json.dumps(facts, allow_nan=False)
    for field in ("command", "torch", "python", "numpy", "decoder_version", "device_name", "matmul_precision", "host"):
        assert facts[field], field
    assert (facts["decoder"], facts["decoder_version"]) == ("decord", importlib.metadata.version("decord"))
    in_order = provenance(CONFIG.changed(data={"decoder": "pyav"}), "cpu")
    assert (in_order["decoder"], in_order["decoder_version"]) == ("pyav", importlib.metadata.version("av"))
    assert facts["seed"] == 3 and facts["finished_utc"] is None and facts["started_utc"].endswith("+00:00")
    assert facts["network_config"]["embed_dims"] == [64, 128, 256, 512], "published values are recorded"


def test_every_circumstance_of_a_table_is_recorded():
    assert {circumstance.name for circumstance in CIRCUMSTANCES} <= set(provenance(CONFIG, "cpu"))


def test_the_end_of_a_run_adds_what_it_has_imported_on_its_way():
    start = provenance(CONFIG, "cpu")
    first = dict(list(start[FILES].items())[:3])
    name = next(iter(first))
    end = finished({**start, FILES: {**first, name: "edited since"}})
    assert set(end[FILES]) >= set(start[FILES]) and end[FILES][name] == "edited since"
    assert end["code"] == digest(end[FILES]) != start["code"]
    assert end["finished_utc"] >= start["started_utc"]


def imported(statement: str, cwd: Path | None = None) -> dict[str, str]:
    """What a fresh process imports of the project and of its user's code."""
    program = f"import sys; sys.path[:0] = [{str(source.ROOT)!r}, '.']\n{statement}\n"
    program += "import json; from sweeps.source import imported_files; print(json.dumps(imported_files()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_code_is_the_files_that_were_imported_and_no_others(tmp_path):
    files = imported("import dualformer.config, numpy, yaml")
    assert {"dualformer/__init__.py", "dualformer/config.py", "sweeps/source.py"} <= set(files)
    assert "dualformer/macs/counts.py" not in files and not any("numpy" in name or "yaml" in name for name in files)
    assert set(imported("import dualformer.model_config")) - set(files) >= {"dualformer/model_config.py"}
    assert all(len(content) == 12 for content in files.values())


def test_a_network_of_ones_own_is_code_too_and_its_place_is_not_told(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "net.py").write_text("x = 1\n")
    before = imported("import mine.net", cwd=tmp_path)
    assert {"mine/__init__.py", "mine/net.py"} <= set(before) and str(tmp_path) not in json.dumps(before)
    (tmp_path / "mine" / "net.py").write_text("x = 20\n")
    after = imported("import mine.net", cwd=tmp_path)
    assert [name for name in before if before[name] != after[name]] == ["mine/net.py"]
