"""What verifying computes anew: every field of a sound result set is changed alone, and each change is seen."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from analysis import collect, verify
from analysis.checks import ON_TRUST, ON_TRUST_IN_TABLES
from dualformer.results import result_set, table
from sweeps.run_config import irrelevant_fields
from tests.helpers import sound_runs


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder of runs and the table of them."""
    folder = tmp_path_factory.mktemp("sound")
    sound_runs.write_sweep(folder / "runs")
    assert collect.main(["--runs", str(folder / "runs"), "--out", str(folder / "out")]) == 0
    return folder


@pytest.fixture
def runs(tmp_path):
    return sound_runs.write_sweep(tmp_path / "runs")


def read(folder):
    (found,) = result_set.read(folder)
    return found


def without_seal(found):
    records = [{name: value for name, value in sheet.items() if name != "rows_sha256"} for sheet in found.records]
    return dataclasses.replace(found, records=records)


def mutations(value):
    """Other values that a cell might have; None takes it away."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [value + 1, value * 2 + 1, None]
    if isinstance(value, float):
        return [value * 1.001 + 1e-6, value * 2 + 0.01, value / 2, None]
    if isinstance(value, list):
        return [[*value, "more"], value[:-1] if value else ["x"], None]
    return [f"{value}x", None]


def unseen(found, **options):
    """Fields of which some change is not seen; any factor's accuracy counts as `top1_<factor>`."""
    missed = set()
    row = next(row for row in found.rows if row["model.attention"] == "DD")
    others = [other for other in found.rows if other is not row]
    chosen = table.configuration(row)
    for name, value in row.items():
        for other in mutations(value):
            if other == value or (other is None and (name in chosen or value == "")):
                continue  # a field left out has its default, often this one
            changed = {**row, name: other} if other is not None else {k: v for k, v in row.items() if k != name}
            if not verify.verify(dataclasses.replace(found, rows=[*others, changed]), **options):
                missed.add("top1_<factor>" if name.startswith("top1_") else name)
    return missed


def test_sound_results_are_accepted_without_a_note(sound):
    for place in ("runs", "out"):
        found = read(sound / place)
        assert (verify.verify(found), list(verify.notes(found))) == ([], [])


def test_no_change_of_a_cell_is_overlooked_beside_its_seal(sound):
    assert unseen(read(sound / "out"), quick=True) == set()


def test_what_a_table_without_seal_holds_on_trust_is_listed(sound):
    found = without_seal(read(sound / "out"))
    missed = unseen(found) - irrelevant_fields()
    known = {*ON_TRUST, *ON_TRUST_IN_TABLES} - {"provenance.commit"}
    assert missed - known == set()
    absent = {"compile_s", "num_failed_videos", "provenance.cudnn"}  # of these rows, or of our data set
    assert known - missed - absent == set(), "what is listed is not seen indeed"


def test_what_a_folder_of_runs_holds_on_trust_is_listed(sound):
    missed = unseen(read(sound / "runs")) - irrelevant_fields()
    assert missed - set(ON_TRUST) == set()
    assert set(ON_TRUST) - missed - {"provenance.cudnn"} == set()


def test_a_doctored_table_is_rejected_with_the_reasons_named(sound):
    found = without_seal(read(sound / "out"))
    by_pattern = {row["model.attention"]: dict(row) for row in found.rows}
    swapped = {"LG": "DD", "DD": "LG", "FF": "FF"}
    rows = [{**row, "model.attention": swapped[pattern]} for pattern, row in by_pattern.items()]
    told = verify.verify(dataclasses.replace(found, rows=rows))
    ids = {row["run_id"] for row in (by_pattern["LG"], by_pattern["DD"])}
    for words in ("its config makes network", "params_m is", "gmacs_per_view is", "train_gmacs_per_clip is"):
        assert {reason.split(":")[0] for reason in told if words in reason} == ids, words

    halved = ("gmacs_per_view", "gmacs_total", "gflops_total")
    rows = [{**row, **{name: row[name] / 2 for name in halved}} for row in found.rows]
    told = verify.verify(dataclasses.replace(found, rows=rows))
    assert len(told) == 3 and all("gmacs_per_view is" in reason for reason in told)

    rows = [{**row, "top1": 0.9, "top1_relation": 0.5, "calibration_error": 0.02} for row in found.rows]
    told = " ".join(verify.verify(dataclasses.replace(found, rows=rows)))
    for words in ("top1 is 0.9, more than top1_relation 0.5", "57.60 videos", "all classes have as many videos"):
        assert words in told


def test_whatever_a_cell_holds_the_others_are_checked(sound):
    found = read(sound / "out")
    first, second, third = found.rows
    third = {**third, "num_views": 99}
    for name in first:
        for odd in ("", "x", [], {}, [None], True, -1, 1e308):
            told = verify.verify(dataclasses.replace(found, rows=[{**first, name: odd}, second, third]), quick=True)
            assert any("num_views is 99" in reason for reason in told), (name, odd)
    odd = {**first, "measure.batch_size": "many", "model.overrides.depths": [[]], "train.steps": {}}
    assert any("num_views is 99" in told for told in verify.verify(dataclasses.replace(found, rows=[odd, third])))


