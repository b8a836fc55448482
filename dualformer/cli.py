# PYTHON_ARGCOMPLETE_OK
"""The one door: `dualformer COMMAND ...`, also `python -m dualformer COMMAND ...`.

A new command is one line of `COMMANDS` and a module that offers

    add_arguments(parser: argparse.ArgumentParser) -> None
    run(options: argparse.Namespace) -> int

and whose docstring describes the command. Modules are named as text, as models are in the registry: the library imports
nothing that is built on it, and a command waits for its own imports alone.

Exit status: 0 all is well, 1 what the command looked at is not, 2 it was called wrongly or could not do its work, which
one line on stderr says (`DUALFORMER_TRACEBACK=1` shows where). Ctrl-C is 130, and 141 says that nobody reads on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import NoReturn

from dualformer import __version__, suite
from dualformer.arguments import Parser, called_as, one_line, parse_and_run

INTERRUPTED = 128 + signal.SIGINT
NOT_READ = 128 + 13  # SIGPIPE, which not every system has by name


@dataclasses.dataclass(frozen=True)
class Command:
    """A command and where it is.

    Attributes:
        group: under which title `dualformer --help` lists it.
        module: imported when the command is called.
        help: one line.
    """

    name: str
    group: str
    module: str
    help: str

    def load(self) -> ModuleType:
        """Imports the command's module.

        Raises:
            ImportError: it, or something that it needs, is not installed.
        """
        if self.module.partition(".")[0] in suite.PACKAGES:
            suite.ensure_importable()
        return importlib.import_module(self.module)

    def run(self, words: Sequence[str]) -> int:
        """Runs the command with its words and returns its exit status."""
        prog = f"dualformer {self.name}"
        with called_as(prog):
            return parse_and_run(self.load(), words, prog=prog)


COMMANDS = {
    command.name: command
    for command in (
        Command("models", "models", "dualformer.commands.models", "list models with parameters, cost, clip and paper"),
        Command("fields", "models", "sweeps.fields", "list what can be configured, or write a schema for editors"),
        Command("macs", "models", "dualformer.commands.macs", "count a model's multiply-accumulates, part by part"),
        Command("check", "models", "dualformer.check", "hold a model or an attention to its twin, contract and cost"),
        Command("side-by-side", "models", "sweeps.measuring.comparison", "time models in turns, with intervals"),
        Command("roofline", "models", "sweeps.measuring.roofline", "compare times with what the machine allows"),
        Command("max-batch", "models", "sweeps.measuring.max_batch", "find the largest batch that fits a GPU"),
        Command("launch", "sweeps", "sweeps.launching.launcher", "run a grid, here or on a cluster"),
        Command("status", "sweeps", "sweeps.launching.status", "show where the runs of a sweep stand"),
        Command("logs", "sweeps", "sweeps.launching.logs", "print what a run printed"),
        Command("cancel", "sweeps", "sweeps.launching.cancel", "end runs, or keep them from starting"),
        Command("retry", "sweeps", "sweeps.launching.retry", "compute runs again that are not ok"),
        Command("cost", "sweeps", "sweeps.launching.plan_cost", "tell hours and energy of a grid beforehand"),
        Command("collect", "results", "analysis.collect", "turn run folders into one table per grid and device"),
        Command("table", "results", "analysis.table", "print a grid's results as a table of a paper, with intervals"),
        Command("figures", "results", "analysis.regenerate", "draw all figures and the report from the tables"),
        Command("compare", "results", "analysis.compare", "compare two sets of results, run by run"),
        Command("verify", "results", "analysis.verify", "tell everything that speaks against a set of results"),
        Command("metrics", "results", "sweeps.training.metrics", "score a run's predictions again, without its model"),
        Command("predict", "videos", "dualformer.commands.predict", "tell the most probable classes of a video"),
        Command("gradcam", "videos", "dualformer.commands.gradcam", "draw which parts of a video speak for a class"),
        Command(
            "check-videos", "videos", "dualformer.commands.check_videos", "decode every video of a folder, and report"
        ),
        Command(
            "prepare", "videos", "dualformer.commands.prepare", "write the manifest of a data set in a known format"
        ),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Args:
        arguments: as typed, without the program's name; None means those of this process.

    Raises:
        SystemExit: with status 2 for a wrong call, 0 for `--help` and `--version`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = COMMANDS.get(words[0]) if words else None
    with _errors_as_status(f"dualformer {command.name}" if command else "dualformer") as outcome:
        if command is None:
            _whole_parser().parse_args(words)  # which ends here: help, version, or an unknown command
        else:
            outcome.status = command.run(words[1:])
    return outcome.status


def program() -> NoReturn:
    """Runs the command line of this process and ends it."""
    _complete()
    try:
        status: int | str | None = main()
    except SystemExit as end:
        status = end.code
    sys.exit(_printed(status))


@dataclasses.dataclass
class _Outcome:
    status: int = 2


@contextlib.contextmanager
def _errors_as_status(program: str) -> Iterator[_Outcome]:
    """Turns what a command raises into its exit status, and one line on stderr."""
    outcome = _Outcome()
    try:
        yield outcome
    except BrokenPipeError:
        outcome.status = NOT_READ
    except KeyboardInterrupt:
        outcome.status = INTERRUPTED
    except Exception as error:
        if not _is_for_the_user(error) or os.environ.get("DUALFORMER_TRACEBACK"):
            raise
        outcome.status = 2
        print(f"{program}: {one_line(_text(error))}", file=sys.stderr)


def _is_for_the_user(error: Exception) -> bool:
    """Whether an error tells of the world or of what was asked for, and not of a mistake in the code."""
    return _is_ours(type(error).__module__) or isinstance(
        error, (ValueError, OSError, ImportError, RuntimeError, MemoryError)
    )


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in suite.PROJECT


def _text(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and not _is_ours(error.name):
        return f"needs the package '{error.name.partition('.')[0]}', which is not installed ({error})"
    return str(error) or type(error).__name__


def _printed(status: int | str | None) -> int | str | None:
    """The exit status once all output is out: another one where nobody takes it, or where it finds no room."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains about it again at its end
        if isinstance(error, BrokenPipeError):
            return NOT_READ
        print(f"dualformer: output can't be written: {error}", file=sys.stderr)
        return 2
    return status


