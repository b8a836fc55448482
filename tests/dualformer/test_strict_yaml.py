import pytest

from dualformer import strict_yaml
from dualformer.config import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1e2", 100.0), ("010", 10), ("08", 8), ("0o10", 8), ("0x1f", 31), ("-7", -7), (".5", 0.5),
        ("no", "no"), ("on", "on"), ("y", "y"), ("true", True), ("~", None), ("", None), ("2:00:00", "2:00:00"),
        ("1-00:00:00", "1-00:00:00"), ("2020-01-01", "2020-01-01"), ("1_000", "1_000"), ("'5'", "5"),
        ("[1, a]", [1, "a"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}), ("{<<: 3}", {"<<": 3}), ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
    ],
)  # fmt: skip
def test_words_and_numbers_mean_what_they_look_like(text: str, value: object):
    found = strict_yaml.parse(text, "it")
    assert found == value and type(found) is type(value)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "'a' is given twice"),
        ("{x: {a: 1, 'a': 2}}", "'a' is given twice"),
        ("3: x", "the key '3' is not text"),
        ("true: x", "the key 'true' is not text"),
        ("~: x", "the key '~' is not text"),
        ("? [a]\n: b", "not text"),
        ("? {a: 1}\n: b", "not text"),
        ("a: !!binary aGk=", "the tag"),
        ("a: !!set {b}", "the tag"),
        ("!!python/object/apply:os.system [ls]", "the tag"),
        ("a: !mine b", "the tag !mine"),
        ("a: 1e999", "1e999 is out of range"),
        ("a: -1e999", "out of range"),
        ("a: " + "9" * 5000, "more than 19 digits"),
        ("a: 0x" + "f" * 100, "more than 19 digits"),
        ("a: &x [*x]", "an alias that lies in what it stands for"),
        ("a: &x {b: *x}", "an alias that lies in what it stands for"),
        (BOMB, "with aliases written out"),
        ("[" * 5000, "nested more than 30 deep"),
        ("{a: " * 5000, "nested more than 30 deep"),
        ('a: "\\ud800"', "half a character"),
        ('a: "\\0"', "NUL"),
        ("a: \x00", "special characters"),
        ("a: [", r"line 1, column 5\)"),
        ("--- a\n--- b", "another document"),
        ("a: *nowhere", "undefined alias"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(text: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        strict_yaml.parse(text, "my.yaml")
    assert str(caught.value).startswith("my.yaml: not valid YAML: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: é".encode("latin-1"), r"my\.yaml: not UTF-8 text \(byte 3, in line 1\)"),
        ("a: b".encode("utf-16"), "not UTF-8 text"),
        (b"\x00\x01", "special characters"),
        (b"#" * (strict_yaml.MOST_BYTES + 1), "more than 1000000 bytes"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content: bytes, message: str):
    (tmp_path / "my.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        strict_yaml.read(tmp_path / "my.yaml")


def test_a_byte_order_mark_is_none_of_the_text(tmp_path):
    (tmp_path / "my.yaml").write_bytes("a: é".encode("utf-8-sig"))
    assert strict_yaml.read(tmp_path / "my.yaml") == {"a": "é"}
