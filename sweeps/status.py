"""Shows where the runs of a sweep stand, from any shell: `python sweeps/status.py [--grid NAME] [--runs DIR]`.

Reads files only, so it answers at once, also when the launcher is gone; what Slurm says of a job is shown as a hint.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # a script's own folder comes first on the path, where its modules would shadow others
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from slurm import queue
from sweeps import ledger
from sweeps.record import read_lines, read_result


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """Where one run stands.

    Attributes:
        state: the result's status once there is one, before that running, queued, lost or waiting.
        attempt: how many processes took the run on.
        note: progress, node, figures or reason.
    """

    run_id: str
    state: str
    attempt: int
    differs: str
    note: str


def run_status(run_dir: Path, differs: str = "", jobs: dict[str, queue.QueuedJob] | None = None) -> RunStatus:
    """Returns where a run stands, by its files; `jobs` is what Slurm says."""
    events = ledger.read(run_dir)
    attempt = sum(event["event"] == "start" for event in events)
    result = read_result(run_dir)
    if result is not None:
        top1 = "" if result.top1 is None else f"top-1 {result.top1:.3f}"
        return RunStatus(run_dir.name, result.status, attempt, differs, " ".join((result.reason or top1).split())[:100])
    submission = ledger.open_submission(events)
    if ledger.is_claimed(run_dir):
        return RunStatus(run_dir.name, "running", attempt, differs, progress(run_dir))
    if submission is None:
        lost = [event for event in events if event["event"] == "lost"]
        note = lost[-1]["reason"] if lost else ""
        return RunStatus(run_dir.name, "lost" if lost else "waiting", attempt, differs, note)
    job_id = submission.get("job_id") or "being submitted"
    job = (jobs or {}).get(job_id.removeprefix("slurm:"))
    hint = f" ({job.state} {job.node or job.reason})" if job else ""
    return RunStatus(run_dir.name, "queued", attempt, differs, f"{job_id}{hint}")


def progress(run_dir: Path) -> str:
    """Returns how far training is, "" before its first logged step."""
    lines = read_lines(run_dir / "metrics.jsonl")
    if not lines or "step" not in lines[-1]:
        return ""
    last = lines[-1]
    return f"step {last['step']}" + (f"/{last['steps']}" if "steps" in last else "")


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
    options = parser.parse_args(arguments)
    name = Path(options.grid).name.removesuffix(".yaml") if options.grid else "*"
    manifests = sorted(options.runs.glob(f"{name}.grid.json"))
    if not manifests:
        print(f"error: no grid '{name}' was launched into '{options.runs}'", file=sys.stderr)
        return 2
    jobs = queue.jobs()
    for path in manifests:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        _print_table(manifest["grid"], list(sweep_status(options.runs, manifest, jobs)))
    return 0


def _print_table(grid: str, rows: Sequence[RunStatus]) -> None:
    width = max((len(row.differs) for row in rows), default=0)
    for row in rows:
        print(f"{row.run_id}  {row.state:8} {row.attempt:3}  {row.differs:{width}}  {row.note}".rstrip())
    counts = Counter(row.state for row in rows)
    print(f"{grid}: {len(rows)} runs, {', '.join(f'{count} {state}' for state, count in counts.most_common())}")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
