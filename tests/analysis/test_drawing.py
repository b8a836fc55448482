"""Figures: what is drawn, what is written beside it, and where the file says it comes from."""

import re

import pytest
from matplotlib.image import imread
from PIL import Image

from analysis import collect, load, tables
from analysis.drawing import ablation as ablation_figure
from analysis.drawing import accuracy_vs_cost, canvas, growth, style
from dualformer import attention
from tests.helpers import synthetic_runs
from tests.helpers.planted import FREE


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    collect.main(["--runs", str(synthetic_runs.write_all(folder / "runs")), "--out", str(folder / "out")])
    return {grid: load.load_grid(grid, [folder / "out"])[0] for grid in ("ablations", "scaling", "published_sizes")}


@pytest.fixture(scope="module")
def ablation(results):
    return ablation_figure.draw(tables.ablation(results["ablations"]), results["ablations"])


def words(drawing):
    figure = drawing.figure
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_ablation_shows_every_pattern_chance_and_failures(ablation):
    shown = words(ablation)
    for text in ("LL", "LG", "FF", "window + pyramid (DualFormer)", "chance 50%", "error: loss is NaN at step 40",
                 "missing: never started", "motion accuracy", "relation accuracy", "8 frames of 32x32 pixels",
                 "256 held-out clips", "Small demonstration runs"):  # fmt: skip
        assert text in shown


def test_ablation_of_data_without_factors_has_top1_and_no_demonstration_note(results):
    table = results["ablations"]
    frame = tables.ablation(table).drop(columns=["top1_motion", "top1_relation"]).assign(**{"data.root": "clips"})
    shown = words(ablation_figure.draw(frame, table))
    assert "top-1 accuracy" in shown
    assert "chance 25%" in shown
    assert "demonstration" not in shown


def test_ablation_without_accuracies_draws_costs(results):
    table = results["ablations"]
    bare = tables.ablation(table).assign(top1=None, top1_motion=None, top1_relation=None)
    assert "GMACs per view" in words(ablation_figure.draw(bare, table))


def test_a_grid_of_failures_says_that_there_is_nothing_to_draw(tmp_path):
    failed = {"status": "error", "reason": "no such folder"}
    synthetic_runs.write_run(tmp_path / "runs", "a" * 12, synthetic_runs.config("LG"), failed)
    synthetic_runs.write_grid(tmp_path / "runs", "failures", {"a" * 12: {}})
    collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    [table] = load.load_grid("failures", [tmp_path])
    for drawing in (
        ablation_figure.draw(tables.ablation(table), table),
        growth.draw(tables.growth(table)[0], table),
    ):
        assert "No run has anything to draw" in words(drawing)


def test_seeds_are_drawn_each_and_their_mean_is_written(tmp_path):
    differs = {}
    for seed, top1 in enumerate((0.6, 0.8)):
        run_id = str(seed) * 12
        config = {**synthetic_runs.config("LG"), "seed": seed}
        result = {**synthetic_runs.counted(0.1), "top1": top1, "num_videos": 50, "chance_top1": 0.25}
        synthetic_runs.write_run(tmp_path / "runs", run_id, config, result)
        differs[run_id] = {"seed": seed}
    synthetic_runs.write_grid(tmp_path / "runs", "seeds", differs)
    collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    [table] = load.load_grid("seeds", [tmp_path])
    drawing = ablation_figure.draw(tables.ablation(table), table)
    marks = [line for line in drawing.figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in marks] == [0.6, 0.8]
    assert "70%" in words(drawing)
    assert "2 seeds" in words(drawing)


def test_kinetics_figure_names_models_counts_and_what_lies_outside(results):
    published, _ = tables.published_points(load.load_published())
    counts = tables.compare_counts(published, [results["published_sizes"]])
    shown = words(accuracy_vs_cost.draw(published, counts, [results["published_sizes"]]))
    for text in ("DualFormer-T", "TimeSformer", "Swin-B", "ViViT-B", "451.6 vs 455.2", "lie outside", "MACs"):
        assert text in shown


def test_kinetics_figure_without_our_counts_has_one_panel():
    published, _ = tables.published_points(load.load_published())
    drawing = accuracy_vs_cost.draw(published, tables.compare_counts(published, []))
    assert len(drawing.figure.axes) == 1
    assert "published numbers" in drawing.source


def test_every_named_point_exists():
    published = load.load_published()
    assert set(accuracy_vs_cost.NAMED_POINTS) <= set(zip(published["model"], published["variant"]))


def test_growth_names_lines_and_crosses_out_of_memory(results):
    lines, _ = tables.growth(results["scaling"])
    drawing = growth.draw(lines, results["scaling"])
    shown = words(drawing)
    assert "against frames, at 112x112 pixels" in shown
    assert "against resolution, at 16 frames" in shown
    assert "× FF oom at 448" in shown
    # 7.5 GMACs x tokens^1 over 16 -> 64 frames: the windowed line doubles with the frames.
    assert "LL  window  × 2.0" in shown


def test_names_of_lines_keep_apart_below_the_top():
    assert growth._spread([10, 12, 50], gap=11, top=100) == [10, 21, 50]
    assert growth._spread([80, 85, 90], gap=11, top=92) == [70, 81, 92]


def test_footer_names_runs_commit_device_and_date(results, ablation):
    for text in (
        "7 runs",
        "ids ",
        results["ablations"].digest,
        "commit 0123456789",
        "Example(R) CPU 3000",
        "2026-01-02",
    ):
        assert text in ablation.source
    assert ablation.source in words(ablation)


