"""Runs a grid: `python sweeps/launch.py --grid ablations.yaml`; the command is in `sweeps.launching.launcher`."""

import contextlib
import sys
from pathlib import Path

if not __package__:  # a script's own folder comes first on the path, where its modules would shadow others
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from sweeps.launching.launcher import main

if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
