"""What frames can be asked for by number: one small interface, and a table from a name to who offers it.

Whether to trust an answer is `reader`'s business: some decoders give other frames than those asked for.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import av
import decord
import numpy as np
from PIL import Image

from dualformer.config import ConfigError, nearest
from dualformer.data.manifest import is_frame

decord.logging.set_level(decord.logging.QUIET)  # a file's trouble is reported by VideoError, not on stderr

_STEP = 16  # frames between entries, where a decoder doesn't say where it can enter


class Seeker(Protocol):
    """A video opened for one call, with one decoding thread. It is never kept: none survives fork and pickle."""

    def __init__(self, path: str | os.PathLike): ...

    def __len__(self) -> int:
        """Returns how many frames it believes the file has."""

    def entries(self) -> Sequence[int]:
        """Returns the frames that seeking can land on, first of all 0: those that don't need the ones before them."""

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Returns the frames at `indices`, the right way up: uint8 RGB [len(indices), H, W, 3]."""


class Decord:
    """Seeks fast. Its FFmpeg is from 2019: it knows no AV1, and decodes some files to slightly other pixels."""

    def __init__(self, path: str | os.PathLike):
        self._reader = decord.VideoReader(os.fspath(path), ctx=decord.cpu(0), num_threads=1)

    def __len__(self) -> int:
        return len(self._reader)

    def entries(self) -> Sequence[int]:
        return [int(index) for index in self._reader.get_key_indices()]

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self._reader.get_batch(list(indices)).asnumpy()


class TorchCodec:
    """Seeks by timestamps, with the FFmpeg of the system; imported when used, since it is there on few machines."""

    def __init__(self, path: str | os.PathLike):
        self._reader = _torchcodec().decoders.VideoDecoder(
            os.fspath(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )

    def __len__(self) -> int:
        return len(self._reader)

    def entries(self) -> Sequence[int]:
        inside = getattr(self._reader, "_get_key_frame_indices", None)  # not public, so it may go away
        return inside().tolist() if inside else range(0, len(self), _STEP)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self._reader.get_frames_at(list(indices)).data.numpy()


class Images:
    """A folder of a video's frames as images, in the order of the numbers in their names."""

    def __init__(self, path: str | os.PathLike):
        self.paths = _in_order(image for image in Path(path).iterdir() if is_frame(image.name))
        if not self.paths:
            raise ValueError("no images in the folder")

    def __len__(self) -> int:
        return len(self.paths)

    def entries(self) -> Sequence[int]:
        return range(len(self))

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        frames = {index: self.frame(index) for index in sorted(set(indices))}
        return np.stack([frames[index] for index in indices])

    def frame(self, index: int) -> np.ndarray:
        """Returns one frame: uint8 RGB [H, W, 3].

        Raises:
            ValueError: it can't be decoded.
            IndexError: there is none.
        """
        if index >= len(self):
            raise IndexError(f"no frame {index}")
        try:
            with Image.open(self.paths[index]) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = str(error).replace(f"{os.fspath(self.paths[index])!r}", "").strip()
            raise ValueError(f"{self.paths[index].name}: {reason}") from error


DECODERS: Mapping[str, Callable[[str | os.PathLike], Seeker] | None] = {
    "decord": Decord,
    "torchcodec": TorchCodec,
    "pyav": None,  # reads in order what it reads
}
"""Decoders by name: what opens a file to seek in it, None where every file is read in order (with PyAV)."""


def check_decoder(name: str) -> None:
    """Raises `ConfigError`, which says what is missing, where a decoder can't be used on this machine."""
    if name not in DECODERS:
        raise ConfigError(f"unknown decoder '{name}'{nearest(name, DECODERS)}")
    if name == "torchcodec":
        _torchcodec()


def decoder_versions(name: str = "decord") -> dict[str, str]:
    """Returns name and version of what decodes: the decoder asked for, PyAV, and the FFmpeg that PyAV brings."""
    versions = {"pyav": av.__version__, "ffmpeg": av.ffmpeg_version_info}
    if name == "decord":
        return {"decord": decord.__version__, **versions}
    if name == "torchcodec":
        library = _torchcodec()
        return {"torchcodec": f"{library.__version__} (FFmpeg {library.ffmpeg_major_version})", **versions}
    return versions


def _torchcodec() -> types.ModuleType:
    try:
        import torchcodec.decoders
    except ImportError as error:
        raise ConfigError(f"decoder 'torchcodec' needs the package torchcodec: {error}") from error
    except (OSError, RuntimeError) as error:  # it is installed, and finds no FFmpeg that it can load
        raise ConfigError(
            "decoder 'torchcodec' needs the shared libraries of an FFmpeg that this torchcodec supports (4 to 8), and "
            "found none"
        ) from error
    return torchcodec


def _in_order(images: Iterable[Path]) -> list[Path]:
    """Images sorted by the last number in their names.

    Raises:
        ValueError: an image without a number, or two of the same.
    """
    numbered: dict[int, Path] = {}
    for image in sorted(images):
        numbers = re.findall(r"\d+", image.stem)
        if not numbers:
            raise ValueError(f"{image.name} has no number that tells its place")
        if (other := numbered.setdefault(int(numbers[-1]), image)) != image:
            raise ValueError(f"{other.name} and {image.name} have the same number")
    return [numbered[number] for number in sorted(numbered)]
