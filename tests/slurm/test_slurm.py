"""Sweeps on a real Slurm: a private cluster of three nodes that `slurm/cluster.sh` starts on this machine.

Skipped where Slurm isn't installed or this isn't root; with DUALFORMER_REQUIRE_SLURM=1 that is a failure instead.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from dualformer.results.files import read_lines
from dualformer.results.result import Result, read_result
from slurm import queue
from sweeps.launching import launcher, ledger, status
from sweeps.launching.grid import load_grid
from tests.helpers.small_run import MODEL, write_bright_and_dark
from tests.sweeps.launching.test_isolation import checkout, launch_and_edit

__all__ = ["checkout"]  # the fixture

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "slurm" / "cluster.sh"
GRID = "base: {model: {name: dualformer_tiny, num_frames: 4, crop_size: 16}}\naxes: {seed: [0, 1, 2, 3]}\n"
PROFILE = "partition: normal\nmem_gib: 1\ntime_min: 5\nsignal_delay_s: 30\nmax_attempts: 2\n"


def why_not() -> str:
    """Why there can be no private cluster here, "" where there can."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [
        program for program in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(program, path=path)
    ]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} not found)"
    return "" if os.getuid() == 0 else "slurmd needs root"


def free_ports(count: int) -> int:
    """The first of some ports in a row that nobody listens on."""
    for first in range(17600, 30000, count):
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", first))
                other.bind(("127.0.0.1", first + 1))
            except OSError:
                continue
            return first
    raise RuntimeError("no free ports")


