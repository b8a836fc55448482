"""Comparing result sets: joined by configuration, refused when mixed, no difference where there is none."""

import json
import shutil

import numpy as np
import pytest

from analysis import collect, compare
from analysis.compare import CompareError
from dualformer.results.statistics import median_ratio
from tests.helpers import synthetic_runs

PATTERNS = ("LG", "FF")


def write(runs, *, slower=1.0, commit=synthetic_runs.COMMIT, seed=0, batch_size=1, precision="float32", **provenance):
    """A folder of two runs of 30 timed passes each."""
    differs = {}
    for number, pattern in enumerate(PATTERNS):
        run_id = f"{number:06x}{np.random.default_rng(seed).integers(16**6):06x}"
        times = np.random.default_rng([seed, number]).normal(20 * (number + 1) * slower, 0.5, 30)
        config = synthetic_runs.config(pattern) | {"measure": {"batch_size": batch_size, "precision": precision}}
        p20, p50, p80 = np.quantile(times, (0.2, 0.5, 0.8))
        latency = {"latency_ms_p20": p20, "latency_ms_p50": p50, "latency_ms_p80": p80}
        result = {**synthetic_runs.counted(0.1 * (number + 1)), **latency}
        synthetic_runs.write_run(runs, run_id, config, result, commit=commit, **provenance)
        (runs / run_id / "measurement.json").write_text(json.dumps({"samples_ms": times.tolist()}))
        differs[run_id] = {"model.attention": pattern}
    synthetic_runs.write_grid(runs, "two", differs)
    return runs


