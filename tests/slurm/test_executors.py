import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from slurm.debug import DebugExecutor
from slurm.local import LocalPool
from slurm.places import make_executor
from slurm.processes import cpu_count, process_ended, process_id, visible_gpus
from slurm.profile import FOLDER, Profile, ProfileError, load_profile
from slurm.task import Task, resolve

ROOT = Path(__file__).parents[2]
NOTHING: dict = {}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process computes; one that has ended may still be listed."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def spans(folder: Path) -> list[dict]:
    return [json.loads(line) for path in folder.glob("*/span.jsonl") for line in path.read_text().splitlines()]


def tasks(folder: Path, target: str, count: int) -> list[Task]:
    made = []
    for number in range(count):
        (folder / f"{number}").mkdir(parents=True)
        made.append(Task(target, (str(folder / f"{number}"),), str(folder / f"{number}" / "log")))
    return made


def run_all(pool: LocalPool, waiting: list[Task], resources: dict = NOTHING) -> list[str]:
    """Feeds the pool as a launcher does; returns how each job ended."""
    running, causes = [], []
    while waiting or running:
        capacity = pool.capacity(resources)
        room, waiting = waiting[:capacity], waiting[capacity:]
        running += pool.submit(room, "token", resources)
        ended = {job_id: cause for job_id in running if (cause := pool.ended(job_id)) is not None}
        causes += ended.values()
        running = [job_id for job_id in running if job_id not in ended]
        time.sleep(0.05)
    return causes


def test_never_more_at_once_than_asked_and_cores_shared_out(tmp_path: Path):
    pool = LocalPool(tmp_path / "jobs", Profile(max_parallel=2), threads=3, gpus=[])
    assert run_all(pool, tasks(tmp_path / "runs", "tests.helpers.tasks_for_executors:span", 4)) == [""] * 4
    found = spans(tmp_path / "runs")
    assert len(found) == 4
    for span in found:
        assert sum(other["start"] < span["end"] and span["start"] < other["end"] for other in found) <= 2
        assert span["OMP_NUM_THREADS"] == "3" and span["CUDA_VISIBLE_DEVICES"] == ""
    assert not list((tmp_path / "jobs").glob("*")), "submitit's files are gone with their jobs"


def test_one_task_for_each_gpu(tmp_path: Path):
    pool = LocalPool(tmp_path / "jobs", Profile(), gpus=["4", "GPU-b"])
    assert pool.capacity(NOTHING) == 2
    run_all(pool, tasks(tmp_path / "runs", "tests.helpers.tasks_for_executors:span", 5))
    found = spans(tmp_path / "runs")
    assert {span["CUDA_VISIBLE_DEVICES"] for span in found} == {"4", "GPU-b"}
    for span in found:
        beside = [other for other in found if other["start"] < span["end"] and span["start"] < other["end"]]
        assert len({other["CUDA_VISIBLE_DEVICES"] for other in beside}) == len(beside), "no GPU is given twice"


def test_a_task_of_several_gpus_has_them_alone_and_runs_as_so_many_processes(tmp_path: Path):
    pool = LocalPool(tmp_path / "jobs", Profile(), gpus=["4", "5", "6", "7", "8"])
    two = {"gpus_per_node": 2}
    assert pool.capacity(two) == 2
    assert run_all(pool, tasks(tmp_path / "runs", "tests.helpers.tasks_for_executors:place", 2), two) == [""] * 2
    devices = []
    for number in range(2):
        places = [json.loads(path.read_text()) for path in sorted((tmp_path / f"runs/{number}").glob("place-*.json"))]
        assert [place["RANK"] for place in places] == [place["LOCAL_RANK"] for place in places] == ["0", "1"]
        assert [place["leads"] for place in places] == [True, False]
        assert {place["WORLD_SIZE"] for place in places} == {place["LOCAL_WORLD_SIZE"] for place in places} == {"2"}
        assert {place["MASTER_ADDR"] for place in places} == {"127.0.0.1"}
        assert len({place["MASTER_PORT"] for place in places}) == 1
        devices.append({place["CUDA_VISIBLE_DEVICES"] for place in places}.pop())
        assert [place["sum"] for place in places] == [3.0, 3.0], "they found each other"
    assert set(devices) == {"4,5", "6,7"}


