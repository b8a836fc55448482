"""The tables of docs/tables.md are what the command prints of the committed results."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from analysis import table

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = runpy.run_path(str(DOCS / "tables.py"))
DOCUMENT = (DOCS / "tables.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"^dualformer table (.*?)(?:#.*|>.*)?$", re.search(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)[1], re.M
)


def test_committed_tables_are_those_the_command_prints():
    assert SCRIPT["render"](DOCUMENT) == DOCUMENT


@pytest.mark.parametrize("options", [command for command in COMMANDS if "--runs" not in command])
def test_commands_of_the_page_work(options, capsys):
    assert len(COMMANDS) == 5
    assert table.main([*shlex.split(options), "--results", str(SCRIPT["RESULTS"])]) == 0
    assert capsys.readouterr().out
