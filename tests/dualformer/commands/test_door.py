"""The one door: what it lists, what it imports, how it ends, and what every command's own options must have."""

import argparse
import importlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from dualformer import cli, suite
from dualformer.arguments import Parser
from dualformer.cli import COMMANDS, Command, main

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "numpy", "scipy", "pandas", "matplotlib", "av", "decord"}


def python(code, *arguments, **options):
    """A process that runs `code` from the checkout's root; as text, captured unless told otherwise."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, **options}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments], **options)


def door(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "dualformer", *arguments], capture_output=True, text=True, **{"cwd": ROOT, **options}
    )


def own_parser(command):
    parser = Parser(prog=f"dualformer {command.name}")
    command.load().add_arguments(parser)
    return parser


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """Returns what adds a command whose module is given as text."""

    def plant(code, name="planted"):
        (tmp_path / f"{name}_command.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setitem(COMMANDS, name, Command(name, "models", f"{name}_command", "planted by a test"))
        return name

    yield plant
    for name in [name for name in sys.modules if name.endswith("_command")]:
        del sys.modules[name]


def test_every_command_is_somewhere():
    for command in COMMANDS.values():
        command.load()


def test_names_are_unique_and_each_has_one_line_of_help():
    assert all(name == command.name and "\n" not in command.help for name, command in COMMANDS.items())
    assert {command.group for command in COMMANDS.values()} == {"models", "sweeps", "results", "videos"}


def test_help_lists_every_command_and_imports_none_of_them():
    process = python(
        """
        import sys
        from dualformer.cli import COMMANDS, main
        try:
            main(["--help"])
        except SystemExit as end:
            print("status", end.code)
        modules = {command.module for command in COMMANDS.values()}
        print("imported", sorted(modules & set(sys.modules)), file=sys.stderr)
        print("heavy", sorted({"torch", "pandas", "matplotlib"} & set(sys.modules)), file=sys.stderr)
        """
    )
    out, err = process.communicate()
    assert err == "imported []\nheavy []\n"
    assert out.endswith("status 0\n")
    for command in COMMANDS.values():
        assert re.search(rf"^  {re.escape(command.name)} +{re.escape(command.help)}$", out, re.M), command.name


def test_version():
    import dualformer

    assert (door("--version").stdout, door("--version").returncode) == (f"dualformer {dualformer.__version__}\n", 0)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_help_of_a_command_waits_for_nothing_heavy(command):
    process = python(
        """
        import sys
        from dualformer.cli import main
        try:
            main([sys.argv[1], "--help"])
        except SystemExit as end:
            assert end.code == 0
        print(sorted(set(sys.argv[2:]) & set(sys.modules)), file=sys.stderr)
        """,
        command.name,
        *HEAVY,
    )
    out, err = process.communicate()
    assert err == "[]\n"
    assert out.startswith(f"usage: dualformer {command.name} ")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_a_command_and_its_module_say_the_same_of_it(command):
    first = (command.load().__doc__ or "").partition("\n")[0]
    assert first == f"{command.help[0].upper()}{command.help[1:]}."


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_every_argument_has_words(command):
    parser = own_parser(command)
    assert command.load().__doc__
    silent = [action.dest for action in parser._actions if not action.help]
    assert not silent, f"dualformer {command.name}: no help for {silent}"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_every_default_is_shown(command):
    parser = own_parser(command)
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.option_strings and not action.required and not isinstance(action, argparse._HelpAction):
            shown = formatter._get_help_string(action) or ""
            assert "default" in shown, f"dualformer {command.name} {action.option_strings[0]}: {shown}"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_options_named_as_a_field_have_its_choices(command):
    """`--precision` and the like take what the config's own enumeration has."""
    suite.ensure_importable()
    from sweeps.fields import choices
    from sweeps.run_config import describe_fields

    known = {}
    for field in describe_fields():
        if choices(field) and field.type != "bool":
            known.setdefault(field.path.rpartition(".")[2], set()).add(frozenset(choices(field)))
    for action in own_parser(command)._actions:
        for option in action.option_strings:
            if (name := option.removeprefix("--").replace("-", "_")) in known:
                taken = {"auto", *map(str, action.choices or ())}  # a command may ask for a name in place of "auto"
                assert taken in [{"auto", *valid} for valid in known[name]], f"dualformer {command.name} {option}"


