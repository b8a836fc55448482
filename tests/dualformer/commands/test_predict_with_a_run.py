"""A run's folder, id or weights stand for its model: predictions are those that the run's evaluation made."""

import argparse
import csv
import json
import shutil

import pytest

from dualformer.cli import main
from dualformer.commands.predict import add_arguments
from dualformer.commands.single_video import viewer_and_videos
from sweeps.run import execute
from tests.helpers.small_run import prepare_run, small_config, write_bright_and_dark
from tests.helpers.videos import write_video


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was trained and evaluated, and its held-out videos with the probabilities it gave them."""
    folder = tmp_path_factory.mktemp("sweep")
    root = write_bright_and_dark(folder / "data")
    config = small_config(root, train={"save_every": 3}, data={"short_video": "loop", "frame_stride": 2})
    run_dir = prepare_run(folder / "runs", config)
    execute(run_dir)
    with open(run_dir / "predictions.csv", newline="") as file:
        rows = {root / row["file"]: row for row in csv.DictReader(file)}
    return run_dir, rows


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """The finished run, copied to `runs` of the folder where the shell is."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0].parent, tmp_path / "runs")
    return tmp_path / "runs" / finished[0].name


def predicted(capsys, *words):
    """Probabilities by class, for each video in turn."""
    assert main(["predict", *map(str, words)]) == 0
    found, err = capsys.readouterr()
    assert err == ""
    shares = [line.split() for line in found.splitlines() if line.startswith(" ")]
    return [
        {name: float(share.rstrip("%")) / 100 for share, name in shares[at : at + 2]} for at in range(0, len(shares), 2)
    ]


def test_predictions_are_those_of_the_runs_evaluation(finished, run, capsys):
    rows = finished[1]
    found = predicted(capsys, run, *rows)
    assert len(found) == len(rows) > 2
    for shares, row in zip(found, rows.values()):
        assert shares == pytest.approx({name: float(row[name]) for name in ("bright", "dark")}, abs=1e-4)


@pytest.mark.parametrize("how", ["folder", "id", "beginning", "weights", "elsewhere"])
def test_a_run_is_named_in_any_way(how, finished, run, capsys, monkeypatch):
    video, row = next(iter(finished[1].items()))
    words = {
        "folder": [run],
        "id": [run.name],
        "beginning": [run.name[:5]],
        "weights": [run / "weights.pt"],
        "elsewhere": [run.name, "--runs", finished[0].parent],
    }[how]
    (found,) = predicted(capsys, words[0], video, *words[1:])
    assert found["bright"] == pytest.approx(float(row["bright"]), abs=1e-4)


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ([], (2, 1, 2, None)),
        (["--num-clips", "3", "--num-crops", "3"], (3, 3, 2, None)),
        (["--frame-stride", "1", "--resize", "20"], (2, 1, 1, 20)),
    ],
)
def test_options_change_how_a_run_sees(words, seen, run):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    viewer, _ = viewer_and_videos(parser.parse_args([str(run), "clip.mp4", *words]))
    assert (viewer.num_clips, viewer.num_crops, viewer.data.frame_stride, viewer.data.test_resize) == seen
    assert viewer.data.short_video == "loop" and viewer.classes == ["bright", "dark"]


def test_weights_of_a_file_alone_need_a_model(run, finished, tmp_path, capsys):
    video = next(iter(finished[1]))
    loose = shutil.copy(run / "weights.pt", tmp_path / "loose.pt")
    assert main(["predict", str(loose), str(video)]) == 2
    assert capsys.readouterr().err == (
        "dualformer predict: which model? give a run (its folder or id) before the video, or --model NAME\n"
    )


def test_config_of_another_project_makes_no_run(run, finished, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(run / "weights.pt", other / "model.pt")
    (other / "config.json").write_text(json.dumps({"model_type": "timesformer"}))
    assert main(["predict", str(other / "model.pt"), str(next(iter(finished[1])))]) == 2
    assert "which model?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN"], "is no video; give videos after it"),
        (["RUN", "VIDEO", "--model", "vivit_base"], "--model: the run"),
        (["RUN", "VIDEO", "--num-frames", "8"], "--num-frames: the run"),
        (["VIDEO"], "which model?"),
        (["RUN", "gone.mp4"], "gone.mp4: no such file"),
        (["ffff", "VIDEO"], "which model?"),
        (["RUN", "VIDEO", "--resize", "8"], "--resize 8 is smaller than the crop 16x16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line_and_status_2(words, message, finished, run, capsys):
    names = {"RUN": str(run), "VIDEO": str(next(iter(finished[1])))}
    assert main(["predict", *(names.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_a_run_without_weights_says_how_to_keep_them(run, finished, capsys):
    (run / "weights.pt").unlink()
    assert main(["predict", str(run), str(next(iter(finished[1])))]) == 2
    assert "kept no weights; --set train.save_every=N keeps those of a run" in capsys.readouterr().err


def test_a_video_that_can_not_be_read_loses_no_other(run, finished, tmp_path, capsys):
    (tmp_path / "empty.mp4").touch()
    video = str(next(iter(finished[1])))
    assert main(["predict", str(run), "empty.mp4", video]) == 1
    out, err = capsys.readouterr()
    assert "empty.mp4" in err and len(err.splitlines()) == 1
    assert out.startswith(f"{video}:\n")


def test_gradcam_of_a_run(run, finished, tmp_path, capsys):
    video = str(next(iter(finished[1])))
    assert main(["gradcam", str(run), video, "--class", "dark", "--out", "seen.png"]) == 0
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
    assert main(["gradcam", str(run), video, video, "--out", "seen.png"]) == 2
    assert "one video makes one picture, got 2" in capsys.readouterr().err


def test_a_model_of_ones_own_predicts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "net_of_a_test.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, num_classes))\n"
    )
    video = write_video(tmp_path / "clip.mp4", 20)
    shape = ["--num-frames", "4", "--crop-size", "32"]
    assert main(["predict", str(video), "--model", "net_of_a_test:net", *shape]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
