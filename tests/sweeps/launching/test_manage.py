import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dualformer.results.result import Result, read_result, write_result
from sweeps.launching import cancel, ledger, logs, retry
from sweeps.launching.find_runs import UnknownRunError, find_runs
from sweeps.launching.losses import CANCELLED

ROOT = Path(__file__).parents[3]
RUNS = {"aaa111": "ok", "aab222": "error", "ccc333": None}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of a finished, a failed and an unfinished run, in the working directory's `runs`."""
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    for name, state in RUNS.items():
        (runs / name).mkdir(parents=True)
        (runs / name / "config.json").write_text("{}")
        (runs / name / "log").write_text(f"log of {name}\n")
        if state:
            write_result(runs / name, Result(run_id=name, status=state, reason="bad luck"))
    listed = [{"run_id": name, "differs": {}} for name in RUNS]
    (runs / "some.grid.json").write_text(json.dumps({"grid": "some", "runs": listed}))
    return Path("runs")


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_runs_go_by_id_beginning_or_grid(runs: Path):
    assert find_runs(runs, ["c"]) == [runs / "ccc333"]
    assert find_runs(runs, ["ccc333", "some"]) == [runs / name for name in ("ccc333", "aaa111", "aab222")]
    assert len(find_runs(runs, ["some.yaml"])) == 3
    with pytest.raises(UnknownRunError, match="2 runs in 'runs' called 'aa'"):
        find_runs(runs, ["aa"])
    with pytest.raises(UnknownRunError, match="no run"):
        find_runs(runs, ["zzz"])


def test_logs(runs: Path, capsys: pytest.CaptureFixture):
    assert logs.main(["aaa"]) == 0
    assert capsys.readouterr().out == "log of aaa111\n"
    assert logs.main(["zzz"]) == 2


def test_logs_follow_to_the_end(runs: Path):
    command = [sys.executable, "-c", "from sweeps.launching.logs import main; main()", "ccc", "--follow"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "log of ccc333\n"
        with open(runs / "ccc333" / "log", "a") as log:
            log.write("more\n")
        assert process.stdout.readline() == "more\n"
        write_result(runs / "ccc333", Result(run_id="ccc333", status="ok"))
        assert process.wait(30) == 0


def test_cancel_keeps_a_waiting_run_from_starting_and_leaves_finished_ones(runs: Path):
    assert cancel.main(["some"]) == 0
    result = read_result(runs / "ccc333")
    assert (result.status, result.reason) == ("skipped", CANCELLED)
    assert read_result(runs / "aaa111").status == "ok" and read_result(runs / "aab222").status == "error"
    assert cancel.main(["nowhere"]) == 2


def test_cancel_ends_a_process_that_works(runs: Path, monkeypatch: pytest.MonkeyPatch):
    from slurm.local import LocalPool
    from slurm.profile import Profile
    from slurm.task import Task

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = (runs / "ccc333").resolve()
    task = Task(
        "sweeps.launching.attempt:attempt",
        (str(folder), "token", "tests.helpers.fake_workers:endless"),
        str(folder / "log"),
    )
    pool = LocalPool(runs / "jobs", Profile(), gpus=[])
    ledger.append(folder, "submit", token="token", executor="local")
    (job_id,) = pool.submit([task], "token", {})
    ledger.append(folder, "submitted", token="token", job_id=job_id)
    wait_until(lambda: (folder / "metrics.jsonl").exists())
    (pid,) = [event["pid"] for event in ledger.read(folder) if event["event"] == "start"]
    assert cancel.main(["ccc"]) == 0
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert read_result(folder).reason == CANCELLED
    assert pool.ended(job_id) is not None


def test_retry_puts_failures_aside_and_goes_on_with_the_last_launch(runs: Path, capsys: pytest.CaptureFixture):
    again = {"arguments": ["--grid", "missing.yaml"], "folder": str(runs.resolve()), "runs": list(RUNS)}
    record = json.loads((runs / "some.grid.json").read_text())
    (runs / "some.grid.json").write_text(json.dumps({**record, "launches": [again]}))
    assert retry.main(["some"]) == 0
    assert "1 of 3 runs will be computed again" in capsys.readouterr().out
    assert read_result(runs / "aab222") is None and (runs / "aab222" / "result.1.json").exists()
    log = runs / "some.launch.log"
    wait_until(lambda: "no grid 'missing.yaml'" in log.read_text())


def test_a_run_that_no_launch_has_is_left_as_it_is(runs: Path, capsys: pytest.CaptureFixture):
    assert retry.main(["some"]) == 0
    assert "aab222: no launch says how to compute it" in (told := capsys.readouterr().out) and "0 of 3" in told
    assert read_result(runs / "aab222").status == "error"


def test_looking_after_a_sweep_needs_no_torch(runs: Path):
    program = "import sys; from sweeps.launching.cancel import main; main(['ccc']); assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0
