"""Whatever the files of a folder of runs hold: the commands that read it say so in words, and end at once."""

import contextlib
import json
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import collect, compare, load, verify
from dualformer.results import layout
from dualformer.results.result import fields
from sweeps.launching import cancel, launcher, logs, retry, status
from tests.helpers import hostile, synthetic_runs
from tests.helpers.bounded import call, fuzzed

RUN, UNFINISHED = "0" * 12, "b" * 12
NOW = "2026-01-02T03:04:05+00:00"

words = st.sampled_from(
    [
        "",
        "ok",
        "error",
        "oom",
        "missing",
        "wat",
        "cpu",
        "cuda",
        "x" * 3000,
        "é" * 300,
        "\ud800",
        "../../x",
        "/etc/passwd",
    ]
    + [NOW, "2026-01-02", "slurm:12_3", "slurm:--help", "local:1:2.0", "nowhere:5:6@", RUN, "abc", *hostile.NAMES]
)
numbers = st.sampled_from([-1, 0, 1, 5, 10**9, 10**30, 0.5, -0.5, 1e-320, 1e308, float("nan"), float("inf")])
values = st.recursive(
    st.one_of(words, numbers, st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
broken = st.sampled_from(
    [b"", b"{", b"null", b"[]", b'{"a":"\xe9"}', b"[" * 20_000, b'{"step": ' + b"9" * 5000 + b"}", b"\0" * 100]
)


def some(names: list[str]) -> st.SearchStrategy[dict]:
    return st.dictionaries(st.sampled_from(names), values, max_size=3)


def whole(path: Path) -> dict:
    return json.loads(path.read_text())


OBJECTS = {
    layout.RESULT: some(["status", "reason", "run_id", "schema_version", "flags", *fields()]),
    layout.CONFIG: some(["seed", "model", "data", "train", "measure", "evaluate", "=1+1", "a.b"]),
    layout.PROVENANCE: some(
        ["commit", "dirty", "code", "code_files", "device", "device_name", "threads", "started_utc"]
    ),
    layout.MEASUREMENT: some(["samples_ms", "gate"]),
}
EVENTS = ["submit", "submitted", "start", "busy", "end", "found", "lost", "refused", "stopped", "cancelled", "retry"]
event = st.fixed_dictionaries(
    {"event": st.sampled_from(EVENTS), "time": st.just(NOW) | words, "token": st.just("t") | words},
    optional={"executor": values, "host": st.just(socket.gethostname()) | values, "launcher": values, "index": values}
    | {"job_id": words, "node": values, "reason": values, "pid": values, "status": values},
)  # fmt: skip
step = st.fixed_dictionaries({"step": values}, optional={"steps": values, "clips_per_s": values})
listed = st.fixed_dictionaries({"run_id": words | values}, optional={"differs": values})
launch = st.fixed_dictionaries({}, optional={"arguments": values, "folder": values, "runs": st.just([RUN]) | values})
record = st.fixed_dictionaries(
    {"grid": values, "runs": st.lists(listed, max_size=3) | values},
    optional={"launches": st.lists(launch | values, max_size=2) | values, "text": values},
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzzed")
    synthetic_runs.write_ablations(folder / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        look()  # imports what no bound is about
        yield Path("runs")


def look() -> None:
    """Every command that reads a folder of runs and ends by itself."""
    for main, *arguments in (
        (status.main, "--once"),
        (status.main, "--once", "--grid", "ablations"),
        (collect.main, "--replace", "--out", "results"),
        (logs.main, UNFINISHED),
        (retry.main, "nowhere"),
        (cancel.main, "nowhere"),
    ):
        call(main, "--runs", "runs", *arguments)
    call(verify.main, "runs", statuses=(0, 1, 2))
    call(compare.main, "runs", "runs")
    for table in sorted(Path("results").glob("*/*.csv")):
        call(verify.main, str(table), statuses=(0, 1, 2))
        table.unlink()


def look_with(path: Path, content: bytes) -> None:
    """Looks while a file has another content."""
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content)
    try:
        look()
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)


def lines(values: list) -> bytes:
    return b"\n".join(json.dumps(value).encode() for value in values)


@given(st.data())
@fuzzed(60)
def test_objects_of_a_run(runs: Path, data: st.DataObject):
    name = data.draw(st.sampled_from(sorted(OBJECTS)))
    path = runs / data.draw(st.sampled_from([RUN, UNFINISHED])) / name
    kept = whole(path) if path.exists() else {}
    look_with(path, data.draw(OBJECTS[name].map(lambda odd: lines([{**kept, **odd}])) | broken))


@given(st.lists(event, max_size=4).map(lines) | broken)
@fuzzed(60)
def test_ledgers(runs: Path, content: bytes):
    look_with(runs / UNFINISHED / layout.LEDGER, content)


@given(st.lists(step, max_size=3).map(lines) | broken, st.booleans())
@fuzzed(30)
def test_metrics_and_logs(runs: Path, content: bytes, log: bool):
    look_with(runs / UNFINISHED / (layout.LOG if log else layout.METRICS), content)


@given(record.map(lambda value: lines([value])) | broken)
@fuzzed(60)
def test_launch_records(runs: Path, content: bytes):
    look_with(runs / f"ablations{layout.LAUNCH_RECORD}", content)


@given(st.lists(event, max_size=3).map(lines), OBJECTS[layout.RESULT])
@fuzzed(25)
def test_a_dry_run_over_what_others_left(runs: Path, ledger_lines: bytes, odd: dict):
    Path("grid.yaml").write_text("base: {model: {name: dualformer_tiny, num_frames: 4, crop_size: 16}}")
    _, said = call(launcher.main, "--grid", "grid.yaml", "--dry-run", "--runs", "others", "--executor", "local")
    run_dir = Path("others", said.split()[0])
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / layout.LEDGER).write_bytes(ledger_lines)
    (run_dir / layout.RESULT).write_text(json.dumps({"run_id": run_dir.name, "status": "ok", **odd}))
    call(launcher.main, "--grid", "grid.yaml", "--dry-run", "--runs", "others", "--executor", "local")
    (run_dir / layout.RESULT).unlink()


@given(st.binary(max_size=80) | st.text("',\"\n=+-@abc01", max_size=80).map(str.encode), st.booleans())
@fuzzed(60)
def test_tables(runs: Path, odd: bytes, whole_header: bool):
    """A table of which some bytes are others, or nothing but these."""
    assert collect.main(["--runs", "runs", "--replace", "--out", "tables"]) == 0
    (path,) = Path("tables/ablations").glob("*.csv")
    path.write_bytes(path.read_bytes()[: -len(odd) - 1] + odd if whole_header else odd)
    call(verify.main, "tables", statuses=(0, 1, 2))
    call(compare.main, str(path), str(path))
    with contextlib.suppress(load.LoadError):
        load.load_table(path)
