"""A launch by several processes at once, as torchrun starts them: the first launches, the others follow run by run.

    torchrun --nproc-per-node 2 sweeps/launch.py --grid kinetics400.yaml --only model.name=dualformer_tiny

One team is formed for the whole launch. For each run that is to be computed the first process calls the others to its
folder; in the end it tells them the exit status, so that all processes have the same one. A process that fails in the
middle of a run, while the others wait for it, ends them all: the run is a row with the reason (or unfinished, where the
process was killed without a word), and the same command, or torchrun itself with `--max-restarts`, goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from slurm.debug import DebugExecutor
from slurm.executor import Resources, SubmitError
from slurm.job_id import JobId
from slurm.task import LostContact, Task, resolve
from sweeps.training import processes
from sweeps.training.processes import Team

_worker = ""


class TeamExecutor(DebugExecutor):
    """Runs each task at once, in this process and those that follow it, as long as all of them are there."""

    def submit(self, tasks: Sequence[Task], token: str, resources: Resources) -> list[JobId]:
        """Runs the tasks to their end.

        Raises:
            SubmitError: the team broke in an earlier task.
        """
        if processes.is_broken():
            raise SubmitError("a process of this launch has failed; the same command goes on from here", passing=False)
        return super().submit(tasks, token, resources)


def launch(main: Callable[[str], int], worker: str) -> int:
    """Returns the exit status of `main`, which the first process runs, in all processes.

    Args:
        main: launches, given the name of the function that computes a run.
        worker: function that computes a run, together with the other processes.
    """
    global _worker
    _worker = worker
    with processes.join() as team:
        return _lead(main, team) if team.leads else _follow(team)


def execute(run_dir: Path) -> None:
    """Computes a run together with the processes that follow."""
    processes.current().order(str(run_dir))
    resolve(_worker)(run_dir)


def _lead(main: Callable[[str], int], team: Team) -> int:
    status = 1
    try:
        status = main(f"{__name__}:execute")
    except SystemExit as leaving:  # argparse has said what is wrong with a flag, or what flags there are
        status = leaving.code if isinstance(leaving.code, int) else 1
    finally:
        if not team.broken:
            team.tell(status)
    return status


def _follow(team: Team) -> int:
    """Takes part in every run that the leader calls to; what it prints there the leader prints too."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        try:
            with team.together():
                while isinstance(order := team.tell(None), str):
                    resolve(_worker)(Path(order))
                return order
        except LostContact as error:
            print(f"error: process {team.rank}: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            pass
    return 1
