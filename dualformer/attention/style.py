"""How figures and tables name and draw a pattern of attentions: the one place that they ask.

Words, family, colour and marker stand in the files of the letters. A pattern of one letter has that letter's. A mixture
of two families has the style that one of their files names in `mixes`; any other mixture joins its letters' words,
belongs to the family "other", and draws its colour from a spare palette, always the same one for the same letters.

Colours keep apart for colour-blind readers: the files' are Okabe and Ito's (Color Universal Design, 2008), the spare
ones Paul Tol's muted scheme (Colour schemes, SRON technical note, 2021).
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from itertools import permutations

from dualformer.attention import find, letters

SPARE_COLOURS = ("#332288", "#117733", "#999933", "#882255", "#AA4499", "#44AA99", "#CC6677", "#DDCC77")
SPARE_MARKERS = ("<", ">", "p", "h", "*", "d", "8")


@dataclasses.dataclass(frozen=True)
class Style:
    """How a kind of attention is named and drawn.

    Attributes:
        family: what it is told apart by in figures and in tables of published results, one word.
        words: its name for readers.
        colour: "#RRGGBB".
        marker: a marker of matplotlib.
    """

    family: str
    words: str
    colour: str
    marker: str


OTHER = Style("other", "other attention", "#4D4D4D", "X")
CONVOLUTION = Style("conv", "convolution", "#8C8C8C", ".")
"""Of published networks without attention."""


def of_letter(letter: str) -> Style:
    """Returns the style of one attention.

    Raises:
        ConfigError: as `dualformer.attention.find`.
    """
    own = vars(find(letter))  # an attention that inherits another's code isn't drawn as that one
    number = ord(letter) - ord("A")
    return Style(
        family=own.get("family") or own["words"],
        words=own["words"],
        colour=own.get("colour") or SPARE_COLOURS[number % len(SPARE_COLOURS)],
        marker=own.get("marker") or SPARE_MARKERS[number % len(SPARE_MARKERS)],
    )


def of_pattern(pattern: str | None) -> Style:
    """Returns the style of a pattern such as "LG" or "L1L2,LG"; numbers of symbols and stages make no difference.

    A pattern of a recorded run may have letters that no file has any more: they are named by themselves.
    """
    used = [letter for letter in dict.fromkeys(pattern or "") if letter.isalpha()]
    if not used:
        return OTHER
    known = {letter: of_letter(letter) for letter in used if letter in letters()}
    words = " + ".join(known[letter].words if letter in known else letter for letter in used)
    if len(known) < len(used):
        return dataclasses.replace(OTHER, words=words)
    if len(used) == 1:
        return known[used[0]]
    mixed = _mixture(known)
    return dataclasses.replace(mixed, words=words) if mixed else _spare(used, words)


def families() -> dict[str, Style]:
    """Returns every family that a single letter, a named mixture or a published network has, by name.

    The words are the family's: its name, or those of the mixture that makes it.
    """
    styles = [of_letter(letter) for letter in letters()]
    found = {style.family: dataclasses.replace(style, words=style.family) for style in styles}
    for letter in letters():
        for style in _mixes(letter).values():
            found.setdefault(style.family, style)
    return {**found, CONVOLUTION.family: CONVOLUTION, OTHER.family: OTHER}


def of_family(family: str) -> Style:
    """Returns the style of a family; `OTHER` for one that nobody has."""
    return families().get(family, OTHER)


def _mixture(styles: dict[str, Style]) -> Style | None:
    """The style of letters of one family, or of two families that a file says what they make together."""
    found = {style.family: style for style in styles.values()}
    if len(found) == 1:
        return next(iter(found.values()))
    if len(found) > 2:
        return None
    for one, other in permutations(styles, 2):
        if made := _mixes(one).get(styles[other].family):
            return made
    return None


def _mixes(letter: str) -> Mapping[str, Style]:
    return vars(find(letter)).get("mixes", {})


def _spare(used: list[str], words: str) -> Style:
    number = zlib.crc32("".join(sorted(used)).encode())
    colour = SPARE_COLOURS[number % len(SPARE_COLOURS)]
    return Style(OTHER.family, words, colour, SPARE_MARKERS[number // len(SPARE_COLOURS) % len(SPARE_MARKERS)])
