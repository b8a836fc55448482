"""Measuring needs neither videos nor their decoders."""

import pkgutil
import subprocess
import sys

from sweeps import measuring

MODULES = [
    "dualformer",
    "sweeps.run_config",
    *(f"sweeps.measuring.{found.name}" for found in pkgutil.iter_modules(measuring.__path__)),
]

BLOCKED = """
import sys
for name in ("av", "decord", "torchcodec"):
    sys.modules[name] = None  # importing it now raises ImportError
import importlib
importlib.import_module(sys.argv[1])
"""


def imported(*modules: str) -> str:
    """What an import of modules without any decoder says on stderr."""
    program = BLOCKED + "\n".join(f"importlib.import_module({name!r})" for name in modules)
    return subprocess.run([sys.executable, "-c", program, modules[0]], capture_output=True, text=True).stderr


def test_every_module_is_imported_without_a_video_decoder():
    assert imported(*MODULES) == ""
