"""`python -m sweeps COMMAND`: launch, status, logs, cancel, retry; each with `--help`."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "launch": "sweeps.launching.launcher:main",
    "status": "sweeps.launching.run_status:main",
    "logs": "sweeps.launching.manage:logs",
    "cancel": "sweeps.launching.manage:cancel",
    "retry": "sweeps.launching.manage:retry",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status, 2 where there is no such command."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if command not in COMMANDS:
        print(f"usage: python -m sweeps {'|'.join(COMMANDS)} ...", file=sys.stderr)
        return 2
    module, function = COMMANDS[command].split(":")
    return getattr(importlib.import_module(module), function)(rest)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        sys.exit(main())
