import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from slurm.executors import DebugRunner, make_executor
from slurm.local import LocalPool, cpu_count, process_ended, process_id, visible_gpus
from slurm.profile import FOLDER, Profile, ProfileError, load_profile
from slurm.task import Task, resolve

TESTS = str(Path(__file__).parent)
NOTHING: dict = {}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", TESTS)


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def spans(folder: Path) -> list[dict]:
    return [json.loads(line) for path in folder.glob("*/span.jsonl") for line in path.read_text().splitlines()]


def tasks(folder: Path, target: str, count: int) -> list[Task]:
    made = []
    for number in range(count):
        (folder / f"{number}").mkdir(parents=True)
        made.append(Task(target, (str(folder / f"{number}"),), str(folder / f"{number}" / "log")))
    return made


def run_all(pool: LocalPool, waiting: list[Task]) -> list[str]:
    """Feeds the pool as a launcher does; returns how each job ended."""
    running, causes = [], []
    while waiting or running:
        room, waiting = waiting[: pool.capacity], waiting[pool.capacity :]
        running += pool.submit(room, "token", NOTHING)
        ended = {job_id: cause for job_id in running if (cause := pool.ended(job_id)) is not None}
        causes += ended.values()
        running = [job_id for job_id in running if job_id not in ended]
        time.sleep(0.05)
    return causes


def test_never_more_at_once_than_asked_and_cores_shared_out(tmp_path: Path):
    pool = LocalPool(tmp_path / "jobs", Profile(max_parallel=2), threads=3, gpus=[])
    assert run_all(pool, tasks(tmp_path / "runs", "tasks_for_executors:span", 4)) == [""] * 4
    found = spans(tmp_path / "runs")
    assert len(found) == 4
    for span in found:
        assert sum(other["start"] < span["end"] and span["start"] < other["end"] for other in found) <= 2
        assert span["OMP_NUM_THREADS"] == "3" and span["CUDA_VISIBLE_DEVICES"] == ""
    assert not list((tmp_path / "jobs").glob("*")), "submitit's files are gone with their jobs"


def test_one_task_for_each_gpu(tmp_path: Path):
    pool = LocalPool(tmp_path / "jobs", Profile(), gpus=["4", "GPU-b"])
    assert pool.capacity == 2
    run_all(pool, tasks(tmp_path / "runs", "tasks_for_executors:span", 3))
    assert {span["CUDA_VISIBLE_DEVICES"] for span in spans(tmp_path / "runs")} == {"4", "GPU-b"}


def test_cores_are_those_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert 1 <= cpu_count() <= len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cpu_count() == 1
        assert LocalPool(Path("unused"), Profile(), gpus=[]).capacity == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_gpus_are_those_the_user_left_visible(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("tasks_for_executors:die", "the process was killed"),
        ("tasks_for_executors:fail", "ValueError: no luck"),
        ("tasks_for_executors:missing", "no function 'tasks_for_executors:missing'"),
    ],
)
def test_how_a_task_ended(tmp_path: Path, target: str, cause: str):
    (ended,) = run_all(LocalPool(tmp_path / "jobs", Profile(), gpus=[]), tasks(tmp_path / "runs", target, 1))
    assert cause in ended
    assert target.endswith("missing") or (tmp_path / "runs/0/log").read_text().startswith("before the end")


def test_cancel_ends_the_process_and_frees_its_place(tmp_path: Path):
    pool = LocalPool(tmp_path / "jobs", Profile(max_parallel=1), gpus=[])
    (job_id,) = pool.submit(tasks(tmp_path / "runs", "tasks_for_executors:sleep", 1), "token", NOTHING)
    assert pool.capacity == 0 and pool.ended(job_id) is None
    pid_file = tmp_path / "runs/0/pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
    pool.cancel([job_id])
    assert pool.capacity == 1 and not psutil.pid_exists(int(pid_file.read_text()))


def test_ctrl_c_reaches_the_launcher_alone(tmp_path: Path):
    pool = LocalPool(tmp_path / "jobs", Profile(max_parallel=1), gpus=[])
    (job_id,) = pool.submit(tasks(tmp_path / "runs", "tasks_for_executors:sleep", 1), "token", NOTHING)
    pid_file = tmp_path / "runs/0/pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
    os.kill(int(pid_file.read_text()), signal.SIGINT)
    time.sleep(0.5)
    assert pool.ended(job_id) is None
    pool.cancel([job_id])


def test_a_time_limit_starts_the_task_again_and_counts(tmp_path: Path):
    profile = Profile(time_min=1, signal_delay_s=58, max_timeouts=0)
    pool = LocalPool(tmp_path / "jobs", profile, gpus=[])
    (ended,) = run_all(pool, tasks(tmp_path / "runs", "tasks_for_executors:sleep", 1))
    assert "timed-out too many times" in ended


def test_processes_are_told_apart_by_more_than_their_number():
    here = process_id(os.getpid())
    assert process_ended(here) is None
    assert process_ended(here.rpartition(":")[0] + ":1.00") == "the process is gone"


def test_debug_runs_in_this_process(tmp_path: Path):
    runner = DebugRunner(tmp_path)
    (tmp_path / "run").mkdir()
    (job_id,) = runner.submit([Task("fake_workers:ok", (tmp_path / "run",))], "token", NOTHING)
    assert runner.ended(job_id) == ""
    assert json.loads((tmp_path / "run/computed.jsonl").read_text())["pid"] == os.getpid()
    (job_id,) = runner.submit([Task("tasks_for_executors:fail", (str(tmp_path),))], "token", NOTHING)
    assert runner.ended(job_id) == "ValueError: no luck"


def test_auto_is_local_where_there_is_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert make_executor("auto", tmp_path, Profile()).kind == "local"
    with pytest.raises(ProfileError, match="sbatch doesn't answer"):
        make_executor("slurm", tmp_path, Profile())


def test_resolve_names_what_is_missing():
    assert resolve("slurm.task:resolve") is resolve
    with pytest.raises(ValueError, match=r"no function 'slurm\.task:nothing'"):
        resolve("slurm.task:nothing")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_example_profiles_are_right(path: Path):
    assert load_profile(path.stem) == load_profile(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin: gpu", "unknown field 'partitoin'; did you mean 'partition'"),
        ("nodes: two", "nodes: .*integer.*'two'"),
        ("nodes: 0", "nodes: .*greater than 0"),
        ("time_min: 1", "signal_delay_s.*must be shorter than time_min"),
        ("nodes: [", "not valid YAML"),
    ],
)
def test_a_wrong_profile_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ProfileError, match=f"(?s){message}"):
        load_profile(tmp_path / "mine.yaml")


def test_an_unknown_profile_lists_those_there_are():
    with pytest.raises(ProfileError, match="no profile 'nowhere'"):
        load_profile("nowhere")
