"""Decoders that are missing, broken or of another version: what is left goes on, and a row says which it took."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dualformer.config import ConfigError
from dualformer.data import decoders
from dualformer.data.decoders import AUTO, DECODERS, chosen_decoder, decoder_versions
from dualformer.data.inspection import inspect_all
from tests.helpers.videos import write_classes

ROOT = Path(__file__).parents[3]

MISSING = "sys.modules['{name}'] = None"
BROKEN = """
class Broken:
    def find_spec(self, name, *_):
        if name == '{name}':
            raise {error}('cannot open shared object file')
sys.meta_path.insert(0, Broken())
"""
BLOCKS = {
    "missing": MISSING,
    "broken_link": BROKEN.replace("{error}", "OSError"),
    "broken_package": BROKEN.replace("{error}", "RuntimeError"),
}


def run(folder: Path, block: str, code: str) -> str:
    """Runs code in a new process where some packages can't be imported; returns what it prints."""
    program = f"import sys\n{block}\n{textwrap.dedent(code)}"
    environment = {"PATH": "/usr/bin:/bin", "DUALFORMER_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


CLIPS = """
import sys
from dualformer.data.config import DataConfig
from dualformer.data.dataset import VideoDataset
from dualformer.data.decoders import chosen_decoder, decoder_versions
config = DataConfig(root={root!r}, decoder={decoder!r})
dataset = VideoDataset(config, "train", num_frames=4, crop_size=(48, 64))
print(chosen_decoder({decoder!r}), *decoder_versions({decoder!r}), len(dataset), dataset[0]["clip"].sum().item())
"""


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_without_decord_everything_works_through_pyav(tmp_path, block):
    root = str(write_classes(tmp_path / "set"))
    with_decord = run(tmp_path, "", CLIPS.format(root=root, decoder="decord")).split()
    blocks = block.format(name="decord") + MISSING.format(name="torchcodec")
    for decoder in ("pyav", AUTO):
        without = run(tmp_path, blocks, CLIPS.format(root=root, decoder=decoder)).split()
        assert without[:3] == ["pyav", "pyav", "ffmpeg"]
        assert without[-2:] == with_decord[-2:]  # the same clips, bit by bit


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_decoder_that_was_asked_for_and_cant_be_had_is_named_with_what_can(tmp_path, block):
    code = """
    from pathlib import Path
    from dualformer.config import ConfigError
    from dualformer.data.inspection import inspect_all
    try:
        inspect_all(Path("."), ["a.mp4"], decoder="decord")
    except ConfigError as error:
        print(error)
    """
    message = run(tmp_path, block.format(name="decord"), code)
    assert message.startswith("decoder 'decord' ")
    assert message.rstrip().endswith("(data.decoder=pyav needs no other, auto takes the first that works)")


@pytest.mark.parametrize("blocked", [["decord"], ["torchcodec"], ["av"], ["decord", "torchcodec", "av"]])
def test_what_needs_no_video_needs_no_decoder(tmp_path, blocked):
    block = "; ".join(MISSING.format(name=name) for name in blocked)
    modules = ["config", "decoders", "files", "manifest", "formats", "sampling", "transforms", "two_scale", "cache"]
    run(tmp_path, block, "\n".join(f"import dualformer.data.{module}" for module in modules))


def test_a_decoder_is_imported_by_nothing_but_its_use(tmp_path):
    code = """
    import dualformer.data.dataset, dualformer.data.prepare, dualformer.data.inspection
    print([name for name in ("decord", "torchcodec") if name in sys.modules])
    """
    assert run(tmp_path, "", code) == "[]\n"


@pytest.mark.parametrize("there", [("decord", "torchcodec"), ("torchcodec",), ("decord",), ()])
def test_auto_takes_the_first_that_works_and_records_say_which(tmp_path, monkeypatch, there):
    def library(name):
        def load():
            if name not in there:
                raise ConfigError(f"no {name}")

        return load

    monkeypatch.setattr(decoders, "_LIBRARIES", {name: library(name) for name in ("decord", "torchcodec")})
    assert chosen_decoder(AUTO) == next((name for name in ("decord", "torchcodec") if name in there), "pyav")


def test_auto_and_the_decoder_it_takes_share_a_record(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORMER_CACHE", str(tmp_path / "cache"))
    root = write_classes(tmp_path / "set", clips=1)
    found = inspect_all(root, ["class_0/clip_0.mp4"], decoder=AUTO)
    monkeypatch.setitem(DECODERS, "decord", None)
    assert inspect_all(root, ["class_0/clip_0.mp4"], decoder="decord") == found
    assert decoder_versions(AUTO) == decoder_versions("decord")
