"""Writes the tables of `models.md`: our parameters and multiply-accumulates beside the published ones.

Ours are counted when this runs (`python docs/models.py`, seconds, no weights); the published ones stand below with
their sources. The text around the tables is edited in `models.md` itself. A test keeps the tables up to date.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torch import nn

from dualformer import count_macs, list_models
from dualformer.macs import MacCount
from dualformer.meta import no_memory
from dualformer.model_config import ModelConfig
from dualformer.registry import model_config

DOCUMENT = Path(__file__).parent / "models.md"


@dataclasses.dataclass(frozen=True)
class Published:
    """One published statement about one model and view, and the convention behind its numbers.

    Attributes:
        name: of the model here.
        source: repository: file @ commit, or paper.
        params_m: millions of parameters, None where not stated.
        gmacs: billions of multiply-accumulates of `views` views, None where not stated.
        changes: what the stated model changes of ours.
        head: whether the numbers include the classification head.
        norm_ops: operations counted for each element of a layer norm.
        views: views that `gmacs` is stated for.
        gmacs_digit: what `gmacs` is rounded to; None for its last printed digit.
        note: letter of a remark in `models.md`.
    """

    name: str
    source: str
    params_m: float | None
    gmacs: float | None
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    head: bool = True
    norm_ops: int = 5
    views: int = 1
    gmacs_digit: float | None = None
    note: str = ""


DUALFORMER = "sail-sg/dualformer: README.md @058c10c (240, 636, 1072 for 4 views)"
VIDEO_SWIN = "SwinTransformer/Video-Swin-Transformer: README.md @db018fb"
MMACTION_SWIN = "open-mmlab/mmaction2: configs/recognition/swin/README.md @4d6c934"
TORCHVISION = "pytorch/vision: weights of torchvision.models.video.swin3d_t, _s, _b"
MMACTION_TIMESFORMER = "open-mmlab/mmaction2: configs/recognition/timesformer/README.md @4d6c934"
TIMESFORMER = "arXiv 2102.05095, Table 1"
TIMESFORMER_COST = "arXiv 2102.05095 (0.59, 5.11 and 7.14 TFLOPs for 3 views)"
THREE_VIEWS = {"norm_ops": 0, "views": 3, "gmacs_digit": 10}
VIVIT = "arXiv 2103.15691, Table 2"
LONG = {"num_frames": 96}
LARGE = {"num_frames": 16, "crop_size": 448}
SSV2_WINDOW = {"window_size": (16, 7, 7), "num_classes": 174}

PUBLISHED = (
    Published("dualformer_tiny", DUALFORMER, 21.8, 60, head=False),
    Published("dualformer_small", DUALFORMER, 48.9, 159, head=False),
    Published("dualformer_base", DUALFORMER, 86.8, 268, head=False),
    Published("video_swin_tiny", VIDEO_SWIN, 28, 87.9, norm_ops=2, note="a"),
    Published("video_swin_small", VIDEO_SWIN, 50, 165.9, norm_ops=2, note="a"),
    Published("video_swin_base", VIDEO_SWIN, 88, 281.6, norm_ops=2, note="a"),
    Published("video_swin_base", VIDEO_SWIN, 89, 320.6, SSV2_WINDOW, norm_ops=2, note="a"),
    Published("video_swin_tiny", MMACTION_SWIN, 28.2, 88),
    Published("video_swin_small", MMACTION_SWIN, 49.8, 166),
    Published("video_swin_base", MMACTION_SWIN, 88.0, 282),
    Published("video_swin_tiny", TORCHVISION, 28.158, 43.88, {"num_frames": 16}, norm_ops=0, note="b"),
    Published("video_swin_small", TORCHVISION, 49.817, 82.84, {"num_frames": 16}, norm_ops=0, note="b"),
    Published("video_swin_base", TORCHVISION, 88.049, 140.67, {"num_frames": 16}, norm_ops=0, note="b"),
    Published("timesformer_divided", MMACTION_TIMESFORMER, 122, 196),
    Published("timesformer_joint", MMACTION_TIMESFORMER, 86.11, 180),
    Published("timesformer_space", MMACTION_TIMESFORMER, 86.11, 141),
    Published("timesformer_divided", TIMESFORMER, 121.4, None, {"num_classes": 174}, note="c"),
    Published("timesformer_joint", TIMESFORMER, 85.9, None, {"num_classes": 174}, note="c"),
    Published("timesformer_space", TIMESFORMER, 85.9, None, {"num_classes": 174}, note="c"),
    Published("timesformer_divided", TIMESFORMER_COST, None, 590, **THREE_VIEWS),
    Published("timesformer_divided", TIMESFORMER_COST, None, 5110, LARGE, **THREE_VIEWS),
    Published("timesformer_divided", TIMESFORMER_COST, None, 7140, LONG, **THREE_VIEWS),
    Published("vivit_base", VIVIT, 88.9, 455.2, norm_ops=0, note="d"),
)


@functools.cache
def counted(config: ModelConfig) -> tuple[nn.Module, MacCount]:
    """The model without memory for its weights, and its multiply-accumulates, head included."""
    with no_memory():
        model = config.build()
    return model, count_macs(model, include_head=True)


def parameters_m(config: ModelConfig, head: bool) -> float:
    """Millions of parameters, with or without the classification head."""
    model, _ = counted(config)
    left_out = () if head else model.head.parameters()
    return (sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in left_out)) / 1e6


def gmacs(config: ModelConfig, head: bool, norm_ops: int) -> float:
    """Billions of multiply-accumulates of one view, each element of a layer norm taken as `norm_ops` of them."""
    _, count = counted(config)
    left_out = 0 if head else count.by_module["head"]
    return (count.total - left_out + (norm_ops / 5 - 1) * count.by_operator["layer_norm"]) / 1e9


def own_table() -> str:
    """Every model as published, counted in each way."""
    rows = []
    for name in list_models():
        config = model_config(name)
        params = [f"{parameters_m(config, head):.3f}" for head in (False, True)]
        counts = [f"{gmacs(config, *way):.2f}" for way in ((False, 0), (False, 5), (True, 5))]
        rows.append([f"`{name}`", clip(config), *params, *counts])
    heads = ["model", "view", "params, M, no head", "with head", "GMACs, matrix work, no head", "+ norms", "+ head"]
    return table(heads, rows)


def comparison_table() -> str:
    """Every published statement beside what we count by its convention."""
    rows = []
    for entry in PUBLISHED:
        config = model_config(entry.name, **entry.changes)
        ours_m, ours_g = parameters_m(config, entry.head), gmacs(config, entry.head, entry.norm_ops)
        rows.append(
            [
                f"`{entry.name}`" + (f" {entry.changes['window_size']}" if "window_size" in entry.changes else ""),
                clip(config),
                *compared(entry.params_m, ours_m, decimals=3),
                *compared(entry.gmacs, ours_g, decimals=2, views=entry.views, digit=entry.gmacs_digit),
                entry.note,
                entry.source,
            ]
        )
    heads = ["model", "view", "params, M", "ours", "off by", "GMACs per view", "ours", "off by", "note", "published in"]
    return table(heads, rows)


def compared(
    published: float | None, ours: float, decimals: int, views: int = 1, digit: float | None = None
) -> list[str]:
    """Published number and ours, both of one view, and how they differ."""
    if published is None:
        return ["", "", ""]
    per_view = f"{published / views:.4g}" if views > 1 else f"{published:g}"
    return [per_view, f"{ours:.{decimals}f}", difference(published, views * ours, digit)]


def difference(published: float, ours: float, digit: float | None = None) -> str:
    """How far ours is off, or "=" where it rounds to what was published."""
    digit = digit or 10.0 ** -len(f"{published:g}".partition(".")[2])
    if math.isclose(round(ours / digit) * digit, published):
        return "="
    return f"{100 * (ours / published - 1):+.2f} %"


def clip(config: ModelConfig) -> str:
    return f"{config.num_frames}x{config.crop_size[0]}x{config.crop_size[1]}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def render(document: str) -> str:
    """Returns the document with its tables counted anew, each between `<!-- NAME -->` and `<!-- end -->`."""
    for name, content in (("ours", own_table()), ("published", comparison_table())):
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        document, found = block.subn(lambda match, content=content: match[1] + content + "\n" + match[2], document)
        assert found == 1, f"models.md needs one place for the table '{name}'"
    return document


if __name__ == "__main__":
    DOCUMENT.write_text(render(DOCUMENT.read_text()))
