"""Decoders that are missing, broken or of another version: what is left goes on, and a row says which it took."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import textwrap
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from dualformer.config import ConfigError
from dualformer.data import decoders, opening
from dualformer.data.config import AUTO
from dualformer.data.decoders import DECODERS, chosen_decoder, decoder_versions
from dualformer.data.inspection import inspect_all
from dualformer.data.reader import VideoError, inspect_video, read_in_order
from tests.helpers.videos import write_classes, write_video

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
    blocks = block.format(name="decord") + "\n" + MISSING.format(name="torchcodec")
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


@pytest.mark.parametrize(
    ("version", "arguments"), [("15.0.0", {"metadata_errors"}), ("18.1.0", {"metadata_errors"}), ("19.0.0", set())]
)
def test_no_version_of_pyav_gets_an_argument_that_it_lacks(monkeypatch, version, arguments):
    """Version 19 dropped an argument; the lower bound of the project is 15."""
    with monkeypatch.context() as patch:
        patch.setattr(av, "__version__", version)
        fresh = importlib.reload(opening)
        assert set(fresh._BEFORE_19) == arguments
    importlib.reload(opening)


def test_pictures_playlists_and_texts_are_no_videos_whatever_their_suffix(tmp_path):
    """What makes FFmpeg open other files and addresses is refused before it does."""
    secret = write_video(tmp_path / "secret.mp4", 4)
    Image.new("RGB", (64, 48)).save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.mp4")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {secret}\n")
    (tmp_path / "sdp.mp4").write_text(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
    )
    refused = "can't be decoded: (neither a video nor sound, but a picture, a playlist or text|Invalid data)"
    for name in ("picture", "list", "concat", "sdp"):
        with pytest.raises(VideoError, match=refused):
            inspect_video(tmp_path / f"{name}.mp4")


def with_cover(path: Path, codec: str, suffix: str) -> Path:
    """Sound with an attached picture, as a music player writes it, under the name of a video."""
    made = path.with_name(f"made{suffix}")
    cover = io.BytesIO()
    Image.new("RGB", (64, 48)).save(cover, "JPEG")
    with av.open(str(made), "w") as container:
        sound = container.add_stream(codec, rate=44100, layout="mono")
        picture = container.add_stream("mjpeg")
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
        picture.disposition = Disposition.attached_pic
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts = picture, 0, 0
        container.start_encoding()
        container.mux(packet)
        for index in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16p", layout="mono")
            frame.sample_rate, frame.pts = 44100, index * 1152
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return made.rename(path)


@pytest.mark.parametrize(("codec", "suffix"), [("aac", ".mp4"), ("libmp3lame", ".mp3"), ("flac", ".flac")])
def test_sound_with_a_cover_is_no_video_of_one_frame(tmp_path, codec, suffix):
    path = with_cover(tmp_path / "clip.mp4", codec, suffix)
    with pytest.raises(VideoError, match=r"no video stream, only an attached picture \(a cover\)"):
        inspect_video(path)
    with pytest.raises(VideoError, match="only an attached picture"):
        read_in_order(path, [0])
