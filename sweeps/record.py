"""What a run leaves behind: a validated result, written once and whole, and the circumstances it came about in.

`result.json` is the one mark of a finished run. It is written to a temporary name, flushed to the disk and renamed, so
it is there completely or not at all; a file that is torn, invalid or of another run counts as not there.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import importlib.metadata
import json
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import pydantic

from sweeps import snapshot

SCHEMA_VERSION = 1

MEASUREMENT_VERSION = 1
"""Raised by hand when a number of the same name would no longer mean the same; part of every run id."""

Status = Literal["ok", "oom", "error", "timeout", "skipped"]
STATUSES: tuple[str, ...] = get_args(Status)

_FACTOR = re.compile(r"top1_[a-z0-9_]+")


class RecordError(OSError):
    """A record that could not be written; the file is as it was before."""


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


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk or a quota is full, which passes: no result of a run."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


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


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that a reader, or the next start after a crash, sees all of it or nothing.

    Raises:
        RecordError: names the file and what the system said; nothing of it is left behind.
        ValueError: the value isn't JSON (NaN and infinity aren't).
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Like `write_json`, for text."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RecordError(error.errno, f"cannot write {path} ({error.strerror}); nothing was changed") from error


def append_metrics(run_dir: Path, metrics: Mapping[str, Any]) -> None:
    """Adds a line to `metrics.jsonl`."""
    append_line(run_dir / "metrics.jsonl", metrics)


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Adds one line of JSON in one write, on a line of its own even where a crash tore the last one."""
    with open(path, "ab+") as file:
        end = os.fstat(file.fileno()).st_size
        torn = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
        file.write(b"\n" * torn + json.dumps(value).encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a file of JSON lines; a missing file has none, and torn lines are left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    values = []
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            values.append(json.loads(line))
    return values


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def utc_now() -> str:
    """Returns the time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def provenance(*, seed: int, threads: int, device: str, decoder: str = "decord") -> dict[str, Any]:
    """Returns the circumstances of a run that starts now, as plain JSON data with `finished_utc` still open.

    Args:
        seed: seed of the run.
        threads: CPU threads of the run.
        device: "cpu" or "cuda", resolved.
        decoder: what reads the videos that it can seek in (`DataConfig.decoder`).
    """
    return {
        "measurement_version": MEASUREMENT_VERSION,
        **snapshot.source_state(),
        "code": snapshot.code_hash(),
        "command": shlex.join(sys.orig_argv),
        "seed": seed,
        "device": device,
        "threads": threads,
        **_software(decoder),
        **_hardware(device),
        **_switches(),
        "job_id": _job_id(),
        "host": socket.gethostname(),
        "started_utc": utc_now(),
        "finished_utc": None,
    }


def _software(decoder: str) -> dict[str, Any]:
    in_order = _version("av")
    return {
        "python": platform.python_version(),
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "decoder": decoder,
        "decoder_version": in_order if decoder == "pyav" else _version(decoder),
        "pyav": in_order,  # reads the other videos, and decides which these are
    }


def _hardware(device: str) -> dict[str, Any]:
    import torch  # here, so that reading results doesn't wait for it

    if device != "cuda":
        return {"device_name": _cpu_name(), "cuda": None, "cudnn": None, "driver": None}
    return {
        "device_name": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": _driver(),
    }


def _switches() -> dict[str, Any]:
    """Ambient settings of torch that change speed or rounding."""
    import torch

    kernels = ("flash", "mem_efficient", "cudnn", "math")
    enabled = [name for name in kernels if getattr(torch.backends.cuda, f"{name}_sdp_enabled", lambda: False)()]
    return {
        "attention_backends": enabled,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _job_id() -> str | None:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip() not in ("", "unknown"):
                return value.strip()
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    try:
        return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