def _whole_parser(filled: str | None = None) -> Parser:
    """The parser of every command; options are known of the command `filled` alone, since they take its imports."""
    parser = Parser(prog="dualformer", description=_overview())
    parser.add_argument("--version", action="version", version=f"dualformer {__version__}", help="print the version")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser, help="one of these; each has its --help"
    )
    for command in COMMANDS.values():
        subparser = commands.add_parser(command.name)
        if command.name == filled:
            command.load().add_arguments(subparser)
    return parser


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = ["Which space-time attention buys the most accuracy for its cost? Models, sweeps, results, videos."]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        members = [command for command in COMMANDS.values() if command.group == group]
        lines.append(f"{group}:\n" + "\n".join(f"  {command.name:{width}}{command.help}" for command in members))
    return "\n\n".join(lines)


def documented() -> str:
    """Returns the table of commands in docs/commands.md."""
    lines = ["| command | what it does |", "| --- | --- |"]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines.append(f"| **{group}** | |")
        members = [command for command in COMMANDS.values() if command.group == group]
        lines += [f"| `dualformer {command.name}` | {command.help} |" for command in members]
    return "\n".join(lines) + "\n"


def _complete() -> None:
    """Answers a shell that asks how the line goes on, and ends; does nothing otherwise."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    from dualformer import completion

    typed = next((word for word in os.environ.get("COMP_LINE", "").split()[1:] if word in COMMANDS), None)
    parser = _whole_parser(typed)
    completion.attach(parser)
    argcomplete.autocomplete(parser)


if __name__ == "__main__":
    program()
