"""How patterns are named and drawn: by what the letters' files say and by rules, without a table of letters."""

import itertools
import re

import pytest

from dualformer import attention
from dualformer.attention import letters, style
from dualformer.config import ConfigError
from tests.helpers.planted import ALSO_FREE, FREE, plant


def test_published_patterns_keep_their_families_words_and_colours():
    drawn = {pattern: style.of_pattern(pattern) for pattern in ("L", "S", "G", "D", "F", "LS", "LG", "LGSDF")}
    families = {pattern: one.family for pattern, one in drawn.items()}
    assert families == {
        "L": "window",
        "S": "shifted",
        "G": "pooled",
        "D": "divided",
        "F": "full",
        "LS": "shifted",
        "LG": "dual",
        "LGSDF": "other",
    }
    assert drawn["LG"] == style.Style("dual", "window + pyramid", "#D55E00", "o")
    assert drawn["LGSDF"].words == "window + pyramid + shifted window + divided + full"


def test_repeats_numbers_stages_and_order_make_no_difference_to_colour():
    for pattern in ("LGLG", "L1L2G", "LL,LG,LG,G", "LGG"):
        assert style.of_pattern(pattern) == style.of_pattern("LG")
    assert style.of_pattern("GL") == style.Style("dual", "pyramid + window", "#D55E00", "o")
    assert style.of_pattern("FD").colour == style.of_pattern("DF").colour


def test_letters_are_told_apart():
    drawn = [style.of_letter(letter) for letter in letters()]
    for field in ("words", "colour"):
        assert len({getattr(one, field) for one in drawn}) == len(drawn), field
    spare = [(style.SPARE_COLOURS[n % 8], style.SPARE_MARKERS[n % 7]) for n in range(26)]
    assert len(set(spare)) == 26
    colours = [one.colour for one in (*style.families().values(), *drawn)]
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in [*colours, *style.SPARE_COLOURS])


def test_a_new_letter_is_drawn_alone_and_mixed_with_nothing_else_edited(tmp_path):
    file = plant(tmp_path, FREE, "one", words="wide", colour="#123456", marker="*")
    mixes = "    mixes = {'pooled': Style('wp', 'w', '#654321', 'h')}\n"
    file.write_text("from dualformer.attention.style import Style\n" + file.read_text() + mixes)
    plant(tmp_path, ALSO_FREE, "other", words="yonder")
    with attention.also_in(tmp_path):
        assert style.of_pattern(FREE) == style.Style("wide", "wide", "#123456", "*")
        assert style.of_pattern(f"G{FREE}1") == style.Style("wp", "pyramid + wide", "#654321", "h")
        plain, mixed = style.of_pattern(ALSO_FREE), style.of_pattern(f"{ALSO_FREE}D")
        assert (plain.family, plain.words) == ("yonder", "yonder")
        assert (mixed.family, mixed.words) == ("other", "yonder + divided")
        assert plain.colour in style.SPARE_COLOURS and mixed.colour in style.SPARE_COLOURS
        assert {"wide", "wp", "yonder"} <= set(style.families())
        assert style.of_family("wp").colour == "#654321"


def test_a_letter_of_a_known_family_mixes_as_that_family(tmp_path):
    plant(tmp_path, words="wide", family="window", colour="#123456")
    with attention.also_in(tmp_path):
        assert style.of_pattern(f"{FREE}G") == style.Style("dual", "wide + pyramid", "#D55E00", "o")
        assert style.of_pattern(f"L{FREE}").family == "window"


@pytest.mark.parametrize("pattern", [None, ""])
def test_no_pattern_is_other(pattern):
    assert style.of_pattern(pattern) == style.OTHER


def test_letters_that_are_gone_are_named_by_themselves():
    gone = f"{FREE} + pyramid"
    assert style.of_pattern(f"{FREE}G") == style.Style("other", gone, style.OTHER.colour, style.OTHER.marker)


def test_every_mixture_has_a_style():
    for number in range(1, len(letters()) + 1):
        for chosen in itertools.combinations(letters(), number):
            one = style.of_pattern("".join(chosen))
            assert one.family in style.families()
            assert one.words.count(" + ") == number - 1


def test_a_colour_that_no_figure_can_draw_is_refused_when_the_file_is_read(tmp_path):
    plant(tmp_path, colour="bluu")
    with attention.also_in(tmp_path), pytest.raises(ConfigError, match="colour 'bluu', which is not of the form"):
        attention.find(FREE)
