"""What a real Slurm won't do on demand, done by stand-ins for its programs (`tests/fake_slurm`)."""

import json
import os
import re
import secrets
from pathlib import Path

import pytest

from dualformer.results.files import read_lines
from dualformer.results.result import read_result
from slurm import queue, slurm_array
from slurm.job_id import JobId
from sweeps.launching import launcher, ledger, status
from sweeps.launching.grid import load_grid
from tests.helpers import hostile

ROOT = Path(__file__).parents[2]
GRID = "base: {model: {name: dualformer_tiny, num_frames: 4, crop_size: 16}}\naxes: {seed: [0, 1, 2, 3]}\n"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a fake Slurm that comes first on the path; its limit on arrays is three jobs."""
    state = tmp_path / "slurm"
    state.mkdir()
    (state / "jobs").touch()
    monkeypatch.setenv("DUALFORMER_FAKE_SLURM", str(state))
    monkeypatch.setenv("PATH", f"{ROOT / 'tests' / 'slurm' / 'fake_slurm'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sweeps.launching.submitter.RETRY_REFUSED_S", 0.5)
    monkeypatch.setattr("sweeps.launching.sweep.UNNOTED_S", 2.0)
    monkeypatch.setattr(slurm_array, "view", queue.View())
    monkeypatch.setattr(queue, "_QUERY_EVERY_S", 0.2)
    Path("four.yaml").write_text(GRID)
    return state


def run(worker: str = "ok", *flags: str) -> int:
    return launcher.main(["--grid", "four.yaml", *flags], worker=f"tests.helpers.fake_workers:{worker}")


def run_dirs() -> list[Path]:
    return [Path("runs", run.run_id) for run in load_grid("four.yaml").runs]


def computed() -> list[int]:
    return [len(read_lines(run_dir / "computed.jsonl")) for run_dir in run_dirs()]


def test_arrays_keep_to_the_limit_that_the_cluster_states(fake: Path):
    assert run() == 0
    assert computed() == [1, 1, 1, 1]
    assert [line.split()[2] for line in (fake / "jobs").read_text().splitlines()] == ["2", "none"]


def test_a_passing_refusal_is_tried_again(fake: Path, capsys: pytest.CaptureFixture):
    (fake / "behaviour").write_text("refuse Batch job submission failed: Socket timed out on send/recv operation\n")
    assert run() == 0
    assert computed() == [1, 1, 1, 1]
    assert "trying again" in capsys.readouterr().out


def test_a_lasting_refusal_is_reported_and_nothing_is_started(fake: Path, capsys: pytest.CaptureFixture):
    (fake / "behaviour").write_text("refuse Invalid account or account/partition combination specified\n")
    assert run() == 2
    assert "sbatch refused: Invalid account" in capsys.readouterr().err
    assert computed() == [0, 0, 0, 0]


def test_a_submission_that_seemed_to_fail_and_did_not_is_computed_once(fake: Path):
    (fake / "behaviour").write_text("accept-then-fail Socket timed out on send/recv operation\n")
    assert run() == 0
    assert computed() == [1, 1, 1, 1]


def test_a_job_id_that_comes_back_is_told_apart(fake: Path):
    assert run("ok", "--only", "seed=0") == 0
    (fake / "behaviour").write_text("reuse-id\n")
    assert run("ok", "--only", "seed=1") == 0
    assert computed()[:2] == [1, 1]


def test_a_queue_that_will_not_answer_is_waited_for(fake: Path):
    (fake / "squeue_fails").touch()
    assert queue.jobs() is None
    assert run() == 0, "results are what counts"
    assert computed() == [1, 1, 1, 1]


def test_a_stale_queue_does_not_make_a_run_lost(fake: Path):
    (fake / "squeue_stale").write_text("")
    assert run() == 0
    assert computed() == [1, 1, 1, 1]


def test_jobs_that_the_queue_forgets_without_a_result_are_lost(fake: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(queue, "_FORGOTTEN_AFTER_S", 2.0)
    (fake / "squeue_stale").write_text("")
    Path("profile.yaml").write_text("max_attempts: 1\n")
    assert run("killed", "--only", "seed=0", "--profile", "profile.yaml") == 1
    assert "left Slurm's queue" in read_result(run_dirs()[0]).reason


def test_a_job_that_no_node_could_launch_is_cancelled_and_submitted_again(fake: Path, capsys: pytest.CaptureFixture):
    (fake / "behaviour").write_text("hold\n")
    assert run("ok", "--only", "seed=0") == 0
    assert computed()[0] == 1
    assert "launch failed requeued held" in capsys.readouterr().out
    assert (fake / "cancelled").read_text().split() == ["1"]


def test_a_job_that_no_node_can_launch_is_a_row_in_the_end(fake: Path):
    (fake / "behaviour").write_text("hold\n" * 3)
    assert run("ok", "--only", "seed=0") == 1
    result = read_result(run_dirs()[0])
    assert result.status == "error" and "launch failed requeued held" in result.reason


def noted(run_dir: Path, token: str) -> None:
    """What the ledger holds when a launcher died between its note and sbatch's answer."""
    run_dir.mkdir(parents=True)
    gone = "local:1:0.00"
    ledger.append(run_dir, "submit", index=0, token=token, executor="slurm", launcher=gone)


