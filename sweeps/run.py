"""One run: from `config.json` in its folder to `result.json` beside it, whatever happens in between.

The same model is counted, timed, trained and evaluated in one process. A failure is a result too: its row says which
status and why. Only what kills the process leaves no result; the launcher then says so.
"""

from __future__ import annotations

import hashlib
import json
import random
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from submitit.core.utils import UncompletedJobError
from torch import nn

from dualformer.config import ConfigError
from dualformer.data.dataset import VideoDataset
from dualformer.data.manifest import DataError
from dualformer.data.reader import VideoError
from dualformer.macs import count_macs, count_training_macs
from dualformer.model_config import ModelConfig
from dualformer.registry import create_model, model_config
from dualformer.results.files import is_disk_full, write_json
from dualformer.results.result import Result, read_result, write_result
from dualformer.weights import WeightsError, load_weights
from slurm.task import LostContact, on_torchrun
from sweeps.measuring.measurement import measure
from sweeps.measuring.roofline import lower_bound_ms
from sweeps.provenance import finished, provenance
from sweeps.run_config import RunConfig
from sweeps.training import processes
from sweeps.training.evaluation import EvaluationError, evaluate
from sweeps.training.loop import TrainingError, train
from sweeps.training.processes import ALONE, Team

EXPECTED_ERRORS = (ConfigError, DataError, VideoError, WeightsError, TrainingError, EvaluationError)
"""Errors whose message says all there is to say; any other comes with the place where it was raised."""

COMMON_ERRORS = (TrainingError, EvaluationError)
"""Errors that all processes of a run meet alike, because they follow from what all of them know."""


def execute(run_dir: Path) -> None:
    """Runs the config in `run_dir` and writes its result, of any status.

    Of several processes that share a run, the first does this, and the others train and evaluate when it does.

    Raises:
        OSError: the disk is full; the run counts as not finished.
        LostContact: another process of the run died without a word; likewise.
    """
    run_dir = Path(run_dir)
    config = RunConfig.from_dict(json.loads((run_dir / "config.json").read_text()))
    prepare_torch(config)
    with processes.join() as team:
        device = choose_device(config.device)
        if not team.leads:
            follow(config, device, run_dir, team)
            return
        try:
            lead(config, device, run_dir, team)
        finally:
            if not team.broken:
                team.order("leave")


def lead(config: RunConfig, device: torch.device, run_dir: Path, team: Team) -> None:
    """Computes the run and writes its result."""
    circumstances = provenance(config, device.type)
    circumstances["num_processes"] = team.size
    circumstances["weights_sha256"] = file_hash(config.model.weights)
    write_json(run_dir / "provenance.json", circumstances)
    outcome: dict[str, Any] = {}
    try:
        for fields in run(config, device, run_dir, team):
            outcome |= fields
    except UncompletedJobError:  # submitit's way to end a job that met its time limit too often: no result of ours
        raise
    except LostContact:
        if (told := read_result(run_dir)) is None:
            raise
        outcome.update(status=told.status, reason=told.reason)
    except Exception as error:
        if is_disk_full(error):
            raise
        outcome.update(told_failure(error))
    write_json(run_dir / "provenance.json", finished(circumstances))
    write_result(run_dir, Result(run_id=run_dir.name, **outcome))


