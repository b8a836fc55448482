"""A sweep on a private Slurm cluster while everything that can happen to it does, against one that is left in peace.

    python tests/fault_campaign.py                          # 40 runs, some 10 minutes on two cores
    python tests/fault_campaign.py --runs 5 --faults 0      # each kind of fault once

Every run trains a small network on real video files with a checkpoint every few steps. While launchers work on the
sweep, faults of all kinds come in random order: jobs are queued again, preempted, warned and cancelled by signal;
workers and launchers are killed; a second launcher joins, a second process starts on a run; nodes, slurmd and
slurmctld go away and come back; nodes can't launch what they are given; the disk fills up; checkpoints and results are
torn; run folders are removed; jobs that wait are cancelled; a launch comes from within a job; the code is edited, while
runs start and while they wait. In the end it must hold that

* every kind of fault came about,
* every run is there and ok, and was computed to its end once (once more for every result that was torn, and for every
  removal of its folder),
* no process worked on a run whose claim another one held,
* steps never went back by more than a save interval (two where a checkpoint was torn, and one more for each that a full
  disk did not take),
* all that doesn't depend on time equals the undisturbed sweep, bit for bit,
* every process ran the code that was launched.

How long it takes depends on the machine, so it fails when nothing has come forward for some minutes, not by the clock.
Needs what `slurm/cluster.sh` needs. Exit status: 0 all held, 1 something did not.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import argparse
import dataclasses
import itertools
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import yaml

from dualformer.results.files import read_lines
from dualformer.results.layout import SNAPSHOTS
from dualformer.results.result import read_result
from slurm import queue
from sweeps.launching import ledger
from sweeps.source import PACKAGES, ROOT, code_hash
from tests.helpers.small_run import MODEL, write_bright_and_dark
from tests.slurm.test_slurm import free_ports

SAVE_EVERY = 10
STEPS = 120
LAUNCH = ("code/sweeps/launch.py", "--grid", "campaign.yaml")
TIMED = ("train_clips_per_s", "data_wait_share")
"""Fields of a result that depend on time."""

_DISK_MB = 300
_PAUSE_S = 1.0
_OCCASION_S = 20.0


@dataclasses.dataclass
class Campaign:
    """One sweep under fire.

    Attributes:
        folder: with `data`, `code` (a copy of the project), the grid, and a `runs` folder on a small disk of its own.
        cluster: environment of `slurm/cluster.sh`, whose folder is a short path, since sockets lie in it.
        faults: how often each kind happened.
        torn_results: runs whose result was torn after they had finished.
        torn_checkpoints: runs that lost a checkpoint.
        removed: runs that lost their folder.
        unclaimed: runs that a process was at while another one held the claim.
        crashes: how often slurmctld was gone without our doing. Version 22.05.8 crashes at times when a job that was
            requeued off a dead node reports in.
    """

    folder: Path
    cluster: dict[str, str]
    random: random.Random
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    torn_results: Counter[str] = dataclasses.field(default_factory=Counter)
    torn_checkpoints: Counter[str] = dataclasses.field(default_factory=Counter)
    removed: Counter[str] = dataclasses.field(default_factory=Counter)
    crashes: int = 0
    launchers: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)
    doubles: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)
    suspects: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    unclaimed: set[str] = dataclasses.field(default_factory=set)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def run_dirs(self) -> list[Path]:
        manifest = self.runs / "campaign.grid.json"
        rows = json.loads(manifest.read_text())["runs"] if manifest.exists() else []
        return [self.runs / row["run_id"] for row in rows]

    def working(self) -> Iterator[tuple[Path, int]]:
        """Runs that a process is at, and its number."""
        for run_dir in self.run_dirs():
            starts = [event["pid"] for event in ledger.read(run_dir) if event["event"] == "start"]
            if starts and ledger.is_claimed(run_dir):
                yield run_dir, starts[-1]

    def launch(self) -> None:
        """Starts a launcher as a user would."""
        command = self._launch_command()
        with open(self._log(len(self.launchers)), "wb") as log:
            process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        self.launchers.append(process)

    def _launch_command(self) -> list[str]:
        """As a user types it who wants those that were cancelled after all."""
        return [sys.executable, *LAUNCH, "--profile", "profile.yaml", "--executor", "slurm", "--retry", "skipped"]

    def _log(self, number: int) -> Path:
        return self.folder / f"launch-{number}.log"

    def launcher_starting(self) -> bool:
        """Whether a launcher may still be about to copy the code, which it tells when it has."""
        alive = (number for number, process in enumerate(self.launchers) if process.poll() is None)
        return any("slurm executor" not in self._log(number).read_text() for number in alive)

    def launcher_alive(self) -> bool:
        return any(process.poll() is None for process in self.launchers)

    def quiet(self) -> bool:
        """Whether no process that could still change a run is left."""
        return not self.launcher_alive() and all(process.poll() is not None for process in self.doubles)

    def watch(self) -> None:
        """Notes runs that a process computes without the claim, if it still does so at the next look."""
        found = {}
        for run_dir in self.run_dirs():
            starts = [event["pid"] for event in ledger.read(run_dir) if event["event"] == "start"]
            holder = claim_holder(run_dir)
            if starts and holder not in (None, starts[-1]) and is_alive(starts[-1]):
                found[run_dir.name] = (starts[-1], holder)
        self.unclaimed |= {name for name, pair in found.items() if self.suspects.get(name) == pair}
        self.suspects = found

    def look_after(self) -> None:
        """What a user and a service manager do: starts a launcher where none is left, and daemons that crashed."""
        if not self.launcher_alive():
            self.launch()
        if subprocess.run(["scontrol", "ping"], capture_output=True).returncode:
            self.crashes += 1
            self._daemon("start", "slurmctld")

    def done(self) -> bool:
        run_dirs = self.run_dirs()
        results = [read_result(run_dir) for run_dir in run_dirs]
        return bool(results) and all(result and result.status != "skipped" for result in results)

    # Faults. Each returns whether there was an occasion for it.

    def requeue_job(self) -> bool:
        return self._to_a_running_job("scontrol", "requeue")

    def warn_job(self) -> bool:
        return self._to_a_running_job("scancel", "--signal=USR2")

    def preempt(self) -> bool:
        """A more important job needs a whole node for a moment."""
        if not self._running_jobs():
            return False
        command = ["sbatch", "-p", "urgent", "-N1", "--exclusive", "-t", "1", "-o", "/dev/null", "--wrap", "sleep 2"]
        return subprocess.run(command, capture_output=True).returncode == 0

    def kill_worker(self) -> bool:
        return self._kill_one() is not None

    def start_twice(self) -> bool:
        """A second process starts on a run that is under way, as where a node that was given up computes on."""
        working = [run_dir for run_dir, _ in self.working()]
        code = next((self.runs / SNAPSHOTS).glob("[0-9a-f]*"), None)
        if not working or code is None:
            return False
        run_dir = self.random.choice(working)
        program = (
            f"from sweeps.launching.attempt import attempt; attempt({str(run_dir)!r}, 'double', code={code.name!r})"
        )
        environment = {**os.environ, "PYTHONPATH": str(code)}
        with open(self.folder / f"double-{len(self.doubles)}.log", "wb") as log:
            command = [sys.executable, "-c", program]
            double = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self.doubles.append(double)
        return True

    def tear_checkpoint(self) -> bool:
        """A worker dies, and its last checkpoint isn't what was written."""
        candidates = [run_dir for run_dir, _ in self.working() if len(self._checkpoints(run_dir)) > 1]
        run_dir = self._kill_one(candidates)
        checkpoints = self._checkpoints(run_dir) if run_dir else []
        if not checkpoints:
            return False
        os.truncate(checkpoints[-1], checkpoints[-1].stat().st_size // 2)
        self.torn_checkpoints[run_dir.name] += 1
        return True

    def kill_launcher(self) -> bool:
        for process in self.launchers:
            if process.poll() is None:
                process.kill()
                process.wait()
                return True
        return False

    def second_launcher(self) -> bool:
        self.launch()
        return True

    def node_down(self) -> bool:
        node = self._node()
        self._scontrol("update", f"nodename={node}", "state=down", "reason=campaign")
        self._daemon("stop", node)
        time.sleep(3)
        self._daemon("start", node)
        self._scontrol("update", f"nodename={node}", "state=resume")
        return True

    def restart_slurmd(self) -> bool:
        node = self._node()
        self._daemon("stop", node)
        self._daemon("start", node)
        return True

    def break_node(self) -> bool:
        """The nodes can't start what they are given, which Slurm then puts aside."""
        marker = broken_marker(self.cluster)
        marker.touch()
        try:
            occasion = self.requeue_job() and self._within(_OCCASION_S, self._any_held)
        finally:
            marker.unlink()
        for node in self._nodes():  # Slurm takes such nodes out of service
            self._scontrol("update", f"nodename={node}", "state=resume")
        return occasion

    def restart_slurmctld(self) -> bool:
        self._daemon("stop", "slurmctld")
        time.sleep(3)
        self._daemon("start", "slurmctld")
        return True

    def fill_disk(self) -> bool:
        """The disk of the runs is full for some seconds."""
        filler = self.runs / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.tell() < 4 * _DISK_MB << 20:
                    file.write(bytes(1 << 20))
            except OSError:
                pass
            else:
                filler.unlink()
                return False
        time.sleep(4)
        filler.unlink()
        return True

    def tear_result(self) -> bool:
        finished = [run_dir for run_dir in self.run_dirs() if read_result(run_dir) and not ledger.is_claimed(run_dir)]
        if not finished:
            return False
        run_dir = self.random.choice(finished)
        os.truncate(run_dir / "result.json", 100)
        self.torn_results[run_dir.name] += 1
        return True

    def edit_code(self) -> bool:
        """The checkout is broken for some seconds, in which jobs start (and no launch copies it)."""
        if self.launcher_starting():
            return False
        path = self.folder / "code" / "sweeps" / "run.py"
        text = path.read_text()
        path.write_text("raise RuntimeError('half-edited')\n" + text)
        self.kill_worker()
        time.sleep(4)
        path.write_text(text)
        return True

    def edit_code_while_runs_wait(self) -> bool:
        """A job that waits starts while the checkout is broken."""
        if self.launcher_starting():
            return False
        waiting = self._requeue_and_hold()
        path = self.folder / "code" / "sweeps" / "launching" / "attempt.py"
        text, started = path.read_text(), attempts(self)
        path.write_text("raise RuntimeError('half-edited')\n" + text)
        self._let_nodes_go()
        occasion = bool(waiting) and self._within(_OCCASION_S, lambda: attempts(self) > started)
        path.write_text(text)
        return occasion

    def cancel_pending(self) -> bool:
        """A person cancels a job that waits."""
        job_id = self._requeue_and_hold()
        done = bool(job_id) and subprocess.run(["scancel", job_id], capture_output=True).returncode == 0
        self._let_nodes_go()
        return done

    def remove_folder(self) -> bool:
        """A person removes the folder of a run that is under way."""
        working = [run_dir for run_dir, _ in self.working()]
        if not working or not self.launcher_alive():
            return False
        run_dir = self.random.choice(working)
        self.removed[run_dir.name] += 1
        while run_dir.exists():  # its process may be writing there
            shutil.rmtree(run_dir, ignore_errors=True)
        return True

    def launch_from_job(self) -> bool:
        """A launcher that is itself a job, of one part of an array and with limits of its own."""
        command = shlex.join(self._launch_command())
        options = ["-p", "normal", "-n1", "-t", "30", "--mem-per-cpu=1500", "--array=0-0", "-J", "launcher"]
        with open(self.folder / f"launch-from-job-{len(self.doubles)}.log", "wb") as log:
            waiting = subprocess.Popen(
                ["sbatch", "-W", *options, "-o", str(self.folder / "launch-from-job-%A.out"), "--wrap", command],
                cwd=self.folder, stdout=log, stderr=log,
            )  # fmt: skip
        self.doubles.append(waiting)
        return self._within(3 * _OCCASION_S, self._job_launcher_runs)

    def _job_launcher_runs(self) -> bool:
        return any(job.name == "launcher" and job.state == "RUNNING" for job in (queue.jobs() or {}).values())

    def _requeue_and_hold(self) -> str:
        """Puts a running job back into the queue, where it waits since no node takes any; its id, "" if none does."""
        jobs = self._running_jobs()
        if not jobs:
            return ""
        job_id = self.random.choice(jobs)
        for node in self._nodes():
            self._scontrol("update", f"nodename={node}", "state=drain", "reason=campaign")
        self._scontrol("requeue", job_id)

        def waits() -> bool:
            job = (queue.jobs() or {}).get(job_id)
            return job is not None and job.state == "PENDING"

        return job_id if self._within(_OCCASION_S, waits) else ""

    def _let_nodes_go(self) -> None:
        for node in self._nodes():
            self._scontrol("update", f"nodename={node}", "state=resume")

    def _to_a_running_job(self, *command: str) -> bool:
        jobs = self._running_jobs()
        return bool(jobs) and subprocess.run([*command, self.random.choice(jobs)], capture_output=True).returncode == 0

    def _running_jobs(self) -> list[str]:
        found = queue.jobs() or {}
        return [job_id for job_id, job in found.items() if job.state == "RUNNING" and job.name.startswith("dualformer")]

    def _kill_one(self, among: list[Path] | None = None) -> Path | None:
        working = [(run_dir, pid) for run_dir, pid in self.working() if among is None or run_dir in among]
        if not working:
            return None
        run_dir, pid = self.random.choice(working)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        return run_dir

    def _checkpoints(self, run_dir: Path) -> list[Path]:
        return sorted(run_dir.glob("checkpoints/[0-9]*.pt"))

    def _any_held(self) -> bool:
        return any(job.held for job in (queue.jobs() or {}).values())

    def _within(self, seconds: float, condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + seconds
        while not (met := condition()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return met

    def _nodes(self) -> list[str]:
        return [f"127.0.0.{number}" for number in (11, 12, 13)]

    def _node(self) -> str:
        return self.random.choice(self._nodes())

    def _daemon(self, order: str, name: str) -> None:
        run_cluster(self.cluster, order, name)

    def _scontrol(self, *arguments: str) -> None:
        subprocess.run(["scontrol", *arguments], capture_output=True)


FAULTS: tuple[Callable[[Campaign], bool], ...] = (
    Campaign.requeue_job,
    Campaign.warn_job,
    Campaign.preempt,
    Campaign.kill_worker,
    Campaign.start_twice,
    Campaign.tear_checkpoint,
    Campaign.kill_launcher,
    Campaign.second_launcher,
    Campaign.node_down,
    Campaign.break_node,
    Campaign.restart_slurmd,
    Campaign.restart_slurmctld,
    Campaign.fill_disk,
    Campaign.tear_result,
    Campaign.edit_code,
    Campaign.edit_code_while_runs_wait,
    Campaign.cancel_pending,
    Campaign.remove_folder,
    Campaign.launch_from_job,
)


def run_cluster(environment: dict[str, str], *command: str) -> None:
    """Calls `slurm/cluster.sh`."""
    done = subprocess.run(["bash", str(ROOT / "slurm" / "cluster.sh"), *command], env=environment, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"cluster.sh {' '.join(command)}: {done.stderr.decode()}")


def broken_marker(environment: dict[str, str]) -> Path:
    """The file that keeps nodes of the cluster from starting anything, while it is there."""
    return Path(environment["CLUSTER_DIR"], "broken")


def write_prolog(environment: dict[str, str]) -> None:
    """Has nodes refuse jobs, as a machine does whose file systems or GPUs are gone, while the marker is there."""
    prolog = Path(environment["CLUSTER_DIR"], "prolog")
    prolog.write_text(f"#!/bin/sh\n[ ! -e {broken_marker(environment)} ]\n")
    prolog.chmod(0o755)
    environment["EXTRA_CONF"] = f"Prolog={prolog}"


def prepare(folder: Path, num_runs: int) -> None:
    """Writes data, code, grid and profile."""
    write_bright_and_dark(folder / "data")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    grid = {
        "base": {
            "model": MODEL,
            "data": {"root": "data"},
            "train": {
                "steps": STEPS, "batch_size": 4, "warmup_steps": 2, "log_every": 1, "save_every": SAVE_EVERY
            },
            "measure": {"latency": False},
        },
        "axes": {"seed": list(range(num_runs))},
    }  # fmt: skip
    (folder / "campaign.yaml").write_text(yaml.safe_dump(grid))
    profile = {"partition": "normal", "mem_gib": 1.0, "time_min": 30, "signal_delay_s": 30, "max_attempts": 100}
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile))


def undisturbed(folder: Path) -> None:
    """The same grid by the local executor, with nobody in the way."""
    command = [sys.executable, *LAUNCH, "--runs", "calm", "--executor", "local"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the undisturbed sweep failed: {done.stdout}{done.stderr}")


class Patience:
    """Ends when nothing has come forward for a while: no fault, no result, no step beyond the furthest."""

    def __init__(self, campaign: Campaign, minutes: float) -> None:
        self._campaign = campaign
        self._seconds = 60 * minutes
        self._furthest: dict[str, int] = {}
        self._best = (0, 0, 0)
        self._since = time.monotonic()

    @property
    def lasts(self) -> bool:
        for run_dir in self._campaign.run_dirs():
            step = max((line["step"] for line in read_lines(run_dir / "metrics.jsonl")), default=0)
            self._furthest[run_dir.name] = max(step, self._furthest.get(run_dir.name, 0))
        finished = sum(read_result(run_dir) is not None for run_dir in self._campaign.run_dirs())
        now = (sum(self._campaign.faults.values()), finished, sum(self._furthest.values()))
        if any(value > best for value, best in zip(now, self._best, strict=True)):
            self._best = tuple(map(max, now, self._best))
            self._since = time.monotonic()
        return time.monotonic() - self._since < self._seconds


def disturb(campaign: Campaign, num_faults: int, minutes: float) -> None:
    """Lets each kind of fault happen and `num_faults` in all, then lets the sweep come to its end."""
    pending: list[Callable[[Campaign], bool]] = []
    patience = Patience(campaign, minutes)
    while not (len(campaign.faults) == len(FAULTS) and campaign.faults.total() >= num_faults) and patience.lasts:
        campaign.watch()
        campaign.look_after()
        pending = pending or campaign.random.sample(FAULTS, len(FAULTS))
        # A sweep that is through offers no occasion for most faults, until a torn result makes work again.
        fault = Campaign.tear_result if campaign.done() else pending.pop()
        if fault(campaign):
            campaign.faults[fault.__name__] += 1
            print(f"{campaign.faults.total():4} {fault.__name__}", flush=True)
        elif not campaign.done():
            pending.insert(0, fault)
        time.sleep(_PAUSE_S)
    while not (campaign.done() and campaign.quiet()) and patience.lasts:
        campaign.watch()
        if not campaign.done():
            campaign.look_after()
        time.sleep(1)


def verdict(campaign: Campaign) -> dict[str, list[str]]:
    """Returns what did not hold, by requirement; all lists are empty where everything did."""
    broken: dict[str, list[str]] = {"present": [], "once": [], "steps": [], "equal": [], "code": []}
    broken["faults"] = [fault.__name__ for fault in FAULTS if not campaign.faults[fault.__name__]]
    broken["alone"] = sorted(campaign.unclaimed)
    launched = code_hash(campaign.folder / "code")
    for run_dir in campaign.run_dirs():
        name, events = run_dir.name, ledger.read(run_dir)
        result, calm = read_result(run_dir), read_result(campaign.folder / "calm" / run_dir.name)
        broken["code"] += [name for event in events if event["event"] == "start" and event["code"] != launched]
        if result is None or result.status != "ok":
            broken["present"].append(f"{name}: {result.reason if result else 'no result'}")
            continue
        ends = sum(event["event"] == "end" for event in events)
        if ends > 1 + campaign.torn_results[name] + campaign.removed[name]:
            broken["once"].append(f"{name}: computed {ends} times")
        back = furthest_back(run_dir)
        allowed = SAVE_EVERY * ((2 if campaign.torn_checkpoints[name] else 1) + unsaved_checkpoints(run_dir))
        if back > allowed and not campaign.torn_results[name] and not campaign.removed[name]:
            broken["steps"].append(f"{name}: went back {back} steps")
        if timeless(result.to_dict()) != timeless(calm.to_dict()) or not same_predictions(run_dir, campaign.folder):
            broken["equal"].append(name)
    return broken


def claim_holder(run_dir: Path) -> int | None:
    """The process that holds the claim of a run, by the system's own table of locks."""
    try:
        claim = (run_dir / "claim").stat()
    except FileNotFoundError:
        return None
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" not in line]
    wanted = f"{os.major(claim.st_dev):02x}:{os.minor(claim.st_dev):02x}:{claim.st_ino}"
    holders = [int(pid) for _, kind, _, _, pid, place, *_ in locks if (kind, place) == ("POSIX", wanted)]
    return holders[0] if holders else None


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def unsaved_checkpoints(run_dir: Path) -> int:
    """Returns how many checkpoints could not be written, by the run's log."""
    return (run_dir / "log").read_text(errors="replace").count("UserWarning: no checkpoint at step")


def furthest_back(run_dir: Path) -> int:
    """Returns by how many steps training went back at most, by its own log."""
    steps = [line["step"] for line in read_lines(run_dir / "metrics.jsonl")]
    return max((before - after + 1 for before, after in itertools.pairwise(steps)), default=0)


def timeless(result: dict[str, object]) -> dict[str, object]:
    return {field: value for field, value in result.items() if field not in TIMED}


def same_predictions(run_dir: Path, folder: Path) -> bool:
    calm = folder / "calm" / run_dir.name / "predictions.csv"
    return (run_dir / "predictions.csv").read_bytes() == calm.read_bytes()


def attempts(campaign: Campaign) -> int:
    return sum(event["event"] == "start" for run_dir in campaign.run_dirs() for event in ledger.read(run_dir))


def run_campaign(folder: Path, *, num_runs: int, num_faults: int, seed: int, minutes: float, port: int | None) -> bool:
    """Runs a campaign in `folder`, prints its report and writes it to `report.json`; returns whether all held."""
    prepare(folder, num_runs)
    cluster = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    environment = {**os.environ, "CLUSTER_DIR": str(cluster)}
    write_prolog(environment)
    os.environ["SLURM_CONF"] = str(cluster / "slurm.conf")
    campaign = Campaign(folder, environment, random.Random(seed))
    campaign.runs.mkdir()
    small_disk = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(campaign.runs)]
    subprocess.run(small_disk, check=True)
    try:
        undisturbed(folder)
        print(f"the undisturbed sweep of {num_runs} runs is there; now the other", flush=True)
        environment["PORT"] = str(port or free_ports(20))
        run_cluster(environment, "up")
        disturb(campaign, num_faults, minutes)
        broken = verdict(campaign)
        report = {
            "runs": num_runs,
            "attempts": attempts(campaign),
            "faults_survived": dict(sorted(campaign.faults.items())),
            "crashes_of_slurmctld": campaign.crashes,
            "seed": seed,
            "broken": broken,
        }
    finally:
        clear_away(campaign)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return not any(broken.values())


def clear_away(campaign: Campaign) -> None:
    """Ends all that the campaign started, and keeps its logs and run folders."""
    cluster = Path(campaign.cluster["CLUSTER_DIR"])
    for process in [*campaign.launchers, *campaign.doubles]:
        process.kill()
    try:
        run_cluster(campaign.cluster, "down")
        if (cluster / "log").exists():
            shutil.copytree(cluster / "log", campaign.folder / "cluster-log")
        shutil.copytree(campaign.runs, campaign.folder / "runs-kept", ignore=shutil.ignore_patterns(SNAPSHOTS))
    finally:
        shutil.rmtree(cluster, ignore_errors=True)
        subprocess.run(["umount", "--lazy", str(campaign.runs)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40, help="runs of the sweep")
    parser.add_argument("--faults", type=int, default=60, help="fewest faults; each kind comes at least once")
    parser.add_argument("--seed", type=int, default=0, help="of the order of faults")
    parser.add_argument("--minutes", type=float, default=4, help="without progress, after which it has failed")
    parser.add_argument("--port", type=int, help="first port of the private cluster (default: some that are free)")
    parser.add_argument("--folder", type=Path, help="kept afterwards (default: a temporary one)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fault-campaign-"))
    folder.mkdir(parents=True, exist_ok=True)
    limits = {"num_runs": options.runs, "num_faults": options.faults, "minutes": options.minutes}
    print(f"campaign in {folder}", flush=True)
    return 0 if run_campaign(folder.resolve(), seed=options.seed, port=options.port, **limits) else 1


if __name__ == "__main__":
    sys.exit(main())