def test_a_submission_whose_launcher_died_is_found_by_its_name(fake: Path):
    token = f"dualformer-{secrets.token_hex(6)}"
    noted(run_dirs()[0], token)
    (fake / "jobs").write_text(f"77 {token} none\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.launching.following.follow", lambda sweep: sweep.step() and 0)
        run("ok", "--only", "seed=0")
    assert ledger.open_submission(ledger.read(run_dirs()[0])).job_id == JobId("slurm", "77")


def test_a_submission_that_never_came_to_be_is_made_again(fake: Path):
    noted(run_dirs()[0], f"dualformer-{secrets.token_hex(6)}")
    assert run("ok", "--only", "seed=0") == 0
    assert computed()[0] == 1


def test_a_user_without_a_name_is_known_by_number(fake: Path, monkeypatch: pytest.MonkeyPatch):
    def unknown(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found")

    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert run() == 0
    assert computed() == [1, 1, 1, 1]
    assert status.main(["--once"]) == 0


def test_a_pending_element_that_leaves_no_trace_was_cancelled(fake: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(queue, "_FORGOTTEN_AFTER_S", 1.0)
    (fake / "behaviour").write_text("drop-the-second\n")
    assert run("ok", "--only", "seed=0", "seed=1") == 1
    first, second = (read_result(run_dir) for run_dir in run_dirs()[:2])
    assert first.status == "ok"
    assert second.status == "skipped" and "CANCELLED before it started" in second.reason
    assert [event["event"] for event in ledger.read(run_dirs()[1])].count("submit") == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a%j", "stands for a number in names of files"),
        ("a%x", "sbatch reads in its own way"),
        ("a\\b", "sbatch reads in its own way"),
        ("a:b", "separates the places that Python imports from"),
        ("a\ntouch planted\n", "ends a line"),
    ],
)
def test_a_folder_whose_name_would_be_read_otherwise_is_refused(fake: Path, name: str, why: str, capsys):
    assert run("ok", "--runs", name) == 2
    assert why in capsys.readouterr().err and not list(Path().rglob("planted"))


@pytest.mark.parametrize(
    "name", [name.replace("/", "") for name in hostile.NAMES if name.isprintable() and not re.search(r"[%:\\]", name)]
)
def test_names_are_no_orders_to_a_shell(fake: Path, name: str):
    """As a grid, a label, a folder of runs and a value of the profile."""
    axes = {"seed": [0, 1], name: {name: {"threads": 1}, "other": {"threads": 2}}}
    base = {"model": {"name": "dualformer_tiny", "num_frames": 4, "crop_size": 16}}
    Path(f"./{name}.yaml").write_text(json.dumps({"base": base, "axes": axes}))
    Path("profile.yaml").write_text(json.dumps({"account": name, "sbatch": {"comment": name}}))
    flags = [f"--grid={name}.yaml", f"--runs={name}", "--profile=profile.yaml", f"--only={name}={name}"]
    assert launcher.main([*flags, "--only", "seed=0"], worker="tests.helpers.fake_workers:ok") == 0
    assert len(list(Path(name).glob("*/computed.jsonl"))) == 1
    assert not list(fake.parent.rglob("planted"))


@pytest.mark.parametrize(
    "profile",
    [
        {"partition": "a'\ntouch planted\n#"},
        {"account": "a\r\n"},
        {"sbatch": {"comment": "a'\ntouch planted\n#"}},
        {"sbatch": {"comment\ntouch planted\n#": "a"}},
        {"sbatch": {"comment=a --wrap": "a"}},
        {"sbatch": {"--": "a"}},
    ],
)
def test_a_value_of_the_profile_that_would_be_a_line_of_the_script_is_refused(fake: Path, profile: dict, capsys):
    Path("profile.yaml").write_text(json.dumps(profile))
    assert run("ok", "--profile", "profile.yaml") == 2
    assert "profile.yaml: " in capsys.readouterr().err and not list(fake.parent.rglob("planted"))


def test_a_launcher_inside_a_job_hands_nothing_of_it_on(fake: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("SLURM_MEM_PER_CPU", "SLURM_ARRAY_TASK_COUNT", "SBATCH_EXCLUSIVE", "PMI_RANK"):
        monkeypatch.setenv(name, "7")
    assert run("sees_environment", "--only", "seed=0") == 0
    seen = json.loads((run_dirs()[0] / "seen.json").read_text())
    assert not {"SLURM_MEM_PER_CPU", "SLURM_ARRAY_TASK_COUNT", "SBATCH_EXCLUSIVE", "PMI_RANK"} & seen.keys()
    assert "SLURM_JOB_ID" in seen, "what its own job is, a run does see"
