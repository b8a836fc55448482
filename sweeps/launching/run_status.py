"""Shows where the runs of a sweep stand, from any shell: `python sweeps/status.py [--grid NAME] [--runs DIR]`.

On a terminal the table stays and is kept up to date until all runs are finished or Ctrl-C; elsewhere it is printed
once. It comes from files alone, so it answers at once, also when the launcher is gone; what Slurm says is a hint.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dualformer.results.files import read_lines
from dualformer.results.result import STATUSES, read_result
from slurm import queue
from sweeps.launching import ledger

_REFRESH_S = 2.0
_COLUMNS = ("run", "state", "try", "progress", "left", "node", "differs", "note")


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """Where one run stands.

    Attributes:
        state: the result's status once there is one; before that running, queued, lost (and not tried again yet), or
            waiting.
        attempt: how many processes took the run on.
        progress: training steps done, of all.
        left: estimated time until training is through, as h:mm:ss.
        node: machine of the last attempt.
        differs: what tells the run from the others of its grid.
        note: figures, the reason of a failure, or the job and what Slurm says of it.
    """

    run_id: str
    state: str
    attempt: int = 0
    progress: str = ""
    left: str = ""
    node: str = ""
    differs: str = ""
    note: str = ""

    @property
    def finished(self) -> bool:
        return self.state in STATUSES


def run_status(run_dir: Path, differs: str = "", jobs: dict[str, queue.QueuedJob] | None = None) -> RunStatus:
    """Returns where a run stands, by its files; `jobs` is what Slurm says."""
    events = ledger.read(run_dir)
    starts = [event for event in events if event["event"] == "start"]
    node = starts[-1].get("node", "") if starts else ""
    known = RunStatus(run_dir.name, "waiting", len(starts), node=node, differs=differs)
    result = read_result(run_dir)
    if result is not None:
        figures = "" if result.top1 is None else f"top-1 {result.top1:.3f}"
        return dataclasses.replace(known, state=result.status, note=" ".join((result.reason or figures).split()))
    known = dataclasses.replace(known, progress=progress(run_dir))
    if ledger.is_claimed(run_dir):
        return dataclasses.replace(known, state="running", left=_time_left(run_dir))
    if (submission := ledger.open_submission(events)) is not None:
        return dataclasses.replace(known, state="queued", note=_job_note(submission, jobs))
    lost = [event["reason"] for event in events if event["event"] == "lost"]
    return dataclasses.replace(known, state="lost", note=lost[-1]) if lost else known


def progress(run_dir: Path) -> str:
    """Returns the training steps done, of all, as "40/500"; "" before the first logged one."""
    steps = _steps(run_dir)
    return f"{steps[-1]['step']}/{steps[-1].get('steps', '?')}" if steps else ""


def sweep_status(runs: Path, manifest: dict[str, Any], jobs: dict[str, queue.QueuedJob] | None) -> Iterator[RunStatus]:
    """Yields where each run of a grid stands, in the grid's order."""
    for row in manifest["runs"]:
        differs = " ".join(f"{field}={value}" for field, value in row["differs"].items())
        yield run_status(runs / row["run_id"], differs, jobs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; returns 0, or 2 where there is nothing to show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--grid", help="only this grid (default: all that were launched)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are (default: runs)")
    parser.add_argument("--once", action="store_true", help="print the table once, on a terminal too")
    options = parser.parse_args(arguments)
    name = Path(options.grid).name.removesuffix(".yaml") if options.grid else "*"
    if not any(options.runs.glob(f"{name}.grid.json")):
        print(f"error: no grid '{name}' was launched into '{options.runs}'", file=sys.stderr)
        return 2
    tables = _read(options.runs, name)
    if not sys.stdout.isatty() or options.once:
        print("\n".join(_lines(tables)))
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            _redraw(_lines(tables))
            if all(row.finished for rows in tables.values() for row in rows):
                break
            time.sleep(_REFRESH_S)
            tables = _read(options.runs, name)
    return 0


def _read(runs: Path, pattern: str) -> dict[str, list[RunStatus]]:
    jobs = queue.jobs()
    tables = {}
    for path in sorted(runs.glob(f"{pattern}.grid.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        tables[manifest["grid"]] = list(sweep_status(runs, manifest, jobs))
    return tables


def _lines(tables: dict[str, list[RunStatus]]) -> list[str]:
    lines = []
    for grid, rows in tables.items():
        cells = [_COLUMNS, *(tuple(str(value) for value in dataclasses.astuple(row)) for row in rows)]
        used = [index for index in range(len(_COLUMNS)) if any(row[index] for row in cells[1:])]
        widths = {index: max(len(row[index]) for row in cells) for index in used}
        lines += ["  ".join(f"{row[index]:{widths[index]}}" for index in used).rstrip() for row in cells]
        counts = Counter(row.state for row in rows)
        lines.append(f"{grid}: {len(rows)} runs, {', '.join(f'{count} {state}' for state, count in counts.items())}")
    return lines


def _redraw(lines: Sequence[str]) -> None:
    """Draws over the last table; more runs than the terminal has lines leave the first ones out."""
    columns, rows = shutil.get_terminal_size()
    shown = [line[:columns] for line in lines[-(rows - 1) :]]
    print("\033[H\033[J" + "\n".join(shown), flush=True)


def _steps(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(run_dir / "metrics.jsonl") if "step" in line]


def _time_left(run_dir: Path) -> str:
    """By the pace of the last logged steps; evaluation comes on top."""
    steps = [line for line in _steps(run_dir) if line.get("clips_per_s") and "steps" in line]
    if not steps:
        return ""
    batch_size = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))["train"]["batch_size"]
    seconds = (steps[-1]["steps"] - steps[-1]["step"]) * batch_size / steps[-1]["clips_per_s"]
    return str(datetime.timedelta(seconds=round(seconds)))


def _job_note(submission: ledger.Event, jobs: dict[str, queue.QueuedJob] | None) -> str:
    job_id = submission.get("job_id")
    if job_id is None:
        return "being submitted"
    job = (jobs or {}).get(job_id.removeprefix("slurm:"))
    return f"{job_id} {job.state} {job.node or job.reason}".strip() if job else job_id
