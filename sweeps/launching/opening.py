"""Prepares all that a sweep needs on disk, and starts nothing yet."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from dualformer.arguments import printable
from dualformer.config import ConfigError
from dualformer.results import layout
from dualformer.results.code import Files, code_conflicts
from dualformer.results.files import read_object
from dualformer.results.result_set import kept_files
from slurm.executor import Executor
from slurm.places import make_executor
from slurm.profile import Profile
from slurm.task import is_shared
from sweeps import source
from sweeps.launching import ledger, snapshot
from sweeps.launching.detached import arguments_to_go_on
from sweeps.launching.grid import Grid
from sweeps.launching.launch_record import note_launch
from sweeps.launching.sweep import Sweep

_SHOWN = 5


def refuse_impossible(options: argparse.Namespace, grid: Grid, profile: Profile) -> None:
    """Refuses what could never run in the place that was asked for, which it would wait for in vain; writes nothing.

    Raises:
        ConfigError: a run asks for more than there is.
        ProfileError: there is no such place, or its folder can't be used.
    """
    executor = _executor(options, grid, profile, source.ROOT)  # the code where it is: no copy is there yet
    for run in grid.runs:
        reason = executor.why_never(run.resources)
        needs_gpu = "device is 'cuda'" if run.config.device == "cuda" else run.config.measure.needs_gpu
        if needs_gpu and not executor.may_have_gpus:
            reason = reason or f"{needs_gpu}, and this machine has none"
        if reason:
            raise ConfigError(f"{run.name}: {reason} ({executor.kind} executor); nothing was started")


def open_sweep(options: argparse.Namespace, grid: Grid, profile: Profile, worker: str) -> Sweep:
    """Copies the code, notes the launch, makes the run folders, and says what is there already.

    Args:
        options: of the launch.
        grid: what to compute.
        profile: of the place to run.
        worker: function that computes a run.

    Raises:
        OSError: the folder of runs can't be written.
    """
    code = snapshot.take(options.runs, [run.config.model.name for run in grid.runs])
    executor = _executor(options, grid, profile, code)
    kept, gone = note_launch(options.runs, grid, arguments_to_go_on(options))
    if kept:
        say(f"{grid.name}: {kept} runs of its earlier launches are listed as well, until their folders are removed")
    if gone:
        say(f"{grid.name}: {gone} runs of earlier launches are no longer listed: gone, or not what they would be today")
    for run in grid.runs:
        ledger.put_aside(options.runs / run.run_id, options.retry)
    expected = None if executor.in_this_process else code
    sweep = Sweep(options.runs, grid.runs, executor, profile, worker=worker, code=expected, announce=say)
    state = sweep.state
    say(f"{grid.name}: {len(state.planned)} runs, {len(state.results)} finished before; {executor.kind} executor")
    _note_other_code(options.runs, list(state.results))
    return sweep


def say(message: str) -> None:
    """Prints a message at once."""
    print(printable(message), flush=True)


def _executor(options: argparse.Namespace, grid: Grid, profile: Profile, code: Path) -> Executor:
    folder = options.runs / layout.SUBMISSIONS
    threads = max(run.config.threads for run in grid.runs)
    if not is_shared():
        return make_executor(options.executor, folder, profile, threads=threads, code=code)
    from sweeps.launching.torchrun import TeamExecutor

    return TeamExecutor(folder)


def _note_other_code(runs: Path, finished: list[str]) -> None:
    """Says so where finished runs and those to come would not be of one code; which of them to keep is up to people."""
    today = {name.as_posix(): _hash(path) for name, path in source.files(source.ROOT)}
    changed: dict[str, None] = {}
    others = 0
    for files in _codes(runs, finished):
        conflicts = code_conflicts([files, {path: today[path] for path in files.keys() & today.keys()}])
        others += bool(conflicts)
        changed.update(dict.fromkeys(conflicts))
    if others:
        shown = ", ".join([*changed][:_SHOWN]) + (f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else "")
        say(
            f"note: {others} finished runs used files that have changed since ({shown}); --retry ok computes them again"
        )


def _hash(path: Path) -> str:
    """Of a file, as `source.imported_files` gives it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _codes(runs: Path, finished: list[str]) -> Iterator[Files]:
    """The files that finished runs imported, of those that say."""
    for run_id in finished:
        with contextlib.suppress(OSError, ValueError):
            if files := kept_files(read_object(runs / run_id / layout.PROVENANCE)):
                yield files
