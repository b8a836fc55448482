"""Data sets of empty files with annotations beside them, and what is read of these."""

import json
from pathlib import Path

from dualformer.data.formats import Source, list_clips


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def touch(folder, *files):
    for file in files:
        write(folder / file, "x")
    return folder


def read(name, videos, *annotations, **options):
    return list_clips(name, Source(Path(videos), tuple((None, Path(path)) for path in annotations), **options))
