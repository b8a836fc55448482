"""What a launch would do, and what it may cost: the text of `--dry-run`."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dualformer.arguments import one_line
from dualformer.results.result import read_result
from slurm.profile import Profile
from sweeps.launching import ledger, plan_cost
from sweeps.launching.grid import Grid
from sweeps.launching.planned_run import PlannedRun
from sweeps.measuring import cost


def describe(grid: Grid, runs: Path, profile: Profile) -> Iterator[str]:
    """Yields a line for every run (id, state, what differs, resources, training by measured rates), then the sums."""
    missing = []
    costs = plan_cost.estimate(grid.runs, plan_cost.read_rows(runs))
    for run in grid.runs:
        result = read_result(runs / run.run_id)
        missing += [] if result else [run]
        state = result.status if result else "to do"
        yield f"{run.run_id}  {state:8}{one_line(run.label)}  [{_needs(run, profile)}]{_training(costs, run)}"
    yield f"{grid.name}: {len(grid.runs)} runs, {len(missing)} to do; nothing was started"
    known = [costs[run.run_id] for run in missing if run.run_id in costs]
    if any(plan.device_hours for plan in known):
        yield f"training, by measured rates: {cost.summary(known, len(missing) - len(known), devices=1)}"
    yield _estimate(missing, [runs / run.run_id for run in grid.runs], profile)


def _training(costs: Mapping[str, cost.Cost], run: PlannedRun) -> str:
    plan = costs.get(run.run_id)
    return f"  {cost.describe(plan)}" if plan and plan.device_hours else ""


def hours(run_dir: Path) -> float | None:
    """Returns how long the attempt took that finished a run, in hours; None where none did."""
    events = ledger.read(run_dir)
    starts = [event["time"] for event in events if event["event"] == "start"]
    ends = [event["time"] for event in events if event["event"] == "end"]
    if not starts or not ends:
        return None
    start, end = (datetime.datetime.fromisoformat(times[-1]) for times in (starts, ends))
    return max(0.0, (end - start).total_seconds() / 3600)


def _resources(run: PlannedRun, profile: Profile) -> Profile:
    """The profile as it holds for one run."""
    return profile.changed(**run.resources)


def _needs(run: PlannedRun, profile: Profile) -> str:
    needs = _resources(run, profile)
    gpus, cpus = needs.gpus_per_node, needs.cpus_per_task or run.config.threads
    parts = [f"GPUs {gpus}" if gpus else f"CPUs {cpus}"]
    parts += [f"nodes {needs.nodes}"] if needs.nodes > 1 else []
    parts += [f"memory {needs.mem_gib:g} GiB"] if needs.mem_gib else []
    return ", ".join([*parts, f"at most {needs.time_min} min"])


def _estimate(missing: Sequence[PlannedRun], run_dirs: Sequence[Path], profile: Profile) -> str:
    needs = [_resources(run, profile) for run in missing]
    gpus = [need.nodes * need.gpus_per_node for need in needs]
    unit, weights = ("GPU-hours", gpus) if any(gpus) else ("hours of runs", [1] * len(needs))
    known = [taken for run_dir in run_dirs if (taken := hours(run_dir)) is not None]
    if known:
        taken = statistics.median(known)
        ground = f"by the {60 * taken:.2g} min that finished runs took (median of {len(known)})"
        return f"estimated: {sum(weights) * taken:.2g} {unit}, {ground}"
    most = sum(weight * need.time_min / 60 for weight, need in zip(weights, needs, strict=True))
    return f"estimated: at most {most:.3g} {unit}, by the time limit, for want of a finished run to go by"
