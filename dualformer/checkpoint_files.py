"""What lies in a checkpoint file: opened without running any code it might carry, and every set of weights in it found.

A file is told by its first bytes, whatever its suffix: safetensors, or torch's own format, which is read with
`weights_only`, so that it builds tensors and plain values and calls nothing. Training frameworks put weights under some
name (`state_dict`, `model`, `module`), often the average over training beside them (`model_ema`), and wrappers put
prefixes before the names of entries (`module.`, `_orig_mod.`).
"""

from __future__ import annotations

import argparse
import difflib
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dualformer.config import nearest
from dualformer.errors import first_line
from dualformer.results.layout import WEIGHTS_SUFFIXES

State = dict[str, Tensor]

NAMES_SHOWN = 5
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "module")
"""Where training frameworks keep weights: those first that are taken where there are several."""
PREFIXES = ("module.", "_orig_mod.", "model.", "_forward_module.", "net.", "network.", "ema_model.")
"""What wrappers put before the names of all entries."""
_DEPTH = 4  # of mappings in mappings
_INSIDE = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGE = re.compile(r"(^|[._])(ema|swa|avg|average|averaged|shadow|teacher)([._]|$)", re.IGNORECASE)
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|rng|callback|hyper", re.IGNORECASE)
_COUNTERS = frozenset(["n_averaged"])  # of torch.optim.swa_utils
_INDEX = ".index.json"
_KNOWN = f"{WEIGHTS_SUFFIXES[0]} and torch's {' '.join(WEIGHTS_SUFFIXES[1:])}"
# A class that holds values and does nothing: many files keep their options in one.
_PLAIN: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace]

_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer that stands for the weights; `git lfs pull` brings them"),
    (b"\x89HDF", "an HDF5 file (Keras)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
)
"""What other files begin with, and what they are."""


class WeightsError(ValueError):
    """A checkpoint that can't be opened, isn't recognised or doesn't fit the model. The model is left as it was."""


def open_checkpoint(path: Path) -> Any:
    """Returns what a file holds: tensors and plain values only.

    Args:
        path: of safetensors or torch's format, or the `.index.json` of a checkpoint in several files beside it.

    Raises:
        WeightsError: it is something else (and what), broken, or holds objects that only its own code could make.
        FileNotFoundError: there is no such file.
    """
    if path.is_dir():
        inside = sorted(
            file.name for file in path.iterdir() if re.search(r"\.(safetensors|bin|pth?|index\.json)$", file.name)
        )
        raise WeightsError(f"{path} is a folder{f'; name the file, such as {inside[0]}' if inside else ''}")
    if not path.is_file():
        close = difflib.get_close_matches(path.name, _beside(path), n=1, cutoff=0.5)
        raise FileNotFoundError(f"no weights file {path}" + (f"; did you mean '{close[0]}'?" if close else ""))
    if path.name.endswith(_INDEX):
        return _open_parts(path)
    with open(path, "rb") as file:
        head = file.read(1024)
    if _is_safetensors(head, path.stat().st_size) or (path.suffix == ".safetensors" and not _kind(path, head)):
        return _open_safetensors(path)
    if kind := _kind(path, head):
        raise WeightsError(f"{path} holds no weights: it is {kind}")
    if not head.startswith((b"PK", b"\x80")):
        raise WeightsError(f"{path}: unknown kind of file; known are {_KNOWN}; it begins with {head[:16]!r}")
    return _open_torch(path)


def weight_sets(content: Any) -> dict[str, State]:
    """Returns every set of weights in a file's content, by the names that lead to it; "" is the content itself.

    Those of `WRAPPERS` come first, averages last.

    Raises:
        WeightsError: there is none.
    """
    found = {".".join(path): state for path, state in _sets(content, ())}
    weights = {name: state for name, state in found.items() if any(_is_weight(value) for value in state.values())}
    if not found:
        seen = f"a mapping of {shown(content)[2:]}" if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(f"no tensors by name found; got {seen}")
    return {name: (weights or found)[name] for name in sorted(weights or found, key=_rank)}


