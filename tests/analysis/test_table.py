"""`dualformer table`: numbers against a hand computation, every way of lacking numbers, and hostile names."""

import csv
import html.parser
import io
import json
import re
from pathlib import Path

import pytest

from analysis import collect, table
from analysis.formats import Cell, Printed, as_csv, as_html, escape_latex, escape_markdown, latex, markdown
from dualformer.data.csv_files import read_csv
from tests.helpers import synthetic_runs

COMMITTED = Path(__file__).parents[2] / "analysis/results"
BASE, BETTER, LUCKY = "LL", "LG", "FF"
TOP1 = {BASE: (0.4, 0.55, 0.6), BETTER: (0.5, 0.6, 0.7), LUCKY: (0.6, 0.55, 0.7)}
"""Pattern -> top-1 with seeds 0, 1, 2."""
GMACS = {BASE: 0.10, BETTER: 0.10, LUCKY: 0.2}


def planned(runs, grid="seeds"):
    """Returns what adds a run to a grid, and writes the launch record anew."""
    differs = {}

    def add(config, result, **fields):
        run_id = f"{len(differs) + 1:012x}"
        differs[run_id] = fields
        if config is not None:
            synthetic_runs.write_run(runs, run_id, config, result)
        synthetic_runs.write_grid(runs, grid, differs)

    return add


def config(pattern, seed, **options):
    return {**synthetic_runs.config(pattern, **options), "seed": seed}


def scored(pattern, top1, **fields):
    return {**synthetic_runs.counted(GMACS[pattern]), "top1": top1, "num_videos": 100, **fields}


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def add(runs):
    return planned(runs)


@pytest.fixture
def seeds(add, runs):
    for pattern, shares in TOP1.items():
        for seed, top1 in enumerate(shares):
            add(config(pattern, seed), scored(pattern, top1), **{"model.attention": pattern, "seed": seed})
    return runs


