"""Shows where sweeps stand: `python sweeps/status.py`; the command is in `sweeps.launching.status`."""

import contextlib
import sys
from pathlib import Path

if not __package__:  # a script's own folder comes first on the path, where its modules would shadow others
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from sweeps.launching.status import main

if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
