"""The faults of the fault campaign: one sweep on a private cluster, and all that can happen to it."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from dualformer.results.layout import SNAPSHOTS
from dualformer.results.result import read_result
from slurm import queue
from sweeps.launching import ledger
from sweeps.source import ROOT

LAUNCH = ("code/sweeps/launch.py", "--grid", "campaign.yaml")

DISK_MB = 300
"""Size of the small disk that the runs lie on."""

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

    def num_attempts(self) -> int:
        """How often a process took a run on."""
        events = (event for run_dir in self.run_dirs() for event in ledger.read(run_dir))
        return sum(event["event"] == "start" for event in events)

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
                while file.tell() < 4 * DISK_MB << 20:
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
        text, started = path.read_text(), self.num_attempts()
        path.write_text("raise RuntimeError('half-edited')\n" + text)
        self._let_nodes_go()
        occasion = bool(waiting) and self._within(_OCCASION_S, lambda: self.num_attempts() > started)
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