@pytest.fixture
def printed(capsys):
    """Returns what prints a table of run folders."""

    def call(runs, *options, grid="seeds"):
        assert table.main([grid, "--runs", str(runs), *options]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return call


@pytest.fixture
def numbers(printed):
    """Returns what reads the CSV of a table: a line's value of the first field -> its cells."""

    def call(runs, *options, grid="seeds", field="model.attention"):
        lines = csv.DictReader(io.StringIO(printed(runs, "--format", "csv", *options, grid=grid)))
        return {line[field]: line for line in lines}

    return call


@pytest.fixture
def refused(capsys):
    def call(*words):
        assert table.main([*map(str, words)]) == 2
        output = capsys.readouterr()
        assert output.out == "" and len(output.err.splitlines()) == 1
        return output.err

    return call


def floats(line, *names):
    return [float(line[name]) for name in names]


def test_mean_and_t_interval_over_seeds(seeds, numbers):
    line = numbers(seeds)[BETTER]
    # 0.5, 0.6, 0.7: spread 0.1, t(0.975, 2) = 4.302653, half the width 0.1 / sqrt(3) * t = 0.248414
    found = floats(line, "top1_percent", "top1_percent_low", "top1_percent_high")
    assert found == pytest.approx([60, 35.1586, 84.8414], abs=1e-3)
    assert (line["top1_interval"], line["top1_runs"], line["runs"]) == ("t", "3", "3")


def test_paired_differences_with_holm(seeds, numbers):
    lines = numbers(seeds, "--against", BASE)
    prefix = "top1_difference_points"
    names = (prefix, f"{prefix}_low", f"{prefix}_high", "top1_p", "top1_p_holm", "top1_pairs")
    # Differences 0.1, 0.05, 0.1: t = 5, with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2)
    assert floats(lines[BETTER], *names) == pytest.approx([8.3333, 1.1622, 15.5044, 0.037750, 0.075499, 3], abs=1e-3)
    # 0.2, 0, 0.1: t = sqrt(3)
    assert floats(lines[LUCKY], *names) == pytest.approx([10, -14.8414, 34.8414, 0.225403, 0.225403, 3], abs=1e-3)
    assert [lines[BASE][name] for name in names] == [""] * 6


def test_reading_says_what_intervals_and_tests_are(seeds, printed):
    text = printed(seeds, "--against", "window")
    assert "| 60.0 [35.2, 84.8] | +8.3 [+1.2, +15.5] | 0.075 | 3 |" in text
    assert "in brackets the 95 % t-interval over seeds" in text and "Wilson" not in text
    assert "paired t-test, after Holm's correction for 2 tests" in text
    assert "n = 3 runs a line, 9 of 9 runs ok" in text and synthetic_runs.COMMIT[:12] in text


def test_only_common_seeds_are_paired(seeds, add, numbers):
    add(config("DD", 1), scored(BASE, 0.65), **{"model.attention": "DD", "seed": 1})
    add(config("DD", 7), scored(BASE, 0.05), **{"model.attention": "DD", "seed": 7})
    add(config("GG", 9), scored(BASE, 0.5), **{"model.attention": "GG", "seed": 9})
    lines = numbers(seeds, "--against", BASE)
    assert float(lines["DD"]["top1_difference_points"]) == pytest.approx(10)
    assert (lines["DD"]["top1_pairs"], lines["DD"]["top1_p"]) == ("1", "")
    assert lines["GG"]["top1_difference_points"] == lines["GG"]["top1_pairs"] == ""
    assert float(lines[BETTER]["top1_p_holm"]) == pytest.approx(0.075499, abs=1e-5), "what has no p is no test"


def test_sorted_by_cost_then_accuracy_with_the_frontier(seeds, printed, numbers):
    names = re.findall(r"^\| (\S[^|]*?) \| 3 \|", printed(seeds), re.M)
    assert names == ["**window + pyramid**", "window", "**full**"]
    fronts = {pattern: line["pareto_front"] for pattern, line in numbers(seeds).items()}
    assert fronts == {BETTER: "1", BASE: "0", LUCKY: "1"}


def test_lines_alike_in_cost_and_accuracy_are_both_on_the_frontier(add, runs, numbers):
    for pattern in ("LG", "LL"):
        add(config(pattern, 0), scored(pattern, 0.5), **{"model.attention": pattern})
    assert [line["pareto_front"] for line in numbers(runs).values()] == ["1", "1"]


def test_one_seed_has_a_wilson_interval_over_videos(add, runs, numbers, printed):
    add(config(BASE, 0), scored(BASE, 0.5, top1_motion=0.9), **{"model.attention": BASE})
    line = numbers(runs)[BASE]
    found = floats(line, "top1_percent_low", "top1_percent_high", "top1_motion_percent")
    assert found == pytest.approx([40.3832, 59.6168, 90], abs=1e-3)
    assert line["top1_interval"] == line["top1_motion_interval"] == "wilson"
    assert "Accuracy: one seed, in brackets the 95 % Wilson interval over 100 held-out videos." in printed(runs)


def test_one_seed_among_several_is_marked(seeds, add, printed):
    add(config("DD", 0), scored(BASE, 0.5), **{"model.attention": "DD", "seed": 0})
    text = printed(seeds)
    assert re.search(r"divided \| 1 \| 50.0 \[40.4, 59.6\] §", text), "and not bold: its cost is that of the better"
    assert "- § One seed" in text and "§" not in next(line for line in text.splitlines() if "pyramid" in line)


def test_lines_that_mix_settings_have_no_interval_and_no_difference(add, runs, printed, numbers):
    for pattern in (BASE, BETTER):
        for frames in (8, 16):
            fields = {"model.attention": pattern, "model.num_frames": frames}
            add(config(pattern, 0, frames=frames), scored(pattern, 0.5 + frames / 100), **fields)
    lines = numbers(runs, "--by", "attention", "--against", BASE)
    assert (lines[BETTER]["top1_interval"], lines[BETTER]["mixed_fields"]) == ("range", "model.num_frames")
    assert lines[BETTER]["top1_difference_points"] == ""
    text = printed(runs, "--by", "model.attention", "--against", BASE)
    assert "62.0 (58.0–66.0)" in text and "runs differ in model.num_frames as well" in text
    assert len(numbers(runs, "--by", "attention,num_frames", field="model.num_frames")) == 2
    assert printed(runs, "--against", "LG,16") == printed(runs, "--against", "model.attention=LG, model.num_frames=16")
    assert "| **16** | window |" in printed(runs, "--by", "num_frames", "attention")


def test_failed_and_missing_runs_are_counted_with_their_reasons(seeds, add, printed, numbers):
    failed = {"status": "oom", "reason": "CUDA out\nof memory", "gmacs_total": 0.3, "gmacs_per_view": 0.3}
    add(config("DD", 0), failed, **{"model.attention": "DD", "seed": 0})
    add(config(BASE, 3), {"status": "error", "reason": "loss is NaN"}, **{"model.attention": BASE, "seed": 3})
    add(None, None, **{"model.attention": BASE, "seed": 4})
    text = printed(seeds)
    assert "| window | 3 of 5 |" in text and "| divided | 0 of 1 | — |" in text and "| 0.300 |" in text
    assert "- Not ok: divided: 1 oom: CUDA out of memory." in text
    assert "- Not ok: window: 1 error: loss is NaN." in text and "1 missing: never started" in text
    line = numbers(seeds)[BASE]
    assert [line[name] for name in ("runs", "runs_ok", "runs_failed")] == ["5", "3", "2"]
    assert line["failures"] == "1 error: loss is NaN; 1 missing: never started"


def test_a_run_that_never_started_stands_with_its_like(seeds, add, numbers):
    add(None, None, **{"model.attention": BASE, "seed": 4})
    assert list(numbers(seeds, "--by", "train.steps", field="train.steps")) == ["500"]


def test_disturbed_and_withheld_times_are_marked(add, runs, printed, numbers):
    flags = ["other processes used 1.0 cores"]
    add(config(BASE, 0), scored(BASE, 0.5, flags=flags), **{"model.attention": BASE})
    withheld = {**scored(BETTER, 0.5), "latency_ms_p50": None, "reason": "times withheld: nobody waited", "flags": []}
    add(config(BETTER, 0), withheld, **{"model.attention": BETTER})
    add(config(LUCKY, 0), scored(LUCKY, 0.5, flags=[]), **{"model.attention": LUCKY})
    text = printed(runs, "--columns", "latency_ms_p50", "peak_mem_gib")
    cells = {line.split(" | ")[0].strip("|* "): line.split(" | ")[1:] for line in text.splitlines() if line[:1] == "|"}
    assert cells["window"] == ["5.04 †", "0.402 |"] and cells["window + pyramid"] == ["— †", "0.402 |"]
    assert "†" not in cells["full"][0]
    assert "† Times of window: other processes used 1.0 cores." in text
    assert "† Times of window + pyramid: times withheld: nobody waited." in text
    assert numbers(runs)[BASE]["disturbed"] == flags[0]
    assert "†" not in printed(runs, "--columns", "top1", "peak_mem_gib")


def test_costs_that_differ_between_seeds_have_a_range(add, runs, numbers, printed):
    for seed, latency in enumerate((2.0, 3.0, 4.0)):
        add(config(BASE, seed), scored(BASE, 0.5, latency_ms_p50=latency), seed=seed)
    line = numbers(runs, "--by", "model.attention")[BASE]
    assert floats(line, "latency_ms_p50", "latency_ms_p50_min", "latency_ms_p50_max") == [3, 2, 4]
    assert floats(line, "params_m", "params_m_min", "params_m_max") == [1.2, 1.2, 1.2]
    assert "3.00 (2.00–4.00)" in printed(runs)


def test_without_accuracy_there_are_costs_and_no_frontier(runs, printed, refused):
    synthetic_runs.write_published_sizes(runs)
    text = printed(runs, grid="published_sizes")
    assert (
        "no accuracy was measured, so there is no Pareto frontier" in text and "**" not in text and "top-1" not in text
    )
    rows = re.findall(r"^\| (\w+) \|", text, re.M)[1:]
    costs = synthetic_runs.PUBLISHED_SIZES
    assert rows == sorted(costs, key=costs.get)
    assert "has an accuracy" in refused("published_sizes", "--runs", runs, "--against", "vivit_base")


def test_factors_stand_beside_the_whole_label(runs, printed):
    synthetic_runs.write_ablations(runs)
    head = printed(runs, grid="ablations").splitlines()[2]
    assert head.startswith("| attention | runs | top-1, % | motion, % | relation, % | parameters, M |")


def test_columns_are_as_chosen(seeds, printed):
    text = printed(seeds, "--columns", "p,top1", "--columns", "gflops_total", "p", "--against", BASE)
    assert text.splitlines()[2] == "| attention | p | top-1, % | gflops_total, 10^9 FLOPs |"


def test_sorted_by_another_cost(add, runs, printed):
    for pattern, latency in ((LUCKY, 1.0), (BASE, 2.0)):
        add(config(pattern, 0), scored(pattern, 0.5, latency_ms_p50=latency), **{"model.attention": pattern})
    text = printed(runs, "--cost", "latency_ms_p50")
    assert text.index("full") < text.index("window") and "Sorted by latency, ms" in text


def test_attentions_that_are_called_the_same_are_told_apart(add, runs, printed):
    for pattern in ("L1L2", "LL"):
        add(config(pattern, 0), scored(BASE, 0.5), **{"model.attention": pattern})
    text = printed(runs)
    assert "window (L1L2)" in text and "window (LL)" in text


def test_a_network_without_attention_pattern_has_a_line(add, runs, printed):
    add(config(None, 0, name="vivit_base"), scored(BASE, 0.5), **{"model.name": "vivit_base"})
    add(config(BASE, 0), scored(BASE, 0.6), **{"model.attention": BASE})
    assert "| vivit_base | — | 1 |" in printed(runs)
    assert "+10.0" in printed(runs, "--by", "model.attention", "--against", "null")


def test_tables_of_collect_say_the_same_as_run_folders(seeds, tmp_path, printed, capsys):
    expected = printed(seeds, "--against", BETTER)
    assert collect.main(["--runs", str(seeds), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    folders = [tmp_path / "nothing", tmp_path / "out"]
    assert table.main(["seeds.yaml", "--against", BETTER, "--results", *map(str, folders)]) == 0
    assert capsys.readouterr().out == expected


def test_own_results_go_before_committed_ones(seeds, tmp_path, monkeypatch, capsys):
    assert collect.main(["--runs", str(seeds), "--out", str(tmp_path / "build/results")]) == 0
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert table.main(["seeds"]) == table.main(["published_sizes"]) == 0
    assert "n = 3 runs a line" in capsys.readouterr().out


@pytest.mark.parametrize("form", table.FORMATS)
@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*/*.csv")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_committed_tables_work(path, form, capsys):
    words = [path.parent.name, "--machine", path.stem, "--format", form, "--results", str(COMMITTED)]
    assert table.main(words) == 0
    text = capsys.readouterr().out
    sheet = json.loads(path.with_suffix(".manifest.json").read_text())
    assert text.count("\n") > len({*sheet["expected"]}) / 2 and "nan" not in text


def test_every_device_has_a_table_and_csv_has_them_in_one(capsys):
    words = ["scaling", "--results", str(COMMITTED)]
    assert table.main(words) == 0
    assert capsys.readouterr().out.count("Grid scaling on ") == 2
    assert table.main([*words, "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {line["device"] for line in lines} == {"AMD EPYC", "NVIDIA H200"} and None not in lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "atention"], "--by atention: no such field; did you mean 'model.attention'"),
        (["--by", "train.stepz"], "did you mean 'train.steps'"),
        (["--by", "nothing_like_it"], "seeds varies model.attention, seed"),
        (["--by", "top1"], "--by top1: that is what runs came to"),
        (["--against", "LX"], "--against LX: no such line; did you mean 'LL' or 'LG'?"),
        (["--columns", "latency"], "--columns latency: no such column; did you mean"),
        (["--columns", "pairs"], "--against names a line"),
        (["--machine", "examples-cpu"], "no results on 'examples-cpu'; did you mean 'example-cpu-3000'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_name_the_nearest(seeds, refused, words, message):
    assert message in refused("seeds", "--runs", seeds, *words)


def test_what_is_not_there_is_said(tmp_path, seeds, refused, add):
    assert "no grid 'sedes'" in refused("sedes", "--runs", seeds)
    assert "no table of grid 'seeds'" in refused("seeds", "--results", tmp_path)
    assert "did you mean 'scaling'?" in refused("scalling", "--results", COMMITTED)
    unfinished = planned(tmp_path / "other", "unfinished")
    unfinished(config(BASE, 0), None)
    assert "no run of unfinished" in refused("unfinished", "--runs", tmp_path / "other")


def test_a_table_that_is_torn_is_refused(seeds, tmp_path, refused, capsys):
    assert collect.main(["--runs", str(seeds), "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    path = tmp_path / "seeds/example-cpu-3000.csv"
    path.write_text(path.read_text().replace("0.55", "high"))
    assert "top1" in refused("seeds", "--results", tmp_path)
    sheet = path.with_suffix(".manifest.json")
    sheet.write_text(json.dumps({**json.loads(sheet.read_text()), "differs": None}))
    assert "field 'differs' is None, not a list" in refused("seeds", "--results", tmp_path)
    sheet.unlink()
    assert "is missing" in refused("seeds", "--results", tmp_path)


HOSTILE = "=cmd|'x'!A1 & 50% $a_b$ #{\\input{x}} <script>alert(1)</script> **b** [l](//x) `c` ~^ \"q\"\nnext"


@pytest.fixture
def hostile(add, runs):
    add(config(BASE, 0, name=HOSTILE), scored(BASE, 0.5), **{"model.name": HOSTILE})
    add(config(BASE, 0, name="[16]"), {"status": "error", "reason": HOSTILE}, **{"model.name": "[16]"})
    return runs


def test_hostile_names_in_csv(hostile, printed, tmp_path):
    path = tmp_path / "read.csv"
    path.write_text(printed(hostile, "--format", "csv"))
    _, lines = read_csv(path)
    assert [line["model.name"] for line in lines] == [HOSTILE.replace("\n", " "), "[16]"]
    cells = [cell for line in csv.reader(path.read_text().splitlines()) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]
    assert HOSTILE.replace("\n", " ").partition("next")[0].strip() in lines[1]["failures"]


def test_hostile_names_in_html(hostile, printed):
    class Reader(html.parser.HTMLParser):
        tags, texts = set(), []

        def handle_starttag(self, tag, attrs):
            self.tags.add(tag)

        def handle_data(self, data):
            self.texts.append(data)

    reader = Reader()
    text = printed(hostile, "--format", "html")
    reader.feed(text)
    assert reader.tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "strong", "sup", "ul", "li"}
    assert HOSTILE.replace("\n", " ") in reader.texts and text.isascii()


def test_hostile_names_in_latex(hostile, printed):
    text = printed(hostile, "--format", "tex")
    body = re.sub(r"\\[\\{}$&%#_]", "", text)
    assert body.count("{") == body.count("}") and not set('%#_~<>|"^') & set(body)
    assert "\\input" not in text and "\n[" not in text and "\n{}[16] & " in text
    rows = [line for line in body.splitlines() if " & " in line]
    assert len({line.count("&") for line in rows}) == 1


def test_hostile_names_in_markdown(hostile, printed):
    text = printed(hostile)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, "no name ends a cell"
    assert len(lines) == 4
    markdown_it = pytest.importorskip("markdown_it")
    shown = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(text)
    assert "<script" not in shown and "<a " not in shown and "<code>" not in shown
    assert "alert(1)" in shown and "50% $a_b$" in shown


def test_escapes():
    assert escape_latex("a\\b~†") == r"a\textbackslash{}b\textasciitilde{}\textdagger{}"
    assert escape_markdown("num_frames [1, 2] _x_ a|b") == r"num_frames [1, 2] \_x\_ a\|b"


def test_writers_on_one_table():
    one = Printed("Of <grid>", ["a", "n, %"], 1, [[Cell("x", "†", strong=True), Cell("1")]], ["A note."])
    assert markdown(one) == "Of \\<grid\\>\n\n| a | n, % |\n| --- | ---: |\n| **x** † | 1 |\n\n- A note."
    assert r"\textbf{x}\textsuperscript{\textdagger{}} & 1 \\" in latex(one) and r"n, \%" in latex(one)
    assert "<td><strong>x</strong><sup>&#8224;</sup></td>" in as_html(one)
    assert as_csv(["a", "n"], [["-x", -1.5], [None, 2]]) == "a,n\n'-x,-1.5\n,2"


def test_seeds_of_other_settings_are_no_repetitions(add, runs, numbers):
    for seed, frames in enumerate((8, 16)):
        add(config(BASE, seed, frames=frames), scored(BASE, 0.5 + seed / 10), seed=seed, **{"model.num_frames": frames})
    assert numbers(runs, "--by", "model.attention")[BASE]["top1_interval"] == "range"
