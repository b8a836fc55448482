"""What a run came to: a validated result, written once and whole.

`result.json` is the one mark of a finished run. It is written to a temporary name, flushed to the disk and renamed, so
it is there completely or not at all; a file that is torn, invalid or of another run counts as not there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import pydantic

from dualformer.results.files import append_line, write_json

SCHEMA_VERSION = 1

MEASUREMENT_VERSION = 1
"""Raised by hand when a number of the same name would no longer mean the same; part of every run id."""

Status = Literal["ok", "oom", "error", "timeout", "skipped"]
STATUSES: tuple[str, ...] = get_args(Status)

_FACTOR = re.compile(r"top1_[a-z0-9_]+")


class Result(pydantic.BaseModel):
    """One row: what a run came to. None means not measured, which is never written as 0.

    Accuracies are fractions from 0 to 1. Any further field `top1_<factor>` is the accuracy on one factor of the label.

    Attributes:
        reason: why the status isn't ok, in words a person can act on.
        params_m: parameters in millions.
        gmacs_per_view: multiply-accumulates of one view in units of 10^9; one multiply-add counts as one.
        macs_head_included: whether that count has the classifier in it.
        num_views: views averaged for a prediction, `num_clips` x `num_crops`.
        gmacs_total: `gmacs_per_view` x `num_views`.
        gflops_total: 2 x `gmacs_total`.
        train_gmacs_per_clip: matrix work of one clip in one training step: forward, backward, recomputation, head.
        flags: what disturbed the timing, in words; empty where nothing was seen, None where nothing was timed.
        compile_s: seconds of the first forward pass, compiling included; None where nothing was compiled.
        roofline_ms: least time of the timed forward pass by the ceilings of the machine at that moment.
        num_videos: held-out videos that were scored.
        num_failed_videos: videos that could not be read; they are counted here and in no accuracy.
        chance_top1: top-1 accuracy of guessing, from the class counts of the held-out videos.
        mean_class_accuracy: mean over the classes that were scored of the accuracy on each.
        calibration_error: expected difference between confidence and accuracy, over 15 bins of confidence.
        train_clips_per_s: clips a second in training, of all processes, waiting for data included.
        data_wait_share: share of that time that was spent waiting for data.
        in_order_share: share of the usable videos that are read in order, since seeking there gives other frames.
    """

    model_config = pydantic.ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    status: Status
    reason: str = ""
    params_m: float | None = None
    gmacs_per_view: float | None = None
    macs_head_included: bool | None = None
    num_views: int | None = None
    gmacs_total: float | None = None
    gflops_total: float | None = None
    train_gmacs_per_clip: float | None = None
    latency_ms_p50: float | None = None
    latency_ms_p20: float | None = None
    latency_ms_p80: float | None = None
    throughput_clips_per_s: float | None = None
    peak_mem_gib: float | None = None
    energy_j_per_clip: float | None = None
    flags: list[str] | None = None
    compile_s: float | None = None
    roofline_ms: float | None = None
    top1: float | None = None
    top5: float | None = None
    num_videos: int | None = None
    num_failed_videos: int | None = None
    num_classes: int | None = None
    chance_top1: float | None = None
    mean_class_accuracy: float | None = None
    calibration_error: float | None = None
    train_clips_per_s: float | None = None
    data_wait_share: float | None = None
    in_order_share: float | None = None
    final_train_loss: float | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Result:
        for name, value in (self.model_extra or {}).items():
            if not _FACTOR.fullmatch(name):
                raise ValueError(f"unknown field '{name}' (only top1_<factor> may be added)")
            if value is not None and (not isinstance(value, float | int) or not 0 <= value <= 1):
                raise ValueError(f"{name} must be a fraction from 0 to 1, got {value!r}")
        if self.status != "ok" and not self.reason:
            raise ValueError(f"status '{self.status}' needs a reason")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON data."""
        return self.model_dump()


def write_result(run_dir: Path, result: Result) -> None:
    """Writes `result.json`, after which the run counts as finished.

    Raises:
        RecordError: the file could not be written (a full disk, say); the run counts as not finished.
    """
    write_json(run_dir / "result.json", result.to_dict())


def read_result(run_dir: Path) -> Result | None:
    """Returns the run's result, None where it is missing, torn, invalid or another run's."""
    try:
        result = Result.model_validate_json((run_dir / "result.json").read_bytes())
    except (OSError, pydantic.ValidationError):
        return None
    return result if result.run_id == run_dir.name else None


def append_metrics(run_dir: Path, metrics: Mapping[str, Any]) -> None:
    """Adds a line to `metrics.jsonl`."""
    append_line(run_dir / "metrics.jsonl", metrics)
