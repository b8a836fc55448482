"""The circumstances that a run came about in: code, command, software, hardware, switches."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualformer.config import ConfigError
from dualformer.data.decoders import chosen_decoder
from dualformer.results.code import digest
from dualformer.results.files import utc_now
from dualformer.results.provenance import FILES
from dualformer.results.result import MEASUREMENT_VERSION
from sweeps import source
from sweeps.run_config import RunConfig


def provenance(config: RunConfig, device: str) -> dict[str, Any]:
    """Returns the circumstances of a run that starts now, as plain JSON data; `finished` completes them.

    Args:
        config: of the run.
        device: "cpu" or "cuda", resolved.
    """
    files = source.imported_files()
    return {
        "measurement_version": MEASUREMENT_VERSION,
        **source.source_state(),
        "code": digest(files),
        FILES: files,
        "network": config.network_digest,
        "network_config": config.network,
        "command": shlex.join(sys.orig_argv),
        "seed": config.seed,
        "device": device,
        "threads": config.threads,
        **_software(config.data.decoder),
        **_hardware(device),
        **_switches(),
        "job_id": _job_id(),
        "host": socket.gethostname(),
        "started_utc": utc_now(),
        "finished_utc": None,
    }


def finished(circumstances: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the circumstances of a run that ends now: with what it has imported on its way, and when that was."""
    files = {**source.imported_files(), **circumstances[FILES]}  # a file imported long ago may have been edited since
    return {**circumstances, "code": digest(files), FILES: files, "finished_utc": utc_now()}


def _software(decoder: str) -> dict[str, Any]:
    decoder, in_order = _decoder_meant(decoder), _version("av")
    return {
        "python": platform.python_version(),
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "decoder": decoder,
        "decoder_version": in_order if decoder == "pyav" else _version(decoder),
        "pyav": in_order,  # reads the other videos, and decides which these are
    }


def _decoder_meant(name: str) -> str:
    """What "auto" takes here; a decoder that is missing keeps its name, since a run that reads no video needs none."""
    with contextlib.suppress(ConfigError):
        return chosen_decoder(name)
    return name


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
