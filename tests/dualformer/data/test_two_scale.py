"""The embedded data set: its label needs what the module says it needs, and the files hold what was drawn."""

import collections
import csv
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dualformer.config import ConfigError
from dualformer.data import two_scale
from dualformer.data.manifest import MANIFEST_NAME
from dualformer.data.reader import read_by_seeking
from dualformer.data.two_scale import CLASSES, MOTIONS, RELATIONS, SITE_PX, Factors, TwoScaleConfig, draw, ensure

SMALL = TwoScaleConfig(num_train=16, num_test=8)
PROBED = TwoScaleConfig(num_train=2048, num_test=2048)
CHANCE = (0.44, 0.56)  # 5 standard errors of 2,048 coin flips


@pytest.fixture(scope="module")
def clips():
    """Clips and factors of `PROBED`: uint8 [N, T, H, W, 3], int64 [N, 3]."""
    drawn = [draw(PROBED, index) for index in range(PROBED.num_clips)]
    return torch.from_numpy(np.stack([frames for frames, _ in drawn])), torch.tensor([shown for _, shown in drawn])


def decode_factors(frames: np.ndarray) -> tuple[int, int]:
    """Reads (relation, motion) off a clip, by comparing distant frames and adjacent ones."""
    t, h, w, _ = frames.shape
    levels = frames.astype(float)
    halves = levels.reshape(t, h, 2, w // 2, 3).mean(axis=(1, 3, 4))  # [T, side]
    flashes = halves - np.median(halves, axis=0)
    first, last = (part.flat[np.abs(part).argmax()] for part in (flashes[: t // 4], flashes[-t // 4 :]))

    colour = levels.mean(axis=0).reshape(h // SITE_PX, SITE_PX, w // SITE_PX, SITE_PX, 3).mean(axis=(1, 3))
    tint = colour[..., 0] - colour[..., 1:].mean(axis=-1)
    targets = tint > (tint.min() + tint.max()) / 2
    hop = (levels[1::2] - levels[::2]).mean(axis=(0, -1))
    squares = hop.reshape(h // SITE_PX, SITE_PX, w // SITE_PX, SITE_PX).swapaxes(1, 2)[targets].mean(axis=0)
    across, down = (np.abs(squares.mean(axis=axis)).sum() for axis in (0, 1))
    return int(first * last < 0), int(down > across)


def probe_accuracy(features, targets, *, model, epochs=12, batch_size=256):
    """Accuracy on the later half of a probe trained on the earlier; `model` scores features [N, ...] -> [N, 2]."""
    half = len(features) // 2
    scale = features[:half].std()
    features = (features - features[:half].mean(dim=0)) / scale
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    for epoch in range(epochs):
        order = torch.randperm(half, generator=torch.Generator().manual_seed(epoch))
        for chosen in order.split(batch_size):
            optimizer.zero_grad()
            functional.cross_entropy(model(features[chosen]), targets[chosen]).backward()
            optimizer.step()
    with torch.no_grad():
        return (model(features[half:]).argmax(dim=1) == targets[half:]).float().mean().item()


class Summed(nn.Module):
    """Adds up what a perceptron says of each part: features [N, parts, ...] -> [N, 2]."""

    def __init__(self, num_inputs: int, num_parts: int = 1):
        super().__init__()
        self.perceptrons = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, 64), nn.ReLU(), nn.Linear(64, 2))
            for _ in range(num_parts)
        )

    def forward(self, features):
        if len(self.perceptrons) == 1:  # the same perceptron for every part
            return self.perceptrons[0](features.flatten(0, 1)).unflatten(0, features.shape[:2]).mean(dim=1)
        return sum(perceptron(features[:, part]) for part, perceptron in enumerate(self.perceptrons))


def sites(clips):
    """Mean brightness of each site: [N, T, H, W, 3] -> [N, T, h, w]."""
    return functional.avg_pool2d(clips.float().mean(dim=-1), SITE_PX)


def windows(maps):
    """Halves of time by halves of width: [N, T, h, w] -> [N, 4, T/2, h, w/2]."""
    n, t, h, w = maps.shape
    return maps.reshape(n, 2, t // 2, h, 2, w // 2).permute(0, 1, 4, 2, 3, 5).flatten(1, 2)


@pytest.mark.parametrize("split", [range(16), range(16, 24)])
def test_factors_are_balanced_and_independent_in_each_split(split):
    counts = collections.Counter(draw(SMALL, index)[1] for index in split)
    assert len(counts) == 8 and len(set(counts.values())) == 1


def test_clips_depend_on_seed_and_index_alone():
    frames, _ = draw(SMALL, 3)
    assert frames.shape == (8, 16, 32, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, draw(SMALL.changed(num_train=64), 3)[0])
    assert not np.array_equal(frames, draw(SMALL, 11)[0])
    assert not np.array_equal(frames, draw(SMALL.changed(seed=1), 3)[0])


def test_relation_is_in_no_window_of_half_the_frames_or_half_the_width():
    """The same clip under both relations: what differs is one event, and each relation shows it bright and dark."""

    def clip(relation, first_bright):
        return two_scale.render(SMALL, Factors(relation, 0, first_bright), np.random.default_rng(5)).astype(int)

    for bright in (False, True):
        same, different = clip(0, bright), clip(1, bright)
        assert np.array_equal(same[:6], different[:6]) and not np.array_equal(same[6:], different[6:])
        assert np.array_equal(same[6:], clip(1, not bright)[6:])
    changed = [
        np.abs(part).max(axis=(0, 1, 3)) > 0 for part in (clip(0, 0)[:2] - clip(0, 1)[:2], same[6:] - different[6:])
    ]
    left, right = changed if changed[0][0] else changed[::-1]
    assert left[:16].all() and not left[16:].any() and right[16:].all() and not right[:16].any()


def test_motion_shows_in_every_other_frame_only():
    horizontal, vertical = (
        two_scale.render(SMALL, Factors(0, motion, True), np.random.default_rng(5)) for motion in (0, 1)
    )
    assert np.array_equal(horizontal[::2], vertical[::2])
    assert all((a != b).any() for a, b in zip(horizontal[1::2], vertical[1::2]))


def test_both_factors_can_be_read_off_a_clip_and_off_its_mirror_image():
    for index in range(64):
        frames, shown = draw(PROBED, index)
        assert decode_factors(frames) == shown[:2]
        assert decode_factors(frames[:, :, ::-1]) == shown[:2]


@pytest.mark.parametrize("factor", ["relation", "motion"])
def test_a_frame_wise_probe_stays_at_chance(clips, factor):
    frames, shown = clips
    torch.manual_seed(0)
    features = frames.float().flatten(2)  # [N, T, H * W * 3]
    accuracy = probe_accuracy(
        features, shown[:, Factors._fields.index(factor)], model=Summed(features.shape[2]), epochs=6
    )
    assert CHANCE[0] < accuracy < CHANCE[1]


def test_the_frame_wise_probe_sees_what_a_frame_shows(clips):
    """It reads the polarity of an event: chance above is no weakness of the probe."""
    frames, shown = clips
    torch.manual_seed(0)
    first_quarter = frames[:, :2].float().flatten(2)
    assert probe_accuracy(first_quarter, shown[:, 2], model=Summed(first_quarter.shape[2]), epochs=6) > 0.95


def test_adding_up_what_windows_saw_does_not_give_the_relation(clips):
    frames, shown = clips
    parts = windows(sites(frames))
    inputs = parts[0, 0].numel()
    torch.manual_seed(0)
    apart = probe_accuracy(parts, shown[:, 0], model=Summed(inputs, num_parts=4))
    together = probe_accuracy(parts.flatten(1)[:, None], shown[:, 0], model=Summed(4 * inputs))
    assert CHANCE[0] < apart < CHANCE[1]
    assert together > 0.95


def test_the_brightness_of_squares_does_not_give_the_motion(clips):
    frames, shown = clips
    torch.manual_seed(0)
    pooled = sites(frames).flatten(2)
    assert CHANCE[0] < probe_accuracy(pooled, shown[:, 1], model=Summed(pooled.shape[2])) < CHANCE[1]


def test_files_hold_the_clips_that_were_drawn(tmp_path):
    folder = ensure(SMALL, tmp_path)
    with open(folder / MANIFEST_NAME, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train"] * 16 + ["test"] * 8
    for index, row in enumerate(rows):
        frames, shown = draw(SMALL, index)
        assert (row["factor_relation"], row["factor_motion"]) == (RELATIONS[shown.relation], MOTIONS[shown.motion])
        assert row["label"] == CLASSES[shown.label] == f"{row['factor_relation']}_{row['factor_motion']}"
        decoded = read_by_seeking(folder / row["file"], range(8))
        assert decoded.shape == frames.shape
        assert np.abs(decoded.astype(int) - frames).mean() < 8
        assert decode_factors(decoded) == shown[:2]


def test_the_same_config_gives_the_same_bytes_and_is_written_once(tmp_path, capsys):
    first, second = ensure(SMALL, tmp_path / "a"), ensure(SMALL, tmp_path / "b")
    files = sorted(path.relative_to(first) for path in first.rglob("*.*"))
    assert len(files) == 25 and all((first / file).read_bytes() == (second / file).read_bytes() for file in files)
    assert "24/24 clips" in capsys.readouterr().err
    times = {file: (first / file).stat().st_mtime_ns for file in files}
    assert ensure(SMALL, tmp_path / "a") == first and not capsys.readouterr().err
    assert times == {file: (first / file).stat().st_mtime_ns for file in files}
    assert ensure(SMALL.changed(noise=4.0), tmp_path / "a") != first


def test_a_build_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(path, frames, fps):
        if path.name == "000005.mp4":
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(b"half")

    with monkeypatch.context() as patch:
        patch.setattr(two_scale, "write_mp4", full_disk)
        with pytest.raises(OSError, match="No space left"):
            ensure(SMALL, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert len(list(ensure(SMALL, tmp_path).rglob("*.mp4"))) == 24


def build_in_another_process(cache, do):
    """Starts a process that builds `SMALL`; it adds a line to `cache/builds` and does `do` before the first clip."""
    program = f"""
import os, time
from pathlib import Path
from dualformer.data import two_scale
build = two_scale._build
def noted(config, folder):
    with open({str(cache / "builds")!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    {do}
    build(config, folder)
two_scale._build = noted
print(two_scale.ensure(two_scale.TwoScaleConfig(num_train=16, num_test=8), {str(cache)!r}))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)


def builds(cache):
    path = cache / "builds"
    return path.read_text().split() if path.exists() else []


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_of_two_processes_at_once_one_builds_and_the_other_waits(tmp_path):
    both = [build_in_another_process(tmp_path, "time.sleep(3)") for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0] and len(folders) == 1
    assert len(builds(tmp_path)) == 1
    assert len(list(Path(folders.pop()).rglob("*.mp4"))) == 24


def test_a_process_that_is_killed_over_the_build_holds_up_nobody(tmp_path):
    first = build_in_another_process(tmp_path, "time.sleep(600)")
    wait_until(lambda: builds(tmp_path))
    second = build_in_another_process(tmp_path, "pass")
    time.sleep(1)
    first.kill()
    first.communicate()
    folder = Path(second.communicate(timeout=120)[0].strip())
    assert second.returncode == 0 and len(builds(tmp_path)) == 2
    assert len(list(folder.rglob("*.mp4"))) == 24


def test_without_locks_a_process_that_was_slower_uses_what_the_faster_one_wrote(tmp_path, monkeypatch):
    build = two_scale._build

    def overtaken(config, folder):
        monkeypatch.setattr(two_scale, "_build", build)
        ensure(config, tmp_path)
        build(config, folder)

    def no_locks(self, timeout=None):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(two_scale, "_build", overtaken)
    monkeypatch.setattr(two_scale.FileLock, "acquire", no_locks)
    folder = ensure(SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == [folder] and len(list(folder.rglob("*.mp4"))) == 24


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_train": 12}, "num_train must be a multiple of 8"),
        ({"num_test": 0}, "num_test"),
        ({"num_frames": 6}, "num_frames must be a positive multiple of 4"),
        ({"width": 30}, "width must be a positive multiple of 4"),
        ({"event_width": 17}, "event_width must be from 1 to 16 in frames of 16 x 32"),
        ({"num_targets": 33}, "num_targets must be from 1 to 32"),
        ({"clutter": 1.5}, "clutter is a chance"),
        ({"noise": -1.0}, "noise must be from 0 to 80"),
        ({"fps": 0}, "fps must be from 1 to 1000"),
        ({"num_target": 3}, "did you mean 'num_targets'"),
    ],
)
def test_sizes_that_cannot_hold_the_events_are_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        SMALL.changed(**changes)


def test_no_clip_beyond_the_last():
    with pytest.raises(IndexError, match="clip 24 of 24"):
        draw(SMALL, 24)