def told_failure(error: Exception) -> dict[str, str]:
    """Status and reason of a run that ended with an error; prints where the error came from unless it says so."""
    if isinstance(error, torch.OutOfMemoryError):
        return {"status": "oom", "reason": first_line(error)}
    if isinstance(error, EXPECTED_ERRORS):
        return {"status": "error", "reason": str(error)}
    traceback.print_exception(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return {"status": "error", "reason": f"{type(error).__name__}: {first_line(error)} ({where})"}


def follow(config: RunConfig, device: torch.device, run_dir: Path, team: Team) -> None:
    """Trains and evaluates with the leader when it says so.

    A process that fails alone writes the row, since the leader may be waiting for it where nothing can reach it; the
    leader, if it can, adds what it has found so far.

    Raises:
        LostContact: another process has failed, which knows why.
        Exception: what this process failed of.
    """
    while team.listen() == "train":
        try:
            with team.together(*COMMON_ERRORS):
                # The leader has inspected all files by now, and where machines share a cache its records are there.
                train_set, test_set = build_datasets(config, chosen_model(config))
                model = build_model(config, num_classes=len(train_set.classes)).to(device)
                for _ in train_and_evaluate(model, train_set, test_set, config, device, run_dir, team):
                    pass
        except COMMON_ERRORS:
            continue  # the leader meets the same one, and its row says so
        except LostContact:
            raise
        except Exception as error:
            if not is_disk_full(error) and read_result(run_dir) is None:
                failure = told_failure(error)
                failure["reason"] = f"process {team.rank} of {team.size}: {failure['reason']}"
                write_result(run_dir, Result(run_id=run_dir.name, **failure))
            raise


def run(config: RunConfig, device: torch.device, run_dir: Path, team: Team = ALONE) -> Iterator[dict[str, Any]]:
    """Counts, times, trains and evaluates one model; yields the fields of its result as they become known.

    What was found before a failure is thus part of the failed run's row. A network that doesn't fit or doesn't compute
    what its reference does is not trained.
    """
    if config.device == "cuda" and device.type != "cuda":
        raise ConfigError("device is 'cuda' and this machine has none")
    if device.type == "cuda" and on_torchrun() and team.local_size > torch.cuda.device_count():
        raise ConfigError(f"{team.local_size} processes on this machine, and its GPUs are {torch.cuda.device_count()}")
    trained = config.train.trains
    num_classes = 400
    if trained:
        train_set, test_set = build_datasets(config, chosen_model(config))
        num_classes = len(train_set.classes)
        infos = (*train_set.infos, *test_set.infos)
        yield {"in_order_share": sum(not info.seekable for info in infos) / len(infos)}
    model = build_model(config, num_classes)
    yield describe(model, config)
    model.to(device)
    measured = measure(model, config.measure, device=device, threads=config.threads)
    write_json(run_dir / "measurement.json", measured.details)
    yield {"status": measured.status, "reason": measured.reason, **measured.fields}
    yield {name: measured.details.get(name) for name in ("flags", "compile_s")}
    if measured.status == "ok" and config.measure.latency:
        yield {"roofline_ms": lower_bound_ms(model, config.measure, device=device, threads=config.threads)}
    if trained and measured.status == "ok":
        team.order("train")
        with team.together(*COMMON_ERRORS):
            yield from train_and_evaluate(model, train_set, test_set, config, device, run_dir, team)


def train_and_evaluate(
    model: nn.Module,
    train_set: VideoDataset,
    test_set: VideoDataset,
    config: RunConfig,
    device: torch.device,
    run_dir: Path,
    team: Team,
) -> Iterator[dict[str, Any]]:
    """What all processes of a run do together; yields fields of the result."""
    yield train(model, train_set, config, device, run_dir, team, test_set)
    yield evaluate(model, test_set, config, device, team, run_dir)


def chosen_model(config: RunConfig) -> ModelConfig:
    """The config of the network, without the network."""
    return model_config(config.model.name, **config.model.changes())


def build_model(config: RunConfig, num_classes: int) -> nn.Module:
    """The network with the weights that it starts from: those of a file where one is given, else the seed's."""
    torch.manual_seed(config.seed)
    model = create_model(config.model.name, num_classes=num_classes, **config.model.changes())
    if config.model.weights is not None:
        start_from(model, config.model.weights)
    return model


def start_from(model: nn.Module, path: str) -> None:
    """Loads weights to train on from; says what matched. A head of other classes starts anew.

    Raises:
        ConfigError: there is no such file.
        WeightsError: it can't be read or doesn't fit.
    """
    try:
        report = load_weights(model, path, interpolate=True)
    except FileNotFoundError as error:
        raise ConfigError(f"model.weights: {error}") from None
    except WeightsError:
        report = load_weights(model, path, interpolate=True, replace_head=True)
    print(f"{path}: {report}", flush=True)


def build_datasets(config: RunConfig, model: ModelConfig) -> tuple[VideoDataset, VideoDataset]:
    """The training clips and the held-out views, of the size that the model takes."""
    size = {"num_frames": model.num_frames, "crop_size": model.crop_size}
    views = (config.evaluate.num_clips, config.evaluate.num_crops)
    train_set = VideoDataset(config.data, "train", **size, seed=config.seed)
    return train_set, VideoDataset(config.data, "test", **size, views=views)


def describe(model: nn.Module, config: RunConfig) -> dict[str, Any]:
    """Size and cost in arithmetic, which need no run."""
    count = count_macs(model)
    num_views = config.evaluate.num_clips * config.evaluate.num_crops
    trained = config.train.trains
    return {
        "params_m": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        "gmacs_per_view": count.total / 1e9,
        "macs_head_included": count.head_included,
        "num_views": num_views,
        "gmacs_total": num_views * count.total / 1e9,
        "gflops_total": 2 * num_views * count.total / 1e9,
        "train_gmacs_per_clip": count_training_macs(model).total / 1e9 if trained else None,
        "num_classes": model.config.num_classes,
    }


def choose_device(name: str) -> torch.device:
    """The device for a config's "auto", "cpu" or "cuda"; a CPU where there is no other, which `run` may refuse."""
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def prepare_torch(config: RunConfig) -> None:
    """Makes what follows depend on the config alone: threads, seeds, deterministic operators where there are any."""
    torch.set_num_threads(config.threads)
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)


def file_hash(path: str | None) -> str | None:
    """SHA-256 of a file, None where there is none."""
    if path is None or not Path(path).is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
