"""A launcher that needs no shell: what `--no-wait` and `retry` leave the rest to."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dualformer.results import layout

# By its path, since that needs neither an installation nor a certain working directory, in a wheel as in a checkout.
_SCRIPT = Path(__file__).resolve().parents[1] / "launch.py"


def start(runs: Path, grid: str, arguments: Sequence[str], cwd: str | None = None) -> int:
    """Starts a launcher that needs no shell, and returns the number of its process.

    Args:
        runs: folder of all run folders, which takes what the launcher prints.
        grid: the grid's name.
        arguments: of the launcher.
        cwd: its working directory; None means this process' own.
    """
    with open(log_path(runs, grid), "ab") as log:
        command = [sys.executable, str(_SCRIPT), *arguments]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd, start_new_session=True
        ).pid


def log_path(runs: Path, grid: str) -> Path:
    """Returns the file that takes what such launchers print."""
    return runs / f"{grid}{layout.LAUNCH_LOG}"


def arguments_to_go_on(options: argparse.Namespace) -> list[str]:
    """Returns the arguments that go on with a launch, without those that were for once."""
    values = {name: getattr(options, name) for name in ("grid", "executor", "runs", "profile", "limit")}
    arguments = [f"--{name}={value}" for name, value in values.items() if value is not None]
    # Each with its flag before it, so that none that begins with a hyphen is taken for another flag.
    return arguments + [f"--{name}={text}" for name in ("set", "axis", "only") for text in getattr(options, name)]