def short_folder() -> Path:
    """A folder of the cluster's own, of a short path wherever temporary files are: Slurm makes sockets in it."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if len(parent) <= 40 and os.access(parent, os.W_OK):
            return Path(tempfile.mkdtemp(prefix="slurm-", dir=parent))
    raise RuntimeError("no folder of a short path to put a cluster in")


class Cluster:
    """The private cluster, and what may befall it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._environment = {**os.environ, "CLUSTER_DIR": str(folder), "PORT": str(free_ports(20)), **settings}
        self.conf = folder / "slurm.conf"

    def do(self, *command: str) -> None:
        done = subprocess.run(["bash", str(SCRIPT), *command], env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason = why_not()
    if reason and os.environ.get("DUALFORMER_REQUIRE_SLURM") == "1":
        pytest.fail(f"{reason}, and DUALFORMER_REQUIRE_SLURM=1")
    if reason:
        pytest.skip(reason)
    cluster = Cluster(short_folder())
    try:
        cluster.do("up")
        yield cluster
    finally:
        cluster.do("down")
        shutil.rmtree(cluster.conf.parent, ignore_errors=True)


@pytest.fixture
def folder(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a grid of four runs and a profile of the cluster; jobs a test leaves behind are cancelled."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    Path("four.yaml").write_text(GRID)
    Path("profile.yaml").write_text(PROFILE)
    yield tmp_path
    queue.cancel([job_id for job_id, job in (queue.jobs() or {}).items() if not job.ended])


def run(worker: str, *flags: str) -> int:
    arguments = ["--grid", "four.yaml", "--profile", "profile.yaml", *flags]
    return launcher.main(arguments, worker=f"tests.helpers.fake_workers:{worker}")


def run_dirs() -> list[Path]:
    return [Path("runs", run.run_id) for run in load_grid("four.yaml").runs]


def results() -> list[Result | None]:
    return [read_result(run_dir) for run_dir in run_dirs()]


def computed() -> list[int]:
    return [len(read_lines(run_dir / "computed.jsonl")) for run_dir in run_dirs()]


def job_id(run_dir: Path) -> str:
    """The Slurm job of a run that is under way."""
    return ledger.open_submission(ledger.read(run_dir)).job_id.native


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


class Meanwhile:
    """Something that happens to the cluster while a sweep is followed."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(action,))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        if self._error:
            raise self._error

    def _run(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:
            self._error = error


def test_a_sweep_goes_to_slurm_by_itself_and_comes_back(folder: Path, capsys: pytest.CaptureFixture):
    assert run("ok") == 0
    assert computed() == [1, 1, 1, 1]
    assert "slurm executor" in capsys.readouterr().out
    ids = {event["job_id"] for run_dir in run_dirs() for event in ledger.read(run_dir) if "job_id" in event}
    assert len({name.partition("_")[0] for name in ids}) == 1, "one array"
    assert run("ok") == 0
    assert computed() == [1, 1, 1, 1]


def test_arrays_are_cut_and_fed_as_the_cluster_allows(folder: Path):
    Path("profile.yaml").write_text(PROFILE + "max_array_size: 2\nmax_submitted: 3\n")
    assert run("ok") == 0
    assert computed() == [1, 1, 1, 1]
    tokens = [event["token"] for run_dir in run_dirs() for event in ledger.read(run_dir) if event["event"] == "submit"]
    assert max(tokens.count(token) for token in tokens) == 2


def test_no_wait_returns_and_a_later_launch_follows(folder: Path, capsys: pytest.CaptureFixture):
    run("slow", "--no-wait")
    assert all(job_id(run_dir) for run_dir in run_dirs())
    status.main([])
    assert "queued" in capsys.readouterr().out
    assert run("slow") == 0
    assert computed() == [1, 1, 1, 1]


def test_two_launchers_at_once(folder: Path):
    program = "import sys; from sweeps.launching.launcher import main; "
    program += "sys.exit(main(sys.argv[1:], worker='tests.helpers.fake_workers:slow'))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, "--grid", "four.yaml", "--profile", "profile.yaml"]
    other = subprocess.Popen(command, env=environment)
    assert run("slow") == 0
    assert other.wait(60) == 0
    assert computed() == [1, 1, 1, 1]


def test_killed_by_the_system_is_a_row_with_the_last_words(folder: Path):
    assert run("killed", "--only", "seed=0") == 1
    result = results()[0]
    assert result.status == "error"
    assert "last words" in result.reason and "Killed" in result.reason and "attempt 2" in result.reason


def test_out_of_memory_is_its_own_status(folder: Path):
    assert run("greedy", "--only", "seed=0") == 1
    assert results()[0].status == "oom", results()[0].reason


def test_cancelled_by_hand_is_a_row_and_not_tried_again(folder: Path):
    def cancel() -> None:
        wait_until(lambda: (run_dirs()[0] / "metrics.jsonl").exists())
        queue.cancel([job_id(run_dirs()[0])])

    with Meanwhile(cancel):
        assert run("endless", "--only", "seed=0") == 1
    assert results()[0].status == "skipped" and "CANCELLED" in results()[0].reason
    assert [event["event"] for event in ledger.read(run_dirs()[0])].count("submit") == 1


def test_preemption_queues_the_run_again_and_it_carries_on(folder: Path):
    def warn() -> None:
        wait_until(lambda: (run_dirs()[0] / "warned").exists())
        subprocess.run(["scancel", "--signal=USR2", job_id(run_dirs()[0])], check=True)

    with Meanwhile(warn):
        assert run("preempted_once", "--only", "seed=0") == 0
    assert computed()[0] == 1
    assert [event["event"] for event in ledger.read(run_dirs()[0])].count("start") == 2


def test_requeue_by_the_scheduler(folder: Path):
    def requeue() -> None:
        wait_until(lambda: (run_dirs()[0] / "warned").exists())
        subprocess.run(["scontrol", "requeue", job_id(run_dirs()[0])], check=True)

    with Meanwhile(requeue):
        assert run("preempted_once", "--only", "seed=0") == 0
    assert computed()[0] == 1


def test_a_scheduler_that_is_away_is_not_the_end(folder: Path, cluster: Cluster):
    def restart() -> None:
        wait_until(lambda: any((run_dir / "metrics.jsonl").exists() for run_dir in run_dirs()))
        cluster.do("stop", "slurmctld")
        time.sleep(3)
        cluster.do("start", "slurmctld")

    with Meanwhile(restart):
        assert run("slow") == 0
    assert computed() == [1, 1, 1, 1]


def test_a_profile_the_cluster_refuses_starts_nothing(folder: Path, capsys: pytest.CaptureFixture):
    Path("profile.yaml").write_text("partition: nowhere\n")
    assert run("ok") == 2
    assert "invalid partition" in capsys.readouterr().err.lower()
    assert results() == [None] * 4
    Path("profile.yaml").write_text(PROFILE)
    assert run("ok") == 0


def test_each_run_gets_the_resources_it_asks_for(folder: Path):
    Path("four.yaml").write_text(GRID + "rows: [{seed: 9, resources.nodes: 2}]\n")
    run("slow", "--no-wait", "--only", "seed=0", "seed=9")
    nodes = subprocess.run(["squeue", "-h", "-o", "%D"], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(nodes) == ["1", "2"]


def test_two_nodes_reach_the_weights_of_one_process(folder: Path):
    write_bright_and_dark(Path("data"))
    train = {"steps": 10, "batch_size": 8, "warmup_steps": 2, "log_every": 5, "save_every": 5}
    # What is dropped at random depends on the shape of a process' share, so nothing is.
    model = {**MODEL, "overrides": {**MODEL["overrides"], "drop_path_rate": 0.0}}
    base = {"model": model, "data": {"root": "data"}, "train": train, "measure": {"latency": False}}
    Path("four.yaml").write_text(yaml.safe_dump({"base": base}))
    (run_dir,) = run_dirs()
    weights = []
    for nodes in (1, 2):
        assert run("trained", "--set", f"resources.nodes={nodes}") == 0, read_result(run_dir)
        saved = torch.load(run_dir / "kept.pt", weights_only=True)
        weights.append(saved["model"])
        assert json.loads((run_dir / "provenance.json").read_text())["num_processes"] == nodes
        shutil.rmtree(run_dir)
    one, two = weights
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)


def test_the_cluster_computes_what_was_launched_while_the_checkout_is_edited(folder: Path, checkout: Path):
    (checkout / "two.yaml").write_text(PROFILE + "max_parallel: 1\n")
    status, output = launch_and_edit(checkout, "--executor", "slurm")
    assert status == 0, output
    assert len(list(checkout.glob("runs/*/result.json"))) == 3


def test_a_launch_from_within_a_job_is_like_any_other(folder: Path):
    """That job's own memory, tasks and array are no part of what its jobs ask for."""
    program = "import sys; from sweeps.launching.launcher import main; "
    program += "sys.exit(main(sys.argv[1:], worker='tests.helpers.fake_workers:ok'))"
    flags = ["--grid", "four.yaml", "--profile", "profile.yaml", "--executor", "slurm", "--only", "seed=0", "seed=1"]
    line = shlex.join([sys.executable, "-c", program, *flags])
    Path("job.sh").write_text(f"#!/bin/bash\nexport PYTHONPATH={ROOT}\n{line}\n")
    flags = ["-W", "--mem-per-cpu=500", "-n", "2", "--array=0-0", "--time=10", "--output=job.log"]
    done = subprocess.run(["sbatch", *flags, "job.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + Path("job.log").read_text()
    assert computed()[:2] == [1, 1]


def test_a_pending_element_that_is_cancelled_is_not_computed(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(queue, "_FORGOTTEN_AFTER_S", 3.0)
    Path("profile.yaml").write_text(PROFILE + "max_parallel: 1\n")
    ordered: list[str] = []

    def cancel() -> None:
        wait_until(lambda: all(ledger.open_submission(ledger.read(run_dir)) for run_dir in run_dirs()))
        wait_until(lambda: all(ledger.open_submission(ledger.read(run_dir)).job_id for run_dir in run_dirs()[3:]))
        ordered.append(job_id(run_dirs()[3]))
        queue.cancel(ordered)

    with Meanwhile(cancel):
        assert run("slow") == 1
    *others, last = results()
    assert [result.status for result in others] == ["ok"] * 3
    assert last.status == "skipped" and "CANCELLED" in last.reason
    assert computed() == [1, 1, 1, 0]


def test_a_user_without_a_name_can_ask_the_queue(folder: Path):
    """As in containers, whose users have a number alone."""
    program = "from slurm import queue; print(queue.jobs())"
    environment = {"PATH": os.environ["PATH"], "SLURM_CONF": os.environ["SLURM_CONF"], "PYTHONPATH": str(ROOT)}
    command = [shutil.which("setpriv"), "--reuid=54321", "--clear-groups", sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")
    if "Permission denied" in done.stderr:
        pytest.skip("the interpreter is not for everybody here")
    assert done.stdout == "{}\n", done.stderr