def test_a_command_is_one_line_of_the_table_and_a_module(planted, capsys):
    name = planted(
        '''
        """Says a word."""
        def add_arguments(parser):
            parser.add_argument("word")
            parser.add_argument("--times", type=int, default=2, help="how often")
        def run(options):
            print(options.word * options.times)
            return 1
        '''
    )
    assert main([name, "ha"]) == 1
    assert capsys.readouterr().out == "haha\n"
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert "Says a word." in shown and "how often (default: 2)" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lanch"], "dualformer: unknown command 'lanch'; did you mean 'launch'"),
        (
            ["--verson"],
            "dualformer: the following arguments are required: COMMAND; '--verson' is no option; did you mean",
        ),
        ([], "dualformer: the following arguments are required: COMMAND"),
        (
            ["models", "--name"],
            "dualformer models: unknown argument --name; '--name' is no option; did you mean '--names'",
        ),
        (["models", "a", "b"], "dualformer models: unknown argument b"),
        (["macs", "x", "--num-frames", "two"], "dualformer macs: argument --num-frames: 'two' is not a positive whole"),
        (["check-videos", ".", "--decoder", "dekord"], "invalid choice 'dekord'; did you mean 'decord'?"),
        (["prepare", "kinetix", "--videos", "."], "invalid choice 'kinetix'; did you mean 'kinetics'?"),
        (
            ["predict", "-0OtWb.mp4", "--model", "x"],
            "'-0OtWb.mp4' reads as an option: a file of this name is written ./-0OtWb.mp4",
        ),
        (["predict", "--model", "x", "-ab.avi"], "is written ./-ab.avi, or comes after --"),
        (["check-videos", "-set"], "dualformer check-videos: the following arguments are required: ROOT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_status_2(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    output = capsys.readouterr()
    assert (end.value.code, output.out) == (2, "")
    assert message in output.err and len(output.err.splitlines()) == 1


def test_a_file_whose_name_begins_with_a_dash_is_taken_as_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-set").mkdir()
    for words in (["./-set"], ["--", "-set"]):
        assert main(["check-videos", *words]) == 2
        assert capsys.readouterr().err == "dualformer check-videos: -set: no videos\n"


ERRORS = {
    "ValueError('no such thing')": "no such thing",
    "ValueError('two\\nlines')": "two; lines",
    "OSError(28, 'No space left on device', 'a.csv')": "[Errno 28] No space left on device: 'a.csv'",
    "RuntimeError('CUDA error: no kernel image')": "CUDA error: no kernel image",
    "MemoryError()": "MemoryError",
    "__import__('dualformer.data.cache').data.cache.CacheError(28, 'the cache is full')": "the cache is full",
    "__import__('dualformer.data.handover').data.handover.HandoverError('no room')": "no room",
    "ValueError('\\x1b[2Jname')": "\\x1b[2Jname",
    "ModuleNotFoundError(\"No module named 'decord.x'\", name='decord.x')": "needs the package 'decord', which is not",
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("where", ["add_arguments", "run"])
def test_errors_are_one_line_and_status_2(planted, capsys, error, where):
    bodies = {name: f"raise {error}" if name == where else "return 0" for name in ("add_arguments", "run")}
    name = planted("".join(f"def {function}(_): {body}\n" for function, body in bodies.items()))
    assert main([name]) == 2
    output = capsys.readouterr()
    assert output.out == "" and len(output.err.splitlines()) == 1
    assert output.err.startswith(f"dualformer {name}: {ERRORS[error]}")


USELESS = {
    "models": ["no_such_model"],
    "fields": ["no_such_field"],
    "macs": ["no_such_model"],
    "check": ["no_such_model"],
    "side-by-side": ["no_such_model", "nor_this"],
    "roofline": ["no_such_model"],
    "max-batch": ["no_such_model"],
    "launch": ["--grid", "no_such_grid"],
    "status": [],
    "logs": ["ffff"],
    "cancel": ["ffff"],
    "retry": ["ffff"],
    "cost": [],
    "collect": ["--runs", "nowhere"],
    "table": ["no_such_grid"],
    "figures": ["--results", "nowhere"],
    "compare": ["nowhere", "nor_here"],
    "verify": ["nowhere"],
    "metrics": ["nowhere"],
    "predict": ["a.mp4", "--model", "no_such_model"],
    "gradcam": ["a.mp4", "--model", "no_such_model", "--out", "a.png"],
    "check-videos": ["nowhere"],
    "prepare": ["kinetics", "--videos", "nowhere"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_in_one_line_what_is_wrong(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([command, *USELESS[command]]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"dualformer {command}: ") and len(output.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_module_that_needs_a_missing_package_says_so(planted, capsys):
    assert main([planted("import a_package_that_nobody_has")]) == 2
    assert "needs the package 'a_package_that_nobody_has'" in capsys.readouterr().err


def test_mistakes_in_the_code_keep_their_traceback(planted, monkeypatch):
    name = planted("def add_arguments(_): pass\ndef run(_): return {}['key']")
    with pytest.raises(KeyError):
        main([name])
    other = planted("def add_arguments(_): pass\ndef run(_): raise ValueError('x')", "other")
    monkeypatch.setenv("DUALFORMER_TRACEBACK", "1")
    with pytest.raises(ValueError):
        main([other])


PLANTED = """
import sys, types
from dualformer.cli import COMMANDS, Command, program
module = sys.modules["planted"] = types.ModuleType("planted")
exec(sys.argv.pop(1), module.__dict__)
module.add_arguments = lambda parser: None
COMMANDS["planted"] = Command("planted", "models", "planted", "")
sys.argv[1:] = ["planted"]
program()
"""


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def buffering(request, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


@pytest.mark.usefixtures("buffering")
@pytest.mark.parametrize("lines", [1, 100_000])
def test_output_that_nobody_reads_ends_quietly(lines):
    process = python(PLANTED, f"def run(_):\n  for n in range({lines}): print(n)\n  return 0")
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 128 + 13)


@pytest.mark.usefixtures("buffering")
@pytest.mark.parametrize("words", ["--help", "--version", "models --help"])
def test_help_that_nobody_reads_ends_quietly(words):
    process = python("from dualformer.cli import program; program()", *words.split())
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 128 + 13)


@pytest.mark.usefixtures("buffering")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_without_room_is_an_error():
    with open("/dev/full", "w") as full:
        process = python(PLANTED, "def run(_): print('word'); return 0", stdout=full)
    error = process.stderr.read()
    assert process.wait() == 2
    assert len(error.splitlines()) == 1 and "No space left on device" in error


def test_interrupted_is_quiet_and_130():
    code = "def run(_):\n  import time; print('ready', flush=True); time.sleep(60)"
    process = python(PLANTED, code)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert (process.stderr.read(), process.wait()) == ("", 130)


def test_door_opens_from_any_folder(tmp_path):
    """Commands of other packages are found where the library is, and not where the shell is."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/__init__.py").write_text("raise SystemExit('another project')")
    code = "import sys; sys.path.insert(1, sys.argv.pop(1)); from dualformer.cli import program; program()"
    process = python(code, str(ROOT), "fields", "seed", cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""})
    out, err = process.communicate()
    assert (err, process.returncode) == ("", 0)
    assert "seed" in out


def test_documented_commands_are_those_there_are():
    document = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    written = document.partition("<!-- commands -->\n")[2].partition("<!-- end -->")[0]
    assert written == cli.documented()


def test_console_script_is_the_door():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["dualformer"].split(":")
    assert getattr(importlib.import_module(module), function) is cli.program


def test_files_that_a_shell_completes_say_so():
    """argcomplete's global completion looks for the mark in the first kilobyte."""
    for file in ("cli.py", "__main__.py"):
        assert "PYTHON_ARGCOMPLETE_OK" in (ROOT / "dualformer" / file).read_text()[:1024]


def test_library_comes_with_its_suite():
    assert suite.folder() == ROOT
    assert all(importlib.util.find_spec(package) for package in suite.PACKAGES)


def test_library_without_its_suite_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(suite, "__file__", str(tmp_path / "dualformer/suite.py"))
    with pytest.raises(ImportError, match="came without sweeps, slurm, analysis; install the whole project"):
        suite.folder()


def test_suite_in_a_wheel_goes_first(monkeypatch, tmp_path):
    for package in suite.PACKAGES:
        (tmp_path / "dualformer/_suite" / package).mkdir(parents=True)
        (tmp_path / "dualformer/_suite" / package / "__init__.py").touch()
    monkeypatch.setattr(suite, "__file__", str(tmp_path / "dualformer/suite.py"))
    monkeypatch.setattr(sys, "path", ["", "/elsewhere"])
    suite.ensure_importable()
    suite.ensure_importable()
    assert sys.path == [str(tmp_path / "dualformer/_suite"), "", "/elsewhere"]
