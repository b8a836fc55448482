import hashlib
import warnings
from pathlib import Path

import pytest
import torch

from dualformer.results import files
from sweeps.training import checkpoint


def paths(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("checkpoints/*"))


def save_three(run_dir: Path) -> None:
    for step in (5, 10, 15):
        checkpoint.save(run_dir, step, {"weight": torch.full((3,), float(step)), "note": step})


def test_the_newest_comes_back_and_two_are_kept(tmp_path: Path):
    assert checkpoint.load(tmp_path) is None
    save_three(tmp_path)
    step, state = checkpoint.load(tmp_path)
    assert (step, state["note"], state["weight"].tolist()) == (15, 15, [15.0] * 3)
    assert [path.name[:8] for path in paths(tmp_path)] == ["00000010", "00000015"]


@pytest.mark.parametrize("harm", ["torn", "flipped", "empty"])
def test_a_harmed_one_is_passed_over_for_the_one_before(tmp_path: Path, harm: str):
    save_three(tmp_path)
    newest = paths(tmp_path)[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"torn": content[:300], "flipped": content, "empty": b""}[harm])
    with pytest.warns(UserWarning, match="passed over"):
        step, state = checkpoint.load(tmp_path)
    assert (step, state["note"]) == (10, 10)


def make_unreadable(path: Path, how: str) -> None:
    path.unlink(missing_ok=True)
    match how:
        case "dangling link":
            path.symlink_to("gone.pt")
        case "circular link":
            path.symlink_to(path.name)
        case "folder":
            path.mkdir()
        case "no weights":
            path.write_bytes(b"text")
            digest = hashlib.sha256(b"text").hexdigest()[:16]
            path.rename(path.with_name(f"{path.name[:8]}-{digest}.pt"))


UNREADABLE = ["dangling link", "circular link", "folder", "no weights"]


@pytest.mark.parametrize("how", UNREADABLE)
def test_an_unreadable_one_is_passed_over_for_the_one_before(tmp_path: Path, how: str):
    save_three(tmp_path)
    make_unreadable(paths(tmp_path)[-1], how)
    with pytest.warns(UserWarning, match=r"checkpoint 00000015-\w+\.pt is passed over: "):
        step, state = checkpoint.load(tmp_path)
    assert (step, state["note"]) == (10, 10)


@pytest.mark.parametrize("how", UNREADABLE)
@pytest.mark.parametrize("keep", [1, 2])
def test_an_unreadable_one_never_takes_the_place_of_a_good_one(tmp_path: Path, how: str, keep: int):
    save_three(tmp_path)
    make_unreadable(paths(tmp_path)[-1], how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in (12, 13):
            checkpoint.save(tmp_path, step, {"note": step}, keep=keep)
        assert checkpoint.load(tmp_path)[0] == 13
    kept = [int(path.name[:8]) for path in paths(tmp_path) if path.is_file()]
    assert kept == [12, 13][-keep:]


def test_only_unreadable_ones_are_none(tmp_path: Path):
    checkpoint.save(tmp_path, 5, {"note": 5})
    make_unreadable(paths(tmp_path)[0], "folder")
    with pytest.warns(UserWarning, match="passed over"):
        assert checkpoint.load(tmp_path) is None


def test_a_place_that_is_no_folder_costs_the_checkpoint_and_not_the_training(tmp_path: Path):
    (tmp_path / "checkpoints").symlink_to("gone/for/good")
    assert checkpoint.load(tmp_path) is None
    with pytest.warns(UserWarning, match="no checkpoint at step 5: "):
        checkpoint.save(tmp_path, 5, {"note": 5})


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path):
    save_three(tmp_path)
    (tmp_path / "checkpoints" / ".00000014-0123456789abcdef.pt.host.123").write_bytes(b"half")
    checkpoint.save(tmp_path, 20, {"note": 20})
    assert [path.name[:8] for path in paths(tmp_path)] == ["00000015", "00000020"]


def test_what_a_killed_writer_left_is_no_checkpoint(tmp_path: Path):
    save_three(tmp_path)
    (tmp_path / "checkpoints" / ".00000020-0123456789abcdef.pt").write_bytes(b"half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.load(tmp_path)[0] == 15


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_three(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.warns(UserWarning, match="no checkpoint at step 20: No space left"):
        checkpoint.save(tmp_path, 20, {"note": 20})
    assert checkpoint.load(tmp_path)[0] == 15
    assert len(paths(tmp_path)) == 2
