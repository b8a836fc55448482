"""The columns of a results table: what `collect.py` writes and `load.py` accepts. Standard library only."""

from __future__ import annotations

SCHEMA_VERSION = 1

STATUSES = ("ok", "oom", "error", "timeout", "skipped", "missing")
"""Status of a row; `missing` is a run that its grid expects and that has no (readable) result."""

IDENTITY = {"run_id": "string", "status": "string", "reason": "string", "schema_version": "Int64"}
"""First columns of every table, with their pandas types."""

MEASURED = {
    "params_m": "float64",
    "gmacs_per_view": "float64",
    "macs_head_included": "boolean",
    "num_views": "Int64",
    "gmacs_total": "float64",
    "gflops_total": "float64",
    "latency_ms_p50": "float64",
    "latency_ms_p20": "float64",
    "latency_ms_p80": "float64",
    "throughput_clips_per_s": "float64",
    "peak_mem_gib": "float64",
    "energy_j_per_clip": "float64",
    "top1": "float64",
    "top5": "float64",
    "chance_top1": "float64",
    "num_classes": "Int64",
    "num_videos": "Int64",
    "num_failed_videos": "Int64",
    "train_clips_per_s": "float64",
    "final_train_loss": "float64",
}
"""Fields of a result, in this order, with their pandas types. Accuracies and chance levels are fractions."""

OPTIONAL = {
    "train_gmacs_per_clip": "float64",
    "flags": "string",
    "compile_s": "float64",
    "roofline_ms": "float64",
    "data_wait_share": "float64",
    "in_order_share": "float64",
    "mean_class_accuracy": "float64",
    "calibration_error": "float64",
}
"""Further fields of a result, which a table may lack; `flags` is a JSON list of what disturbed the timing.

A field that comes to be measured is added here: older tables are read as before, with nothing in its column, and no
column changes its meaning, so the schema's version stays.
"""

FRACTIONS = (
    "top1",
    "top5",
    "chance_top1",
    "mean_class_accuracy",
    "calibration_error",
    "data_wait_share",
    "in_order_share",
)
"""Columns that hold fractions from 0 to 1, beside those of factors."""

FACTOR_PREFIXES = ("top1_", "chance_top1_")
"""Columns `top1_<factor>` and `chance_top1_<factor>` score each factor of a data set's label alone (float64)."""

PROVENANCE_PREFIX = "provenance."
PROVENANCE = {
    "commit": "string",
    "dirty": "boolean",
    "code": "string",
    "device": "string",
    "device_name": "string",
    "threads": "Int64",
    "measurement_version": "Int64",
    "python": "string",
    "torch": "string",
    "numpy": "string",
    "cuda": "string",
    "cudnn": "string",
    "driver": "string",
    "decoder": "string",
    "decoder_version": "string",
    "attention_backends": "string",
    "matmul_precision": "string",
    "started_utc": "string",
    "finished_utc": "string",
}
"""What is carried over from a run's provenance: versions and hardware, never a host name, a path or a command."""


def kind(name: str) -> str | None:
    """The pandas type of a column; None leaves it to the values (configuration)."""
    if name.startswith(FACTOR_PREFIXES):
        return "float64"
    if name.startswith(PROVENANCE_PREFIX):
        return PROVENANCE.get(name.removeprefix(PROVENANCE_PREFIX), "string")
    return {**IDENTITY, **MEASURED, **OPTIONAL}.get(name)
