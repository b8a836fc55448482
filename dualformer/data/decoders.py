"""What frames can be asked for by number: one small interface, and a table from a name to who offers it.

Whether to trust an answer is `reader`'s business: some decoders give other frames than those asked for. Each decoder is
imported when it is used, so one that is missing or broken on a machine takes nothing from the others.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from dualformer.config import ConfigError, nearest
from dualformer.data.config import AUTO
from dualformer.data.files import is_frame
from dualformer.errors import first_line

PREFERRED = ("decord", "torchcodec", "pyav")

_STEP = 16  # frames between entries, where a decoder doesn't say where it can enter


class Seeker(Protocol):
    """A video opened for one call, with one decoding thread. It is never kept: none survives fork and pickle."""

    def __init__(self, path: str | os.PathLike[str]): ...

    def __len__(self) -> int:
        """Returns how many frames it believes the file has."""

    def entries(self) -> Sequence[int]:
        """Returns the frames that seeking can land on, first of all 0: those that don't need the ones before them."""

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """Returns the frames at `indices`, the right way up: uint8 RGB [len(indices), H, W, 3]."""


class Decord:
    """Seeks fast. Its FFmpeg is from 2019: it knows no AV1, and decodes some files to slightly other pixels."""

    def __init__(self, path: str | os.PathLike[str]):
        library = _decord()
        with _its_own_errors(library):
            self._reader = library.VideoReader(os.fspath(path), ctx=library.cpu(0), num_threads=1)
        self._library = library

    def __len__(self) -> int:
        return len(self._reader)

    def entries(self) -> Sequence[int]:
        with _its_own_errors(self._library):
            return [int(index) for index in self._reader.get_key_indices()]

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        with _its_own_errors(self._library):
            return self._reader.get_batch(list(indices)).asnumpy()


class TorchCodec:
    """Seeks by timestamps, with the FFmpeg of the system; imported when used, since it is there on few machines."""

    def __init__(self, path: str | os.PathLike[str]):
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

    def __init__(self, path: str | os.PathLike[str]):
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
            OSError: the system doesn't let it be read.
            IndexError: there is none.
        """
        if index >= len(self):
            raise IndexError(f"no frame {index}")
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except Exception as error:  # Pillow raises whatever comes up, where a file isn't what its name says
            if isinstance(error, OSError) and error.errno is not None:  # Pillow's own have no number
                raise
            reason = str(error).replace(f"{os.fspath(path)!r}", "").strip()
            raise ValueError(f"{path.name}: {reason}") from error


DECODERS: Mapping[str, Callable[[str | os.PathLike[str]], Seeker] | None] = {
    "decord": Decord,
    "torchcodec": TorchCodec,
    "pyav": None,  # reads in order what it reads
}
"""Decoders by name: what opens a file to seek in it, None where every file is read in order (with PyAV)."""


def check_decoder(name: str) -> None:
    """Raises `ConfigError`, which says what is missing, where a decoder can't be used on this machine."""
    if name not in (AUTO, *DECODERS):
        raise ConfigError(f"unknown decoder '{name}'{nearest(name, (AUTO, *DECODERS))}")
    if name in _LIBRARIES:
        _LIBRARIES[name]()


def chosen_decoder(name: str) -> str:
    """Returns the decoder that a name means on this machine: "auto" is the first of `PREFERRED` that works here.

    Raises:
        ConfigError: unknown, or this machine lacks it.
    """
    if name != AUTO:
        check_decoder(name)
        return name
    for candidate in PREFERRED:
        with contextlib.suppress(ConfigError):
            check_decoder(candidate)
            return candidate
    raise ConfigError(f"none of the decoders {', '.join(PREFERRED)} can be used on this machine")


def decoder_versions(name: str = "decord") -> dict[str, str]:
    """Returns name and version of what decodes: the decoder asked for, PyAV, and the FFmpeg that PyAV brings."""
    import av

    name = chosen_decoder(name)
    versions = {"pyav": av.__version__, "ffmpeg": av.ffmpeg_version_info}
    if name == "decord":
        return {"decord": _decord().__version__, **versions}
    if name == "torchcodec":
        library = _torchcodec()
        return {"torchcodec": f"{library.__version__} (FFmpeg {library.ffmpeg_major_version})", **versions}
    return versions


def _decord() -> types.ModuleType:
    decord = _imported("decord", "decord")
    decord.logging.set_level(decord.logging.QUIET)  # a file's trouble is reported by VideoError, not on stderr
    return decord


def _torchcodec() -> types.ModuleType:
    _imported("torchcodec.decoders", "torchcodec")
    return importlib.import_module("torchcodec")


_LIBRARIES: Mapping[str, Callable[[], types.ModuleType]] = {"decord": _decord, "torchcodec": _torchcodec}


def _imported(module: str, decoder: str) -> types.ModuleType:
    others = f"data.decoder=pyav needs no other, {AUTO} takes the first that works"
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"decoder '{decoder}' needs the package {decoder}: {error} ({others})") from error
    except Exception as error:  # it is installed, and can't load its own or FFmpeg's shared libraries
        reason = first_line(error)[:200]
        hint = "; it needs the shared libraries of an FFmpeg from 4 to 8" if decoder == "torchcodec" else ""
        raise ConfigError(f"decoder '{decoder}' is broken on this machine: {reason}{hint} ({others})") from error


@contextlib.contextmanager
def _its_own_errors(library: types.ModuleType) -> Iterator[None]:
    """Turns an exception type that only decord has into one that needs no decord to be caught."""
    try:
        yield
    except library.DECORDError as error:
        raise RuntimeError(str(error)) from error


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
