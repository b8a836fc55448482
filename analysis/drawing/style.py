"""How kinds of attention are named and drawn: our patterns as their letters say, published networks by family."""

from __future__ import annotations

import csv
import dataclasses
import functools

from analysis.load import FOLDER
from dualformer.attention.style import OTHER, Style, of_family, of_pattern

__all__ = ["Style", "network_of", "of_pattern", "published_families", "rank"]

FAMILIES = FOLDER / "published" / "families.csv"


@functools.cache
def _rows() -> list[dict[str, str]]:
    with open(FAMILIES, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@functools.cache
def published_families() -> dict[str, Style]:
    """Returns the families of published networks in the order of a legend; those of our letters look as these do."""
    return {row["family"]: _look(row) for row in _rows()}


def _look(row: dict[str, str]) -> Style:
    family, words = row["family"], row["words"]
    if row["colour"]:
        return dataclasses.replace(OTHER, family=family, words=words, colour=row["colour"], marker=row["marker"])
    return dataclasses.replace(of_family(family), words=words)


def network_of(family: str) -> str:
    """The published network that is known for a family, "" for none."""
    return next((row["network"] for row in _rows() if row["family"] == family), "")


def rank(family: str) -> int:
    """Place of a family's rows in a figure; families that nobody published come after all others."""
    families = list(published_families())
    return families.index(family) if family in families else len(families)