def test_what_needs_much_is_not_kept_waiting_by_what_needs_little(tmp_path: Path):
    pool = LocalPool(tmp_path / "jobs", Profile(), gpus=["0", "1", "2"])
    small = pool.submit(tasks(tmp_path / "small", "tests.helpers.tasks_for_executors:sleep", 2), "token", NOTHING)
    assert pool.capacity({"gpus_per_node": 2}) == 0 and pool.capacity(NOTHING) == 1
    pool.cancel(small)
    assert pool.capacity({"gpus_per_node": 2}) == 1 and pool.capacity({"gpus_per_node": 3}) == 1


def test_gpus_of_a_launcher_that_died_stay_taken(tmp_path: Path):
    first = LocalPool(tmp_path / "jobs", Profile(), gpus=["0", "1", "2"])
    (kept,) = first.submit(
        tasks(tmp_path / "first", "tests.helpers.tasks_for_executors:sleep", 1), "token", {"gpus_per_node": 2}
    )
    second = LocalPool(tmp_path / "jobs", Profile(), gpus=["0", "1", "2"])
    try:
        assert second.capacity(NOTHING, [kept]) == 1 and second.capacity({"gpus_per_node": 2}, [kept]) == 0
        (job_id,) = second.submit(
            tasks(tmp_path / "second", "tests.helpers.tasks_for_executors:span", 1), "token", NOTHING
        )
        wait_until(lambda: second.ended(job_id) is not None)
        assert [span["CUDA_VISIBLE_DEVICES"] for span in spans(tmp_path / "second")] == ["2"]
    finally:
        first.cancel([kept])
    assert second.capacity({"gpus_per_node": 3}, [kept]) == 1


def test_a_process_that_dies_ends_the_others_of_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("slurm.local._STRAGGLERS_S", 0.5)
    pool = LocalPool(tmp_path / "jobs", Profile(tasks_per_node=2), gpus=[])
    (ended,) = run_all(pool, tasks(tmp_path / "runs", "tests.helpers.tasks_for_executors:die_unless_leader", 1))
    assert "was killed" in ended
    wait_until(lambda: not is_alive(int((tmp_path / "runs/0/pid").read_text())))


@pytest.mark.parametrize(
    ("resources", "gpus", "reason"),
    [
        ({"gpus_per_node": 4}, ["0", "1"], "asks for 4 GPUs, and this machine has 2"),
        ({"gpus_per_node": 2}, [], "asks for 2 GPUs, and this machine has 0"),
        ({"nodes": 2}, ["0"], "asks for 2 nodes, and this is one machine"),
        ({"gpus_per_node": 2}, ["0", "1"], ""),
        ({"gpus_per_node": 1, "nodes": None}, [], ""),
    ],
)
def test_what_can_never_run_here_is_told(tmp_path: Path, resources: dict, gpus: list[str], reason: str):
    told = LocalPool(tmp_path, Profile(), gpus=gpus).why_never(resources)
    assert reason in told and bool(told) == bool(reason)


def test_cores_are_those_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert 1 <= cpu_count() <= len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cpu_count() == 1
        assert LocalPool(Path("unused"), Profile(), gpus=[]).capacity(NOTHING) == 1
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
        ("tests.helpers.tasks_for_executors:die", "the process was killed"),
        ("tests.helpers.tasks_for_executors:fail", "ValueError: no luck"),
        ("tests.helpers.tasks_for_executors:missing", "no function 'tests.helpers.tasks_for_executors:missing'"),
    ],
)
def test_how_a_task_ended(tmp_path: Path, target: str, cause: str):
    (ended,) = run_all(LocalPool(tmp_path / "jobs", Profile(), gpus=[]), tasks(tmp_path / "runs", target, 1))
    assert cause in ended
    assert target.endswith("missing") or (tmp_path / "runs/0/log").read_text().startswith("before the end")


def test_cancel_ends_the_process_and_frees_its_place(tmp_path: Path):
    pool = LocalPool(tmp_path / "jobs", Profile(max_parallel=1), gpus=[])
    (job_id,) = pool.submit(tasks(tmp_path / "runs", "tests.helpers.tasks_for_executors:sleep", 1), "token", NOTHING)
    assert pool.capacity(NOTHING) == 0 and pool.ended(job_id) is None
    pid_file = tmp_path / "runs/0/pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
    pool.cancel([job_id])
    assert pool.capacity(NOTHING) == 1 and not psutil.pid_exists(int(pid_file.read_text()))


def test_ctrl_c_reaches_the_launcher_alone(tmp_path: Path):
    pool = LocalPool(tmp_path / "jobs", Profile(max_parallel=1), gpus=[])
    (job_id,) = pool.submit(tasks(tmp_path / "runs", "tests.helpers.tasks_for_executors:sleep", 1), "token", NOTHING)
    pid_file = tmp_path / "runs/0/pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
    os.kill(int(pid_file.read_text()), signal.SIGINT)
    time.sleep(0.5)
    assert pool.ended(job_id) is None
    pool.cancel([job_id])