def test_identity_by_the_former_rule_is_checked_and_said(sound):
    found = without_seal(read(sound / "out"))
    rows = []
    for row in found.rows:
        from analysis.checks.networks import config_of

        older = {name: value for name, value in row.items() if name not in ("provenance.network", "provenance.code")}
        rows.append({**older, "run_id": config_of(row).former_run_id})
    sheet = {**found.records[0], "expected": [row["run_id"] for row in rows], "codes": []}
    sheet["finished"] = sheet["expected"]
    older = dataclasses.replace(found, rows=rows, records=[sheet], codes={})
    assert verify.verify(older) == []
    assert any("3 rows are older than networks' digests" in note for note in verify.notes(older))
    rows[0] = {**rows[0], "train.learning_rate": 0.5}
    assert any("its config is that of run" in reason for reason in verify.verify(older))


def test_a_new_row_can_not_pass_for_an_older_one(sound):
    found = without_seal(read(sound / "out"))
    rows = [{name: value for name, value in row.items() if name != "provenance.network"} for row in found.rows]
    assert any("missing provenance: network" in told for told in verify.verify(dataclasses.replace(found, rows=rows)))


def test_a_model_by_import_path_is_not_imported_and_that_is_said(sound, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("import pathlib\npathlib.Path(__file__).with_name('sprung').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = without_seal(read(sound / "out"))
    rows = [{**row, "model.name": "trap:model"} for row in found.rows[:1]]
    changed = dataclasses.replace(found, rows=rows)
    verify.verify(changed)
    assert not (tmp_path / "sprung").exists()
    assert any("trap:model not imported" in note for note in verify.notes(changed))
    assert verify.verify(changed, import_models=True)
    assert (tmp_path / "sprung").exists()


def change_json(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_cell(path, row, column, value):
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    rows[row][column] = value
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: change_json(run / "measurement.json", samples_ms=[1.0] * 20), "latency_ms_p50 is"),
        (lambda run: change_json(run / "measurement.json", pass_ms=5.0), "throughput_clips_per_s is"),
        (lambda run: change_json(run / "measurement.json", flags=["throttled: now"]), "flags is"),
        (lambda run: change_json(run / "measurement.json", energy={"reason": "no meter"}), "energy_j_per_clip is"),
        (lambda run: (run / "measurement.json").unlink(), "no measurement.json"),
        (lambda run: change_cell(run / "predictions.csv", 1, 1, "other down"), "by predictions.csv"),
        (lambda run: (run / "predictions.csv").unlink(), "can't be taken anew"),
        (lambda run: change_cell(run / "confusion.csv", 1, 1, "40"), "confusion.csv is not that"),
        (lambda run: change_cell(run / "classes.csv", 1, 3, "99"), "classes.csv is not that"),
        (lambda run: (run / "calibration.csv").unlink(), "calibration.csv is not that"),
        (
            lambda run: (run / "metrics.jsonl").write_text('{"step": 40, "steps": 40, "loss": 0.1}\n'),
            "final_train_loss",
        ),
        (lambda run: (run / "metrics.jsonl").unlink(), "no metrics.jsonl"),
        (lambda run: change_json(run / "provenance.json", code_files={"a.py": "b" * 12}), "its code is not the digest"),
        (lambda run: change_json(run / "provenance.json", network_config={}), "its network is not the digest"),
        (lambda run: change_json(run / "provenance.json", seed=9), "seed is 9, and 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_files_of_a_run_must_say_the_same(runs, damage, words):
    run = next(path.parent for path in runs.glob("*/result.json"))
    damage(run)
    assert any(words in reason for reason in verify.verify(read(runs)))
    assert any(words in reason for reason in verify.verify(read(run))), "in a run's folder of its own as well"


def test_a_run_that_the_grid_has_and_nobody_finished_is_told(runs, tmp_path):
    run = next(path.parent for path in runs.glob("*/result.json"))
    (run / "result.json").unlink()
    assert verify.verify(read(runs)) == [f"{run.name}: grid patterns has this run, which has no result"]
    assert verify.verify(read(runs), allow_missing=True) == []
    assert collect.main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert [reason.split(":")[0] for reason in verify.verify(read(tmp_path / "out"))] == [run.name]


def test_withheld_times_are_no_lack(runs):
    run = next(path.parent for path in runs.glob("*/result.json"))
    result = json.loads((run / "result.json").read_text())
    timed = ("latency_ms_p50", "latency_ms_p20", "latency_ms_p80", "throughput_clips_per_s", "energy_j_per_clip")
    doubt = "times withheld: two passes took 1.00 times as long as one"
    change_json(run / "result.json", **dict.fromkeys(timed), reason=doubt)
    change_json(run / "measurement.json", doubt=doubt)
    assert verify.verify(read(runs)) == []
    change_json(run / "result.json", latency_ms_p50=result["latency_ms_p50"])
    assert any("for which its config doesn't ask" in reason for reason in verify.verify(read(runs)))


def test_the_rows_and_networks_of_other_programs_tables_are_the_same(sound, tmp_path):
    """pandas saves 8 as 8.0 where a column has gaps, and false as False."""
    import pandas as pd

    (original,) = (sound / "out").rglob("*.csv")
    copy = tmp_path / original.name
    pd.read_csv(original, float_precision="round_trip").astype({"measure.batch_size": float}).to_csv(copy, index=False)
    sheet = original.with_name(original.stem + ".manifest.json")
    (tmp_path / sheet.name).write_bytes(sheet.read_bytes())
    assert ",2.0," in copy.read_text() and "False" in copy.read_text()
    assert verify.verify(read(copy)) == []
    assert np.isclose(read(copy).rows[0]["latency_ms_p50"], read(original).rows[0]["latency_ms_p50"])
