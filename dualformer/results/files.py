"""Writing and reading files so that a crash leaves all of it or nothing: atomic replacement, JSON, JSON lines, csv."""

from __future__ import annotations

import contextlib
import csv
import datetime
import errno
import io
import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # the last four are full-width forms, which count as well
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class RecordError(OSError):
    """A record that could not be written; the file is as it was before."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk or a quota is full, which passes: no result of a run."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that a reader, or the next start after a crash, sees all of it or nothing.

    Raises:
        RecordError: names the file and what the system said; nothing of it is left behind.
        ValueError: the value isn't JSON (NaN and infinity aren't).
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Like `write_json`, for text; bytes of file names that are no UTF-8 stand as escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_csv(
    path: Path,
    columns: Sequence[str],
    rows: Iterable[Iterable[Any]],
    *,
    newline: str = "\n",
    check: Callable[[Path], Any] | None = None,
) -> None:
    """Like `write_json`, for a table with a header; None is an empty cell, and no cell is a formula to a spreadsheet.

    Args:
        path: the file.
        columns: its header.
        rows: a value for each column.
        newline: what ends a line; cells that hold one of its characters are quoted.
        check: as in `write_bytes`.
    """
    write_bytes(path, csv_text((columns, *rows), newline).encode(errors="backslashreplace"), check)


def csv_text(lines: Iterable[Iterable[Any]], newline: str = "\n") -> str:
    """Returns lines of cells as `write_csv` writes them."""
    text = io.StringIO()
    csv.writer(text, lineterminator=newline).writerows(map(inert, line) for line in lines)
    return text.getvalue()


def inert(value: Any) -> str:
    """Returns the text of a cell, which no spreadsheet takes for a formula.

    One that begins with `=`, `+`, `-`, `@`, a tab or a line break and is no number gets an apostrophe before it, as
    spreadsheets themselves mark text.
    """
    text = "" if value is None else str(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def plain(cell: str) -> str:
    """Returns what `inert` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def write_bytes(path: Path, content: bytes | memoryview, check: Callable[[Path], Any] | None = None) -> None:
    """Like `write_json`, for bytes.

    Args:
        path: the file.
        content: what it is to hold.
        check: called with the file before it gets its name; what it raises is passed on, and nothing is replaced.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check:
            check(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise RecordError(error.errno, f"cannot write {path} ({error.strerror}); nothing was changed") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def parse(text: str | bytes) -> Any:
    """Returns what a JSON text says.

    Raises:
        ValueError: it isn't JSON, is nested without end, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def is_folder_name(value: object) -> bool:
    """Whether a value that a file gives is the plain name of a run's folder, and leads nowhere else."""
    return isinstance(value, str) and re.fullmatch(r"\w[\w.-]{0,199}", value, re.ASCII) is not None


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else; the message names the file.
    """
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object")
    return value


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Adds one line of JSON in one write, on a line of its own even where a crash tore the last one."""
    with open(path, "ab+") as file:
        end = os.fstat(file.fileno()).st_size
        torn = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
        file.write(b"\n" * torn + json.dumps(value).encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a file of JSON lines; a missing file has none, and torn lines are left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    values = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            values.append(parse(line))
    return values


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def utc_now() -> str:
    """Returns the time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