def test_a_time_limit_starts_the_task_again_and_counts(tmp_path: Path):
    profile = Profile(time_min=1, signal_delay_s=58, max_timeouts=0)
    pool = LocalPool(tmp_path / "jobs", profile, gpus=[])
    (ended,) = run_all(pool, tasks(tmp_path / "runs", "tests.helpers.tasks_for_executors:sleep", 1))
    assert "timed-out too many times" in ended


def test_processes_are_told_apart_by_more_than_their_number():
    here = process_id(os.getpid())
    assert process_ended(here) is None
    assert process_ended(dataclasses.replace(here, started="1.00")) == "the process is gone"


def test_debug_runs_in_this_process(tmp_path: Path):
    runner = DebugExecutor(tmp_path)
    (tmp_path / "run").mkdir()
    (job_id,) = runner.submit([Task("tests.helpers.fake_workers:ok", (tmp_path / "run",))], "token", NOTHING)
    assert runner.ended(job_id) == ""
    assert json.loads((tmp_path / "run/computed.jsonl").read_text())["pid"] == os.getpid()
    (job_id,) = runner.submit([Task("tests.helpers.tasks_for_executors:fail", (str(tmp_path),))], "token", NOTHING)
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
        ("nodes: 1\nnodes: 2", "'nodes' is given twice"),
        ("time_min: 2h", "'2h' is no time"),
        ("mem_gib: .inf", "mem_gib"),
        ("max_parallel: 1000000000", "max_parallel"),
        ("environment: [SLURM_JOB_ID]", "SLURM_JOB_ID says which part"),
        ("sbatch: {job-name: mine}", "job-name is set by the launcher"),
        ("sbatch: {array: 0-3}", "array is set by the launcher"),
        ("- partition: gpu", "a profile is a mapping"),
        ("3: x", "not text"),
    ],
)
def test_a_wrong_profile_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ProfileError, match=f"(?s){message}"):
        load_profile(tmp_path / "mine.yaml")


def test_a_profile_means_what_it_looks_like(tmp_path: Path):
    text = "time_min: 2:00:00\nmem_gib: 1e2\nsbatch: {time: 1:30:00, mem: 010, begin: no}\n"
    (tmp_path / "mine.yaml").write_text(text)
    profile = load_profile(tmp_path / "mine.yaml")
    assert (profile.time_min, profile.mem_gib) == (120, 100.0)
    assert profile.sbatch == {"time": "1:30:00", "mem": 10, "begin": "no"}
    (tmp_path / "mine.yaml").write_text("time_min: 1-00:00:00")
    assert load_profile(tmp_path / "mine.yaml").time_min == 1440


def test_a_latin_1_profile_is_refused(tmp_path: Path):
    (tmp_path / "mine.yaml").write_bytes("account: caf\u00e9".encode("latin-1"))
    with pytest.raises(ProfileError, match="not UTF-8"):
        load_profile(tmp_path / "mine.yaml")


def test_an_unknown_profile_lists_those_there_are():
    with pytest.raises(ProfileError, match="no profile 'nowhere'"):
        load_profile("nowhere")


def test_what_is_changed_for_a_run_is_checked_like_a_profile():
    assert Profile(signal_delay_s=30).changed(time_min=1, nodes=None).time_min == 1
    with pytest.raises(ProfileError, match="must be shorter than time_min"):
        Profile().changed(time_min=1)


def test_a_task_sees_nothing_of_a_job_that_its_launcher_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "RANK", "WORLD_SIZE", "MASTER_ADDR", "SBATCH_X", "SITE_SECRET"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("SITE_WANTED", "yes")
    pool = LocalPool(tmp_path / "jobs", Profile(environment=("SITE_W*",)), gpus=[])
    assert run_all(pool, tasks(tmp_path / "runs", "tests.helpers.tasks_for_executors:see", 1)) == [""]
    seen = json.loads((tmp_path / "runs/0/seen.json").read_text())
    assert (
        not {"SLURM_JOB_ID", "SLURM_NTASKS", "RANK", "WORLD_SIZE", "MASTER_ADDR", "SBATCH_X", "SITE_SECRET"}
        & seen.keys()
    )
    assert seen["SITE_WANTED"] == "yes" and seen["PYTHONSAFEPATH"] == "1"
