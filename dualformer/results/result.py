"""What a run came to: a validated result, written once and whole, and all there is to say about each of its fields.

`result.json` is the one mark of a finished run. It is written to a temporary name, flushed to the disk and renamed, so
it is there completely or not at all; a file that is torn, invalid or of another run counts as not there.

A new metric is one line in `Result` and the function that finds it: tables, range checks, `compare` and the list of
what is measured follow. Where older tables lack it, its line says `optional=True`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import pydantic

from dualformer.results import fields as about
from dualformer.results.fields import FRACTION, Field, Kind, field
from dualformer.results.files import append_line, write_json
from dualformer.results.layout import METRICS, RESULT

SCHEMA_VERSION = 1

MEASUREMENT_VERSION = 1
"""Raised by hand when a number of the same name would no longer mean the same; part of every run id."""

Status = Literal["ok", "oom", "error", "timeout", "skipped"]
STATUSES: tuple[str, ...] = get_args(Status)

MISSING = "missing"
"""Status of a row of a table whose run has no (readable) result, though its grid expects one."""
ROW_STATUSES = (*STATUSES, MISSING)

FACTOR_PREFIXES = ("top1_", "chance_top1_")
"""Columns `top1_<factor>` and `chance_top1_<factor>`: each factor of a data set's label, scored alone."""

_FACTOR = re.compile(r"top1_[a-z0-9_]+")

_identity = functools.partial(field, "identity")
_counted = functools.partial(field, "counted")
_timed = functools.partial(field, "timed")
_learned = functools.partial(field, "learned")
_noted = functools.partial(field, "noted")


class Result(pydantic.BaseModel):
    """One row: what a run came to. None means not measured, which is never written as 0.

    Each line is a field: where it comes from, unit, meaning, and whether it must be positive or may be lacking in older
    tables. Any further field `top1_<factor>` is the accuracy on one factor of the label, a fraction.
    """

    model_config = pydantic.ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    # fmt: off
    run_id: str = _identity("", "identity of the run: hash of all that can change what it comes to", default=...)
    status: Status = _identity("", "ok, or how the run failed", default=...)
    reason: str = _identity("", "why the status isn't ok, or why a time is withheld, in words to act on", default="")
    schema_version: Literal[1] = _identity("", "version of these fields", default=SCHEMA_VERSION)

    params_m: float | None = _counted("10^6", "parameters", positive=True)
    gmacs_per_view: float | None = _counted("10^9 MACs", "multiply-accumulates of one view, each one", positive=True)
    macs_head_included: bool | None = _counted("", "whether that count has the classifier in it")
    num_views: int | None = _counted("views", "views averaged for a prediction, clips x crops", positive=True)
    gmacs_total: float | None = _counted("10^9 MACs", "gmacs_per_view x num_views", positive=True)
    gflops_total: float | None = _counted("10^9 FLOPs", "2 x gmacs_total", positive=True)

    latency_ms_p50: float | None = _timed("ms", "a synchronised forward pass of a batch: median", positive=True)
    latency_ms_p20: float | None = _timed("ms", "likewise: 20th percentile", positive=True)
    latency_ms_p80: float | None = _timed("ms", "likewise: 80th percentile", positive=True)
    throughput_clips_per_s: float | None = _timed("clips/s", "forward, without waiting between passes", positive=True)
    peak_mem_gib: float | None = _timed("GiB", "weights, clip and the most that a forward pass holds", positive=True)
    energy_j_per_clip: float | None = _timed("J", "of a clip's forward pass, above idling", positive=True)

    top1: float | None = _learned(FRACTION, "held-out videos whose class is the most probable one")
    top5: float | None = _learned(FRACTION, "held-out videos whose class is among the five most probable ones")
    chance_top1: float | None = _learned(FRACTION, "top1 of guessing, from the class counts of the held-out videos")
    num_classes: int | None = _learned("classes", "classes that the network tells apart", positive=True)
    num_videos: int | None = _learned("videos", "held-out videos that were scored")
    num_failed_videos: int | None = _learned("videos", "videos that could not be read, which are in no accuracy")
    train_clips_per_s: float | None = _learned("clips/s", "training, of all processes, with all waits", positive=True)
    final_train_loss: float | None = _learned("", "loss of the last steps of training")

    train_gmacs_per_clip: float | None = _counted(
        "10^9 MACs", "a clip's training step: forward, backward, recomputation, head", positive=True, optional=True)
    flags: list[str] | None = _noted(
        "", "what disturbed the timing; empty where nothing was seen, null where nothing was timed", optional=True)
    gate: str | None = _noted(
        "", "what had to agree before anything was timed: \"twins\" (naive references) or \"self\"", optional=True)
    compile_s: float | None = _noted(
        "s", "first forward pass, compiling included; null where nothing was compiled", positive=True, optional=True)
    roofline_ms: float | None = _noted(
        "ms", "least time of the timed forward pass by the machine's ceilings then", positive=True, optional=True)
    data_wait_share: float | None = _learned(FRACTION, "time of training spent waiting for data", optional=True)
    in_order_share: float | None = _learned(
        FRACTION, "usable videos read in order, since seeking there gives other frames", optional=True)
    mean_class_accuracy: float | None = _learned(
        FRACTION, "mean over the classes that were scored of the accuracy on each", optional=True)
    calibration_error: float | None = _learned(
        FRACTION, "expected difference between confidence and accuracy, over 15 bins of confidence", optional=True)
    # fmt: on

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


def fields() -> Mapping[str, Field]:
    """Returns every field of a result, by name, in the order of a table's columns."""
    return about.declared(Result)


def of_kind(kind: Kind) -> tuple[str, ...]:
    """Returns the names of the fields that come from there."""
    return about.names(field for field in fields().values() if field.kind == kind)


def metrics() -> tuple[str, ...]:
    """Returns the fields that are numbers to compare runs by."""
    return about.names(field for field in fields().values() if field.is_number and field.kind != "identity")


def is_factor(name: str) -> bool:
    """Whether a column scores one factor of a label."""
    return name.startswith(FACTOR_PREFIXES)


def write_result(run_dir: Path, result: Result) -> None:
    """Writes `result.json`, after which the run counts as finished.

    Raises:
        RecordError: the file could not be written (a full disk, say); the run counts as not finished.
    """
    write_json(run_dir / RESULT, result.to_dict())


def read_result(run_dir: Path) -> Result | None:
    """Returns the run's result, None where it is missing, torn, invalid or another run's."""
    try:
        result = Result.model_validate_json((run_dir / RESULT).read_bytes())
    except (OSError, pydantic.ValidationError):
        return None
    return result if result.run_id == run_dir.name else None


def append_metrics(run_dir: Path, metrics: Mapping[str, Any]) -> None:
    """Adds a line to `metrics.jsonl`."""
    append_line(run_dir / METRICS, metrics)
