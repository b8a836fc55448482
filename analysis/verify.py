"""Tell everything that speaks against a set of results.

    dualformer verify RESULTS

RESULTS is a run, a folder of runs, a table, or a folder of tables. Every reason against it is listed, not the first
alone. What can be computed anew is: a run's id, parameters and multiply-accumulates from its config; quantiles and
throughput from the samples, accuracies from the predictions where there is the run's folder. What can't be together is
named: totals, whole videos, accuracies and their factors, times and roofline, a config and the numbers it asks for, a
table and its sheet. So are missing runs and provenance, dirty trees, mixed hardware or code, and disturbed times. What
is left on trust, and why, stands in `analysis/checks`.

Exit status: 0 nothing speaks against it, 1 something does, 2 there is nothing to check.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from analysis.checks import evidence, networks, rows, sets
from dualformer.arguments import parse_and_run, printable, program
from dualformer.results import result_set
from dualformer.results.result_set import ResultSet, ResultSetError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, help="a run, a folder of runs, a table, or a folder of tables")
    parser.add_argument(
        "--clean", action="store_true", help="reject dirty trees even where nobody claims a clean one (default: admit)"
    )
    parser.add_argument(
        "--allow-disturbed",
        action="store_true",
        help="accept times whose row says what disturbed them (default: reject)",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="accept runs of a grid that are not there (default: reject)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="arithmetic alone: no config, network or prediction is computed anew (default: all of them)",
    )
    parser.add_argument(
        "--import-models",
        action="store_true",
        help="build networks that rows name by import path as well, which runs their code (default: leave them out)",
    )


def run(options: argparse.Namespace) -> int:
    """Checks every result set; returns the exit status."""
    try:
        found_sets = result_set.read(options.results)
    except (ResultSetError, OSError) as error:
        print(printable(f"{program('verify')}: {error}"), file=sys.stderr)
        return 2
    status = 0
    for found in found_sets:
        reasons = verify(
            found,
            clean=options.clean,
            allow_disturbed=options.allow_disturbed,
            allow_missing=options.allow_missing,
            quick=options.quick,
            import_models=options.import_models,
        )
        for reason in reasons:
            print(printable(f"{found.source}: {reason}"))
        for note in notes(found, quick=options.quick, import_models=options.import_models):
            print(printable(f"{found.source}: note: {note}"))
        verdict = f"rejected, {len(reasons)} reasons" if reasons else "nothing speaks against it"
        print(printable(f"{found.source}: {len(found.rows)} rows: {verdict}"))
        status = 1 if reasons else status
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs it; returns the exit status."""
    return parse_and_run(sys.modules[__name__], arguments, prog="dualformer verify")


def verify(
    found: ResultSet,
    *,
    clean: bool = False,
    allow_disturbed: bool = False,
    allow_missing: bool = False,
    quick: bool = False,
    import_models: bool = False,
) -> list[str]:
    """Everything that speaks against a result set, in words; empty where nothing does.

    Args:
        found: the rows and what is known about them.
        clean: whether a dirty tree speaks against a set that admits it.
        allow_disturbed: whether a time counts whose row says that something disturbed it.
        allow_missing: whether a grid may have runs that came to nothing.
        quick: whether to leave out what needs networks or predictions, and with them torch.
        import_models: whether to build networks by import path, which is code that a row chose.
    """
    reasons = [*found.problems, *_whole(sets.check(found, clean=clean, allow_missing=allow_missing))]
    for row in found.rows:
        told = [*_whole(rows.check(row, allow_disturbed=allow_disturbed))]
        if not quick:
            told += _whole(networks.check(row, import_models=import_models))
            folder = found.folders.get(str(row.get("run_id")))
            told += _whole(evidence.check(row, folder)) if folder else []
        reasons += [f"{row.get('run_id')}: {reason}" for reason in told]
    return reasons


def _whole(reasons: Iterator[str]) -> Iterator[str]:
    """Reasons, and that there may be more where a check fails of what a row holds, which can be anything."""
    try:
        yield from reasons
    except Exception as error:
        yield f"can't be checked further: {type(error).__name__}: {' '.join(str(error).split())}"


def notes(found: ResultSet, *, quick: bool = False, import_models: bool = False) -> Iterator[str]:
    """What was not checked, or not by today's rules, in words: nothing is accepted without a word."""
    if quick:
        yield "no config, network or prediction was computed anew"
        return
    if former := networks.former(found.rows):
        yield (
            f"{former} rows are older than networks' digests: their ids are by the former rule, which holds what was "
            "chosen and not the network's published values"
        )
    if found.is_table and not any("rows_sha256" in sheet for sheet in found.records):
        yield "its sheet has no seal: a small change of a time would not be seen"
    for row in found.rows:
        if why := networks.left_out(row, import_models):
            yield f"{row.get('run_id')}: {why}"


if __name__ == "__main__":
    sys.exit(main())
