import json
import resource
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest

from dualformer.results.files import RecordError, append_line, read_lines, write_json
from dualformer.results.result import Result, read_result, write_result


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "0123456789ab"
    folder.mkdir()
    return folder


def test_result_comes_back_as_written(run_dir: Path):
    result = Result(run_id=run_dir.name, status="ok", top1=0.25, gmacs_per_view=1.5, top1_relation=0.5)
    write_result(run_dir, result)
    assert read_result(run_dir) == result
    written = json.loads((run_dir / "result.json").read_text())
    assert written["top1_relation"] == 0.5
    assert written["energy_j_per_clip"] is None, "what was not measured is null"
    assert written["schema_version"] == 1
    assert [path.name for path in run_dir.iterdir()] == ["result.json"]


@pytest.mark.parametrize("content", ["", "{", '{"run_id": "0123456789ab"}', "[]", "null"])
def test_torn_or_invalid_result_is_none(run_dir: Path, content: str):
    (run_dir / "result.json").write_text(content)
    assert read_result(run_dir) is None


def test_every_torn_prefix_is_none(run_dir: Path):
    write_result(run_dir, Result(run_id=run_dir.name, status="ok"))
    whole = (run_dir / "result.json").read_text().rstrip()
    for length in range(len(whole)):
        (run_dir / "result.json").write_text(whole[:length])
        assert read_result(run_dir) is None


def test_result_of_another_run_does_not_count(run_dir: Path):
    write_result(run_dir, Result(run_id="ba9876543210", status="ok"))
    assert read_result(run_dir) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"status": "fine"}, "status"),
        ({"status": "error"}, "needs a reason"),
        ({"status": "ok", "tpo1": 0.5}, "unknown field 'tpo1'"),
        ({"status": "ok", "top1_relation": 50.0}, "fraction"),
        ({"status": "ok", "final_train_loss": float("nan")}, "finite"),
        ({"status": "ok", "num_videos": "12"}, "num_videos"),
    ],
)
def test_invalid_results_are_refused(fields: dict, message: str):
    with pytest.raises(pydantic.ValidationError, match=message):
        Result(run_id="x", **fields)


def test_full_disk_leaves_the_old_file_and_nothing_torn(run_dir: Path):
    write_json(run_dir / "result.json", {"old": True})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    program = (
        "import resource, signal, sys; from pathlib import Path; from dualformer.results.files import write_json\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100, {limit[1]}))\n"
        "write_json(Path(sys.argv[1]), {'new': 'x' * 10_000})"
    )
    command = [sys.executable, "-c", program, str(run_dir / "result.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "RecordError" in done.stderr and "cannot write" in done.stderr and "result.json" in done.stderr
    assert json.loads((run_dir / "result.json").read_text()) == {"old": True}
    assert [path.name for path in run_dir.iterdir()] == ["result.json"]


def test_a_missing_folder_is_a_record_error(tmp_path: Path):
    with pytest.raises(RecordError, match="cannot write"):
        write_json(tmp_path / "missing" / "result.json", {})


def test_lines_survive_a_torn_one(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    append_line(path, {"step": 1})
    with open(path, "a") as file:
        file.write('{"step": 2, "lo')
    append_line(path, {"step": 3})
    assert read_lines(path) == [{"step": 1}, {"step": 3}]
    assert read_lines(tmp_path / "missing.jsonl") == []