def test_footer_admits_uncommitted_changes(results):
    table = results["ablations"]
    changed = load.Table(table.frame, {**table.sheet, "dirty": True, "finished": ["a" * 12]}, table.digest)
    line = canvas.provenance_line([changed])
    assert "+ uncommitted changes" in line
    assert "a" * 12 in line


def test_files_carry_title_and_source(ablation, tmp_path):
    saved = canvas.save(ablation, "figure", tmp_path)
    metadata = Image.open(saved.png).text
    assert metadata["Title"] == ablation.title
    assert metadata["Source"] == ablation.source
    assert metadata["Software"].startswith("analysis/drawing")
    svg = saved.svg.read_text()
    assert ablation.title in svg
    assert "commit 0123456789" in svg
    assert imread(saved.png).std() > 0.05


def test_the_same_data_give_the_same_bytes(results, ablation, tmp_path):
    first = canvas.save(ablation, "first", tmp_path)
    again = ablation_figure.draw(tables.ablation(results["ablations"]), results["ablations"])
    second = canvas.save(again, "second", tmp_path)
    assert first.png.read_bytes() == second.png.read_bytes()
    assert first.svg.read_bytes() == second.svg.read_bytes()


def test_nothing_runs_over_the_edge(results, ablation):
    published, _ = tables.published_points(load.load_published())
    counts = tables.compare_counts(published, [results["published_sizes"]])
    lines, _ = tables.growth(results["scaling"])
    drawings = (
        ablation,
        accuracy_vs_cost.draw(published, counts, [results["published_sizes"]]),
        growth.draw(lines, results["scaling"]),
    )
    for drawing in drawings:
        inked = drawing.figure.get_tightbbox()
        width_in, height_in = drawing.figure.get_size_inches()
        assert 0 <= inked.x0 < inked.x1 <= width_in, drawing.title
        assert 0 <= inked.y0 < inked.y1 <= height_in, drawing.title


def test_every_published_family_has_a_look_of_its_own():
    families = style.published_families()
    assert set(load.load_published()["attention_family"]) <= set(families)
    assert len({(look.colour, look.marker) for look in families.values()}) == len(families)
    assert all(re.fullmatch("#[0-9A-F]{6}", look.colour) and look.words for look in families.values())


NEW_ATTENTION = """
from dualformer.attention.base import Attention


class Axial(Attention):
    letter = "{letter}"
    words = "crosswise"
    colour = "#123456"
    marker = "*"
"""


def test_a_new_letter_is_drawn_under_its_own_words_and_colour(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "crosswise.py").write_text(NEW_ATTENTION.replace("{letter}", FREE))
    differs = {}
    for number, pattern in enumerate(("LG", FREE * 2, f"L{FREE}")):
        for frames in (8, 16):
            run_id = f"{10 * number + frames:012d}"
            differs[run_id] = {"model.attention": pattern, "model.num_frames": frames}
            config = synthetic_runs.config(pattern, frames=frames)
            synthetic_runs.write_run(tmp_path / "runs", run_id, config, synthetic_runs.counted(0.1 * frames))
    synthetic_runs.write_grid(tmp_path / "runs", "letters", differs)
    collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    [table] = load.load_grid("letters", [tmp_path])
    with attention.also_in(tmp_path / "letters"):
        frame = tables.ablation(table).set_index("pattern")
        assert (
            frame.loc[FREE * 2, ["words", "colour", "marker"]].to_numpy().tolist()
            == [["crosswise", "#123456", "*"]] * 2
        )
        assert set(frame.loc[f"L{FREE}", "words"]) == {"window + crosswise"}
        assert frame["colour"].nunique() == 3
        drawing = growth.draw(tables.growth(table)[0], table)
        bars = ablation_figure.draw(tables.ablation(table), table)
    assert f"{FREE * 2}  crosswise" in words(drawing) and "crosswise" in words(bars)
    assert "#123456" in {line.get_color() for axis in drawing.figure.axes for line in axis.lines}


def test_rows_of_letters_that_no_file_has_any_more_are_drawn(tmp_path):
    synthetic_runs.write_run(
        tmp_path / "runs", "a" * 12, synthetic_runs.config(f"{FREE}L"), synthetic_runs.counted(0.1)
    )
    synthetic_runs.write_grid(tmp_path / "runs", "old", {"a" * 12: {"model.attention": f"{FREE}L"}})
    collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    [table] = load.load_grid("old", [tmp_path])
    assert f"{FREE}L" in words(ablation_figure.draw(tables.ablation(table), table))


def test_networks_of_ones_own_are_named_by_their_function(tmp_path):
    differs = {}
    for number, name in enumerate(("my.nets:small", "my.nets:large", "their.nets:large", "vivit_base")):
        run_id = str(number) * 12
        differs[run_id] = {"model.name": name}
        config = synthetic_runs.config(None, name=name)
        synthetic_runs.write_run(tmp_path / "runs", run_id, config, synthetic_runs.counted(number + 1.0))
    synthetic_runs.write_grid(tmp_path / "runs", "own", differs)
    collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    [table] = load.load_grid("own", [tmp_path])
    assert sorted(tables.labels(table)) == ["my.nets:large", "small", "their.nets:large", "vivit_base"]
    assert "small" in words(ablation_figure.draw(tables.ablation(table), table))
