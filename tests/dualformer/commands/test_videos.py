"""What the command line prints, writes and returns, for good input and bad."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dualformer import create_model
from dualformer.cli import main
from dualformer.gradcam import gradcam
from tests.helpers.videos import write_audio, write_images, write_manifest, write_video

ROOT = Path(__file__).parents[3]
SMALL = ("--model", "dualformer_tiny", "--num-frames", "4", "--crop-size", "64")


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def video(tmp_path):
    return str(write_video(tmp_path / "clip.mp4", 30))


@pytest.fixture
def three_classes(tmp_path):
    """Options for a model that always answers "kick"."""
    model = create_model("dualformer_tiny", num_classes=3, num_frames=4, crop_size=64)
    with torch.no_grad():
        model.head.weight.mul_(1e-3)
        model.head.bias.copy_(torch.tensor([0.0, 3.0, 1.0]))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "classes.txt").write_text("hug\nkick\npoint\n")
    return (*SMALL, "--weights", str(tmp_path / "weights.pt"), "--classes", str(tmp_path / "classes.txt"))


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_predict_prints_classes_by_probability(video, three_classes, capsys):
    assert main(["predict", video, *three_classes, "--num-clips", "2", "--num-crops", "3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [name for _, name in lines] == ["kick", "point", "hug"]
    expected = torch.tensor([3.0, 1.0, 0.0]).softmax(dim=0).tolist()
    assert [float(share.rstrip("%")) / 100 for share, _ in lines] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("command", [("predict", "--num-clips", "1"), ("gradcam", "--out", "seen.png")])
def test_another_set_of_weights_is_taken_where_it_is_named(video, three_classes, tmp_path, capsys, command):
    trained = torch.load(tmp_path / "weights.pt")
    averaged = {**trained, "head.bias": torch.tensor([0.0, 1.0, 3.0])}
    torch.save({"model": trained, "model_ema": averaged}, tmp_path / "weights.pt")
    words = [command[0], video, *three_classes, *command[1:]]
    for chosen, best in (((), "kick"), (("--weight-set", "model"), "kick"), (("--weight-set", "model_ema"), "point")):
        assert main([*words, *chosen]) == 0
        assert best in capsys.readouterr().out.splitlines()[0]
    assert main([*words, "--weight-set", "model_emma"]) == 2
    assert "no set of weights 'model_emma'; did you mean 'model_ema' or" in capsys.readouterr().err


def test_random_weights_are_admitted(video, capsys):
    assert main(["predict", video, *SMALL, "--num-clips", "1"]) == 0
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 5
    assert "no --weights" in output.err


@pytest.mark.parametrize("target", [(), ("--class", "hug"), ("--class", "0")])
def test_gradcam_draws_a_picture(video, three_classes, tmp_path, capsys, target):
    assert main(["gradcam", video, *three_classes, *target, "--out", str(tmp_path / "seen.png")]) == 0
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
    assert f"evidence for {'hug' if target else 'kick'}" in capsys.readouterr().out


class Pooling(nn.Module):
    """Mean of a map that is the clip itself, then a linear layer: its Grad-CAM can be written down."""

    def __init__(self, weight):
        super().__init__()
        self.head = nn.Linear(3, len(weight), bias=False)
        self.head.weight = nn.Parameter(weight)

    def forward_features(self, clip):
        return clip

    def forward(self, clip):
        return self.head(self.forward_features(clip).mean(dim=(2, 3, 4)))


@pytest.mark.parametrize("target", [0, 1])
def test_evidence_is_the_map_weighted_by_its_gradient(target):
    weight = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 0.3, 2.0]])
    clip = torch.randn(1, 3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    evidence, logits = gradcam(Pooling(weight), clip.requires_grad_(), target)
    expected = torch.einsum("c,cthw->thw", weight[target], clip[0]).relu()
    torch.testing.assert_close(evidence, (expected / expected.max()).detach())
    torch.testing.assert_close(logits, Pooling(weight)(clip)[0].detach())


def test_evidence_needs_a_pooled_map(video, tmp_path, capsys):
    options = ("--model", "timesformer_space", "--num-frames", "2", "--crop-size", "32")
    assert main(["gradcam", video, *options, "--out", str(tmp_path / "seen.png")]) == 2
    assert "class token" in capsys.readouterr().err


def test_check_videos_reports_every_file(tmp_path, capsys):
    write_video(tmp_path / "set/a/good.mp4", 20)
    write_video(tmp_path / "set/a/b_frames.avi", 60, "mpeg4", bf="2", g="12")
    write_audio(tmp_path / "set/sound.mp4")
    (tmp_path / "set/empty.mkv").touch()
    write_manifest(tmp_path / "set", "file,label", "a/good.mp4,x", "gone.mp4,y")
    assert main(["check-videos", str(tmp_path / "set"), "--report", "report.csv", "--workers", "2"]) == 1
    reasons = {
        "empty.mkv": "empty file (0 bytes)",
        "gone.mp4": "no such file",
        "sound.mp4": "no video stream",
    }
    assert rows("quarantine.csv") == [["file", "reason"], *map(list, sorted(reasons.items()))]
    assert rows("report.csv") == [
        ["file", "decoder", "access", "frames", "height", "width", "seconds", "rate", "reason"],
        ["a/b_frames.avi", "decord", "in order", "60", "48", "64", "2.400", "constant", ""],
        ["a/good.mp4", "decord", "sought", "20", "48", "64", "0.800", "constant", ""],
        *[[file, "decord", "unusable", "", "", "", "", "", reason] for file, reason in sorted(reasons.items())],
    ]
    output = capsys.readouterr().out.splitlines()
    assert output[0].split() == ["format", "decoder", "sought", "in", "order", "unusable"]
    assert [line.split() for line in output[1:4]] == [
        [".avi", "decord", "0", "1", "0"],
        [".mkv", "decord", "0", "0", "1"],
        [".mp4", "decord", "1", "0", "2"],
    ]
    assert output[-1] == "3 of 5 videos can't be used (listed in quarantine.csv)"


def test_check_videos_compares_decoders(tmp_path, capsys):
    write_video(tmp_path / "set/good.mp4", 20)
    write_images(tmp_path / "set/rawframes/clip", 3)
    write_manifest(tmp_path / "set", "file,label", "good.mp4,x", "rawframes/clip,y")
    assert main(["check-videos", str(tmp_path / "set"), "--decoder", "decord", "pyav", "--report", "report.csv"]) == 0
    *lines, note, _ = capsys.readouterr().out.splitlines()
    assert note.endswith("passed over, as no clips of it: 1 .csv, 3 .png")
    assert [line.split() for line in lines[1:]] == [
        [".mp4", "decord", "1", "0", "0"],
        [".mp4", "pyav", "0", "1", "0"],
        ["images", "decord", "1", "0", "0"],
        ["images", "pyav", "1", "0", "0"],
    ]
    assert rows("report.csv")[2] == ["rawframes/clip", "decord", "sought", "3", "48", "64", "", "", ""]


def test_check_videos_takes_a_decoder_that_is_there(tmp_path, capsys, monkeypatch):
    write_video(tmp_path / "set/good.mp4", 20)
    for missing in ("decord", "torchcodec"):
        monkeypatch.setitem(sys.modules, missing, None)
    assert main(["check-videos", str(tmp_path / "set"), "--decoder", "auto"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()][1] == [".mp4", "pyav", "0", "1", "0"]


def test_check_videos_finds_folders_of_images(tmp_path):
    write_images(tmp_path / "set/class/clip", 3)
    (tmp_path / "set/class/clip/frame_2.png").write_bytes(b"no image")
    assert main(["check-videos", str(tmp_path / "set")]) == 1
    assert rows("quarantine.csv")[1] == ["class/clip", "can't be decoded: frame_2.png: cannot identify image file"]


def test_check_videos_gives_up_files_that_take_too_long(tmp_path):
    write_video(tmp_path / "set/long.mp4", 255)
    assert main(["check-videos", str(tmp_path / "set"), "--time-limit-s", "0.001"]) == 1
    assert rows("quarantine.csv")[1] == ["long.mp4", "took longer than 0.001 s"]
    assert main(["check-videos", str(tmp_path / "set")]) == 0


def test_check_videos_is_content_with_good_ones(tmp_path):
    write_video(tmp_path / "set/good.mp4", 5)
    assert main(["check-videos", str(tmp_path / "set")]) == 0
    assert rows("quarantine.csv") == [["file", "reason"]]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["predict", "VIDEO", "--model", "dualformer_tinny"], "unknown model 'dualformer_tinny'; did you mean"),
        (["predict", "gone.mp4", *SMALL], "gone.mp4: no such file"),
        (["predict", "VIDEO", *SMALL, "--weights", "gone.pt"], "gone.pt"),
        (["predict", "VIDEO", *SMALL, "--attention", "LX"], "attention"),
        (["predict", "VIDEO", *SMALL, "--weight-set", "ema"], "--weight-set: no --weights to take 'ema' from"),
        (["gradcam", "VIDEO", *SMALL, "--weight-set", "ema", "--out", "a.png"], "--weight-set: no --weights to take"),
        (["predict", "VIDEO", *SMALL, "--resize", "32"], "--resize 32 is smaller than the crop 64x64"),
        (["gradcam", "VIDEO", *SMALL, "--class", "hug", "--out", "seen.png"], "no class 'hug' among 400"),
        (["gradcam", "VIDEO", *SMALL, "--out", "no/folder/seen.png"], "no/folder/seen.png"),
        (["check-videos", "nowhere"], "nowhere: no such folder"),
        (["check-videos", "."], "no videos"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line_and_status_2(tmp_path, capsys, command, message):
    if "VIDEO" in command:
        command = [str(write_video(tmp_path / "clip.mp4", 10)) if word == "VIDEO" else word for word in command]
    assert main(command) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize("command", ["compare", "verify"])
def test_commands_about_results_are_reached(command, tmp_path, capsys):
    assert main([command, *[str(tmp_path / "nowhere")] * (2 if command == "compare" else 1)]) == 2
    assert f"'{tmp_path / 'nowhere'}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "a.mp4", *SMALL, "--num-clips", "0"],
        ["check-videos", ".", "--time-limit-s", "0"],
        ["check-videos", ".", "--decoder", "ffmpeg"],
        ["train"],
        [],
    ],
)
def test_wrong_usage_is_status_2(command):
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2


def test_the_module_runs_as_a_program(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "dualformer", "check-videos", str(tmp_path / "nowhere")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == f"dualformer check-videos: {tmp_path / 'nowhere'}: no such folder\n"
