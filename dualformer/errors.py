"""What an error says, in one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's words, its kind where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def kind_and_line(error: BaseException) -> str:
    """Returns the kind of an error and the first line of its words, as in "ValueError: no such size"."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".removesuffix(": ")
