"""Tables in a notebook: every name in them is text, whatever a user called a run, a model or a video."""

from __future__ import annotations

import html

import pandas as pd
from IPython.display import display


def show(frame: pd.DataFrame, caption: str = "") -> None:
    """Displays a table without its index; what is missing stays empty."""
    styled = frame.style.hide().format(precision=2, na_rep="", escape="html").format_index(escape="html", axis=1)
    display(styled.set_caption(html.escape(caption)) if caption else styled)