def chosen_set(sets: Mapping[str, State], name: str | None) -> str:
    """Returns the name of the set to take: the one asked for, else the first.

    Raises:
        WeightsError: there is none of that name.
    """
    if name is None:
        return next(iter(sets))
    if name not in sets:
        raise WeightsError(f"no set of weights '{name}'{nearest(name, sets)}")
    return name


def unwrapped(state: State) -> Iterator[State]:
    """Yields a state as it is, then again and again with one more layer of prefixes gone, until nothing changes."""
    current = {_without_inner(name): value for name, value in state.items() if name not in _COUNTERS}
    if len(current) < len(state.keys() - _COUNTERS):
        current = dict(state)  # two entries would get the same name
    while True:
        yield current
        stripped = {_stripped(name): value for name, value in current.items()}
        if stripped.keys() == current.keys():
            stripped = _without_common(current)
        if len(stripped) < len(current) or stripped.keys() == current.keys():
            return
        current = stripped


def shown(names: Any) -> str:
    """Returns `: a, b, c and 7 more` for the first few names."""
    names = list(map(str, names))
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f": {', '.join(names[:NAMES_SHOWN])}{more}"


def _sets(content: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], State]]:
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping) or "param_groups" in content or len(path) > _DEPTH:
        return
    if state := {str(key): value for key, value in content.items() if isinstance(value, Tensor)}:
        yield path, state
    for key, value in content.items():
        if isinstance(key, str) and not isinstance(value, Tensor) and not _NO_WEIGHTS.search(key):
            yield from _sets(value, (*path, key))


def _is_weight(tensor: Tensor) -> bool:
    return tensor.ndim > 0 and tensor.is_floating_point()


def _rank(name: str) -> tuple[bool, int]:
    first = name.partition(".")[0]
    return bool(_AVERAGE.search(name)), WRAPPERS.index(first) if first in WRAPPERS else len(WRAPPERS)


def _without_inner(name: str) -> str:
    while (shorter := _INSIDE.sub(r"\1", name)) != name:
        name = shorter
    return name


def _stripped(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


def _without_common(state: State) -> State:
    """Without a first word that all names share: what a program calls the part that holds the network."""
    words = {name.partition(".")[0] for name in state}
    if len(words) != 1 or not all("." in name for name in state):
        return state
    return {name.partition(".")[2]: value for name, value in state.items()}


def _beside(path: Path) -> list[str]:
    return [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size


def _kind(path: Path, head: bytes) -> str:
    """What a file is that holds no weights, empty where its first bytes don't tell."""
    if not head:
        return "empty (0 bytes)"
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if head[4:8] == b"ftyp":
        return "a video"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "a page of the web (HTML or XML), as servers send for a download that needs a login or isn't there"
    if text.startswith((b"{", b"[")):
        return "a JSON text"
    return _kind_of_zip(path) if head.startswith(b"PK") else ""


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return ""  # cut off: torch says more
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "a TorchScript program"
    if "data.pkl" in inner:
        return ""
    if any(name.endswith(".npy") for name in names):
        return "NumPy arrays (.npz)"
    return f"a zip archive that torch didn't write{shown(names)}; unpack it first"


def _open_safetensors(path: Path) -> State:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is no safetensors file, or a broken one: {error}") from None


def _open_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"(?:GLOBAL|global|class|type)[: ]+`?([A-Za-z_]\w*(?:\.\w+)+)", str(error))
        what = f" ({refused[1]})" if refused else ""
        raise WeightsError(
            f"{path} holds more than tensors and plain data{what}, and opening that could run its code, so it was not "
            "opened; whoever made it can save its state_dict alone"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        raise WeightsError(f"{path} is broken or cut off: {first_line(error)[:200]}") from None


def _open_parts(index: Path) -> State:
    """The entries of all files that an index names. They lie beside it: a path elsewhere is refused."""
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(parts.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(f"{index} is no index of weights: it has no 'weight_map' from entry to file") from None
    state: State = {}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name.endswith(_INDEX):
            raise WeightsError(f"{index} names a file that doesn't lie beside it: {name!r}")
        for opened in weight_sets(open_checkpoint(index.with_name(name))).values():
            state |= opened
    if lacking := sorted(parts.keys() - state.keys()):
        raise WeightsError(f"{index}: {len(lacking)} entries are in none of its files{shown(lacking)}")
    return state
