"""Letter S: local windows shifted by half."""

from __future__ import annotations

from dualformer.attention.local_window import LocalWindowAttention
from dualformer.attention.style import Style


class ShiftedWindowAttention(LocalWindowAttention):
    """Local windows moved by half a window along every axis that has more than one (Video Swin, section 3.2).

    Windows cut by the border stay cut: tokens that only meet because of the cyclic roll don't attend to each other.
    """

    letter = "S"
    words = "shifted window"
    family = "shifted"
    colour = "#56B4E9"
    marker = "D"
    mixes = {"window": Style("shifted", "window + shifted window", "#56B4E9", "D")}
    shifted = True
