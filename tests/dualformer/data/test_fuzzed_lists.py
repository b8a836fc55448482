"""Whatever a manifest or an annotation file holds: it is read, or refused in words that name it, at once."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualformer.data.files import DataError
from dualformer.data.formats import FORMATS, Source, list_clips
from dualformer.data.manifest import read_manifest
from tests.helpers import hostile
from tests.helpers.bounded import MOST_CHARACTERS, fuzzed, within_bounds

words = st.sampled_from(
    ["a.mp4", "a/a.mp4", "b/b.mp4", "../a.mp4", "/etc/passwd", "a", "b", "train", "test", "val", "0", "1", "-1", "1.0"]
    + ["99999999999", "9" * 5000, "1e999", "nan", "", " ", "x" * 3000, "é", "e\u0301", "\0", *hostile.NAMES]
)
columns = [
    "file",
    "label",
    "split",
    "class_index",
    "group",
    "sequence",
    "factor_a",
    "sha256",
    "youtube_id",
    "time_start",
]
columns += ["time_end", "vid_name", "start_frame", "end_frame", "id", "template", "=1+1", ""]
tables = st.lists(st.sampled_from(columns), min_size=1, max_size=6).flatmap(
    lambda header: st.lists(st.lists(words, max_size=len(header) + 1), max_size=5).map(
        lambda rows: "\n".join(",".join(row) for row in [header, *rows])
    )
)
spaced = st.lists(st.lists(words, max_size=4).map(" ".join), max_size=5).map("\n".join)
plain = st.recursive(
    words | st.integers(-(10**30), 10**30) | st.floats() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(columns) | words, inner, max_size=4),
    max_leaves=8,
)
contents = st.one_of(
    tables.map(lambda text: text.encode("utf-8", "surrogatepass")),
    spaced.map(str.encode),
    plain.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=60),
    st.text(',"\n\r;\t ab01', max_size=60).map(str.encode),
    st.sampled_from([b"", b"\xff\xfe", b"[" * 20_000, b'"' * 1001, b"file,label\n" + b"a.mp4,a\n" * 20_000]),
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzzed") / "videos"
    for name in ("a.mp4", "a/a.mp4", "b/b.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def read_or_refused(read, *arguments) -> None:
    with within_bounds():
        try:
            read(*arguments)
        except DataError as error:
            assert 0 < len(str(error)) < MOST_CHARACTERS


@given(contents)
@fuzzed(250)
def test_manifests(videos: Path, content: bytes):
    path = videos.parent / "manifest.csv"
    path.write_bytes(content)
    read_or_refused(read_manifest, path)


@given(st.sampled_from(sorted(FORMATS)), contents, contents | st.none(), st.booleans())
@fuzzed(400)
def test_annotations(videos: Path, name: str, content: bytes, classes: bytes | None, is_json: bool):
    ending = ".json" if is_json else ".csv" if name in ("kinetics",) else ".txt"
    annotations, class_file = videos.parent / f"trainlist01{ending}", videos.parent / f"classes{ending}"
    annotations.write_bytes(content)
    class_file.write_bytes(classes or b"")
    source = Source(videos, ((None, annotations),), class_file if classes is not None else None)
    read_or_refused(list_clips, name, source)
