"""The commands as a door sees them: quick to import, and every flag says what it does."""

import argparse
import importlib
import subprocess
import sys

import pytest

COMMANDS = ("collect", "compare", "regenerate", "table", "verify")
READING = ("fields", "result", "provenance", "code", "files", "layout", "table", "result_set", "statistics")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_help_words(name):
    module = importlib.import_module(f"analysis.{name}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    assert all(action.help for action in parser._actions)
    assert all(
        "default" in action.help for action in parser._actions if action.option_strings and action.dest != "help"
    )
    assert parser.format_help()
    assert module.__doc__.partition("\n")[0].endswith(".") and callable(module.run)
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0


@pytest.mark.parametrize(
    "modules",
    [[f"analysis.{name}" for name in COMMANDS], [f"dualformer.results.{name}" for name in READING]],
    ids=["commands", "results"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(modules):
    heavy = ("torch", "pandas", "matplotlib", "scipy", "nbclient", "av", "decord")
    program = f"import sys, {', '.join(modules)}\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
