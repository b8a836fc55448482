"""Attentions that the project doesn't have, planted in a folder of a test under letters that no file has."""

import inspect
import string
from pathlib import Path

from dualformer import attention

FREE, ALSO_FREE, *_ = (letter for letter in string.ascii_uppercase if letter not in attention.letters())
"""Letters without an attention."""


def plant(folder, letter=FREE, name="planted", line=None, **attributes):
    """Writes a file with full attention under another letter; `line` in place of the one that says the letter."""
    text = (
        "from dualformer.attention.full import FullAttention\n\n\n"
        f'class Planted(FullAttention):\n    """Full attention under another letter."""\n\n'
        f"    {line or f'letter = {letter!r}'}\n"
    )
    for attribute, value in {"words": "planted", **attributes}.items():
        text += f"    {attribute} = {value!r}\n"
    file = Path(folder) / f"{name}.py"
    file.write_text(text)
    return file


def copied(folder, cls, *changes):
    """A context in which a copy of an attention's file has the letter `FREE`, texts of it replaced by others."""
    text = Path(inspect.getfile(cls)).read_text()
    for old, new in [(f'letter = "{cls.letter}"', f'letter = "{FREE}"'), *changes]:
        assert old in text
        text = text.replace(old, new)
    (Path(folder) / "planted.py").write_text(text)
    return attention.also_in(folder)