def edit(runs, file, **fields):
    for path in runs.glob(f"*/{file}.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture
def a(tmp_path):
    return write(tmp_path / "a")


def compared(a, b, *arguments):
    return compare.compare(compare.read_side(str(a)), compare.read_side(str(b)), *arguments)


def test_run_compared_with_itself_shows_no_difference(a, capsys):
    assert compare.main([str(a), str(a)]) == 0
    output = capsys.readouterr().out
    assert output.count("no difference seen") == 3, "two runs and their mean"
    assert output.count("1.000") >= 3
    assert synthetic_runs.COMMIT in output


def test_repetition_shows_no_difference_and_a_slower_one_its_ratio(a, tmp_path, capsys):
    assert compare.main([str(a), str(write(tmp_path / "again", seed=1))]) == 0
    assert capsys.readouterr().out.count("no difference seen") >= 2
    assert compare.main([str(a), str(write(tmp_path / "slow", seed=2, slower=1.1, commit="f" * 40))]) == 0
    output = capsys.readouterr().out
    assert "no difference seen" not in output
    ratios = [float(line.split()[3]) for line in output.splitlines() if line.startswith("model.attention")]
    assert ratios == pytest.approx([1.1, 1.1], rel=0.02)


def test_interval_is_that_of_the_timing_code(a, tmp_path):
    b = write(tmp_path / "b", seed=3, slower=1.05)
    pairs, left_out = compared(a, b)
    assert not left_out
    samples = [[json.loads(path.read_text())["samples_ms"] for path in sorted(runs.glob("*/measurement.json"))]
               for runs in (a, b)]  # fmt: skip
    for pair, of_a, of_b in zip(pairs, *samples):
        ratio, low, high = median_ratio(of_b, of_a)
        assert pair.ratio == pytest.approx(ratio)
        assert np.quantile(pair.draws, (0.025, 0.975)) == pytest.approx((low, high), abs=2e-3)


def test_table_has_no_interval_and_says_why(a, tmp_path, capsys):
    assert collect.main(["--runs", str(a), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert compare.main([str(a), str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert output.count("no interval: a table keeps quantiles") == 2
    assert "no difference" not in output


def test_what_disturbed_a_timing_is_said(a, tmp_path, capsys):
    b = write(tmp_path / "b", seed=1)
    edit(b, "result", flags=["other processes used 1.3 cores"])
    assert compare.main([str(a), str(b)]) == 0
    output = capsys.readouterr().out
    assert "disturbed: model.attention=LG: B: other processes used 1.3 cores" in output
    assert output.count("disturbed: ") == 2


def test_counts_are_exact(a, tmp_path, capsys):
    b = write(tmp_path / "b", seed=1)
    edit(b, "result", gmacs_per_view=0.2)
    assert compare.main([str(a), str(b), "--metric", "gmacs_per_view"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("model.attention")]
    assert lines[0].endswith("2.000  counted, so exact") and lines[1].endswith("1.000  equal")


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        ({"precision": "bfloat16"}, "precision (float32 against bfloat16"),
        ({"batch_size": 8}, "batch (1 against 8"),
        ({"device_name": "NVIDIA H200"}, "device (Example(R) CPU 3000 against NVIDIA H200"),
        ({"threads": 2}, "threads (1 against 2"),
        ({"measurement_version": 2}, "measurement (1 against 2"),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_mixed_conditions_are_refused_unless_named(a, tmp_path, capsys, fields, condition):
    b = write(tmp_path / "b", seed=1, **fields)
    assert compare.main([str(a), str(b)]) == 2
    error = capsys.readouterr().err
    name = condition.split()[0]
    assert f"they differ in {condition}" in error and f"--across {name}" in error
    assert compare.main([str(a), str(b), "--across", name]) == 0


def test_mixed_schema_is_refused(a, tmp_path):
    b = write(tmp_path / "b", seed=1)
    edit(b, "result", schema_version=2)
    with pytest.raises(CompareError, match="differ in schema"):
        compared(a, b)


def test_every_mixed_condition_is_named_at_once(a, tmp_path):
    b = write(tmp_path / "b", seed=1, batch_size=8, device_name="NVIDIA H200")
    with pytest.raises(CompareError, match=r"device .*batch "):
        compared(a, b)


def test_fields_can_be_compared_across(tmp_path, a):
    sides = []
    for folder, pattern in (("lg", "LG"), ("ff", "FF")):
        runs = write(tmp_path / folder)
        for path in runs.glob("*/config.json"):
            if json.loads(path.read_text())["model"]["attention"] != pattern:
                path.with_name("result.json").unlink()
        sides.append(compare.read_side(str(runs)))
    with pytest.raises(CompareError, match=r"they differ in model\.attention"):
        compare.compare(*sides)
    [pair], _ = compare.compare(*sides, across=["model.attention"])
    assert pair.label == "model.attention=LG->FF"
    assert pair.ratio == pytest.approx(2, rel=0.02)
    with pytest.raises(CompareError, match=r"did you mean 'model\.attention'"):
        compare.compare(*sides, across=["model.atention"])


def test_rows_without_partner_or_metric_are_listed_with_their_reason(a, tmp_path, capsys):
    b = write(tmp_path / "b", seed=1)
    first, second = sorted(b.glob("*/result.json"))
    second.unlink()
    assert compare.main([str(a), str(b)]) == 0
    assert "left out: only A has" in capsys.readouterr().out
    first.write_text(json.dumps({"schema_version": 1, "run_id": first.parent.name, "status": "oom", "reason": "full"}))
    assert compare.main([str(a), str(b)]) == 2
    assert "B has no latency_ms_p50 (oom: full)" in capsys.readouterr().err


def test_two_commits_of_one_set(tmp_path):
    write(tmp_path / "both", commit="a" * 40)
    write(tmp_path / "both", commit="b" * 40, seed=1, slower=1.5)
    with pytest.raises(CompareError, match="two rows for one configuration"):
        compared(tmp_path / "both", tmp_path / "both")
    pairs, _ = compared(f"{tmp_path / 'both'}@aaaa", f"{tmp_path / 'both'}@bbbb")
    assert [pair.ratio for pair in pairs] == pytest.approx([1.5, 1.5], rel=0.03)


def test_networks_that_a_default_made_others_are_told(a, tmp_path, capsys):
    shutil.copytree(a, tmp_path / "edited")
    for folder, network in ((a, "a" * 12), (tmp_path / "edited", "b" * 12)):
        for path in folder.glob("*/provenance.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "network": network}))
    assert compare.main([str(a), str(a)]) == 0
    assert "not the same network" not in capsys.readouterr().out
    assert compare.main([str(a), str(tmp_path / "edited")]) == 0
    assert "not the same network in A and B" in capsys.readouterr().out


def test_what_is_not_there_is_named(a, tmp_path, capsys):
    assert compare.main([str(a), str(tmp_path / "nowhere")]) == 2
    assert compare.main([str(a), f"{a}@ffff"]) == 2
    errors = capsys.readouterr().err
    assert "no file or folder" in errors and "comes from commit ffff" in errors
    next(a.glob("*/result.json")).write_text('{"schema_version": 1,')
    assert compare.main([str(a), str(a)]) == 2
    assert "is not JSON" in capsys.readouterr().err
