import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dualformer.results.result import Result, append_metrics, write_result
from slurm import queue, slurm_array
from slurm.job_id import JobId
from slurm.queue import QueuedJob
from sweeps.launching import ledger, status
from sweeps.launching.run_status import activity, run_status

ROOT = Path(__file__).parents[3]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A sweep with a run in every state."""
    names = ("ok", "failed", "new", "sent")
    listed = [{"run_id": name, "differs": {"seed": index}} for index, name in enumerate(names)]
    (tmp_path / "some.grid.json").write_text(json.dumps({"grid": "some", "runs": listed}))
    for run in listed:
        (tmp_path / run["run_id"]).mkdir()
    write_result(tmp_path / "ok", Result(run_id="ok", status="ok", top1=0.75))
    write_result(tmp_path / "failed", Result(run_id="failed", status="oom", reason="no memory\nleft"))
    ledger.append(tmp_path / "sent", "submit", token="t")
    ledger.append(tmp_path / "sent", "submitted", token="t", job_id="slurm:12_3")
    return tmp_path


def test_every_run_is_shown_with_state_and_note(runs: Path, capsys: pytest.CaptureFixture):
    assert status.main(["--runs", str(runs)]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        "run state try differs note",
        "ok ok 0 seed=0 top-1 0.750",
        "failed oom 0 seed=1 no memory left",
        "new waiting 0 seed=2",
        "sent queued 0 seed=3 slurm:12_3",
        "some: 4 runs, 1 ok, 1 oom, 1 waiting, 1 queued",
    ]


@contextlib.contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Meanwhile another process is at the run."""
    program = (
        "import sys; from pathlib import Path; from sweeps.launching import ledger\n"
        "with ledger.claim(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(run_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        yield
        holder.stdin.close()


@pytest.mark.parametrize("config", [[], {"train": []}, {}, "no JSON"])
def test_how_long_a_run_takes_is_unknown_where_its_config_is_broken(runs: Path, config: object):
    append_metrics(runs / "sent", {"step": 40, "steps": 100, "loss": 1.0, "clips_per_s": 16.0})
    text = config if isinstance(config, str) else json.dumps(config)
    (runs / "sent" / "config.json").write_text(text)
    with claimed(runs / "sent"):
        found = run_status(runs / "sent")
    assert (found.state, found.progress, found.left) == ("running", "40/100", "")


def test_a_claimed_run_is_running_and_shows_its_step(runs: Path):
    ledger.append(runs / "sent", "start", token="t", pid=1, node="node7")
    append_metrics(runs / "sent", {"step": 40, "steps": 100, "loss": 1.0, "clips_per_s": 16.0})
    append_metrics(runs / "sent", {"step": 40, "steps": 100, "held_out_top1": 0.5})
    (runs / "sent" / "config.json").write_text(json.dumps({"train": {"batch_size": 32}}))
    log, waiting = runs / "sent" / "log", "waiting to train for 20 s: process 7 has been timing"
    said = []
    with claimed(runs / "sent"):
        found = run_status(runs / "sent")
        for line in ("", "step 40/100  loss 1.0\n", f"{waiting}\n", "\n"):
            with open(log, "a") as file:
                file.write(line)
            said.append(activity(runs / "sent"))
    assert (found.state, found.attempt, found.node) == ("running", 1, "node7")
    assert (found.progress, found.left) == ("40/100", "0:02:00")
    assert said == ["40/100", "40/100", f"40/100 {waiting}", f"40/100 {waiting}"]
    assert activity(runs / "new") == "waiting" and activity(runs / "sent") == "queued slurm:12_3"


def test_a_lost_run_says_why(runs: Path):
    ledger.append(runs / "sent", "lost", token="t", reason="Slurm says NODE_FAIL")
    found = run_status(runs / "sent")
    assert (found.state, found.note) == ("lost", "Slurm says NODE_FAIL")


def test_on_a_terminal_the_table_stays_until_all_is_finished(runs: Path):
    command = [sys.executable, str(ROOT / "sweeps" / "status.py"), "--runs", str(runs)]
    terminal, side = pty.openpty()
    with subprocess.Popen(command, stdout=side, stderr=side) as process:
        os.close(side)
        shown = os.read(terminal, 1 << 16).decode()
        assert process.poll() is None, "there are unfinished runs to watch"
        for name in ("new", "sent"):
            write_result(runs / name, Result(run_id=name, status="ok"))
        assert process.wait(30) == 0
    os.close(terminal)
    assert shown.startswith("\033[H") and "queued" in shown


def test_nothing_launched_is_said_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert status.main(["--runs", str(tmp_path)]) == 2
    assert "no grid" in capsys.readouterr().err


def test_it_answers_without_torch(runs: Path):
    program = f"import sys; sys.argv = ['x', '--runs', {str(runs)!r}]; "
    program += "import sweeps.launching.status as s; s.main()"
    program += "; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("jobs", "state", "note"),
    [
        (None, "queued", "slurm:12_3"),
        ({"12_3": QueuedJob("PENDING", "", "Priority", "1:00", "t")}, "queued", "slurm:12_3 PENDING Priority"),
        ({"12_3": QueuedJob("CANCELLED", "", "None", "1:00", "t")}, "lost", "slurm:12_3 CANCELLED None"),
        ({"12_3": QueuedJob("FAILED", "node1", "None", "1:00", "t")}, "lost", "slurm:12_3 FAILED node1"),
        ({}, "lost", "slurm:12_3 not in Slurm's queue"),
    ],
)
def test_what_the_queue_knows_of_a_job_is_its_state(runs: Path, monkeypatch, jobs, state: str, note: str):
    monkeypatch.setattr(slurm_array, "_FRESH_S", -1.0)
    monkeypatch.setattr(slurm_array, "view", queue.View())
    monkeypatch.setattr(queue, "jobs", lambda: jobs)
    monkeypatch.setattr(queue, "final_state", lambda job_id: "")
    found = run_status(runs / "sent")
    assert (found.state, found.note) == (state, note)


def test_a_job_that_was_just_submitted_is_queued_though_the_queue_lags(runs: Path, monkeypatch):
    monkeypatch.setattr(slurm_array, "view", queue.View())
    monkeypatch.setattr(queue, "jobs", lambda: {})
    assert run_status(runs / "sent").state == "queued"


def test_a_local_run_whose_process_is_gone_is_lost(runs: Path):
    ledger.append(runs / "new", "submit", token="u", executor="local")
    ledger.append(runs / "new", "submitted", token="u", job_id=JobId("local", "1", "1.00"))
    assert run_status(runs / "new").state == "lost"
    ledger.append(runs / "sent", "submit", token="v", executor="local", launcher=JobId("local", "1", "1.00"))
    assert run_status(runs / "sent").state == "lost", "its launcher died while submitting"


def test_a_record_that_is_none_is_passed_over(runs: Path, capsys: pytest.CaptureFixture):
    (runs / "torn.grid.json").write_text('{"grid": "to')
    (runs / "odd.grid.json").write_text("[1]")
    assert status.main(["--runs", str(runs)]) == 0
    assert "some: 4 runs" in capsys.readouterr().out
