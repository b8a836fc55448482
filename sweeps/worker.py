"""One run: from `config.json` in its folder to `result.json` beside it, whatever happens in between.

The same model is counted, timed, trained and evaluated in one process. A failure is a result too: its row says which
status and why. Only what kills the process leaves no result; the launcher then says so.
"""

from __future__ import annotations

import contextlib
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
from dualformer.registry import ModelConfig, create_model
from sweeps import distributed
from sweeps.distributed import ALONE, Team
from sweeps.evaluate import predict, score, write_predictions
from sweeps.measure import measure
from sweeps.record import Result, is_disk_full, provenance, utc_now, write_json, write_result
from sweeps.roofline import lower_bound_ms
from sweeps.run_config import RunConfig
from sweeps.train import TrainingError, train

EXPECTED_ERRORS = (ConfigError, DataError, VideoError, TrainingError)
"""Errors whose message says all there is to say; any other comes with the place where it was raised."""


def execute(run_dir: Path) -> None:
    """Runs the config in `run_dir` and writes its result, of any status.

    Of several processes that share a run, the first does this and the others train when it does.

    Raises:
        OSError: the disk is full; the run counts as not finished.
    """
    run_dir = Path(run_dir)
    config = RunConfig.from_dict(json.loads((run_dir / "config.json").read_text()))
    prepare_torch(config)
    with distributed.join() as team:
        device = choose_device(config.device)
        if team.leads:
            lead(config, device, run_dir, team)
            team.order("leave")
        else:
            follow(config, device, run_dir, team)


def lead(config: RunConfig, device: torch.device, run_dir: Path, team: Team) -> None:
    """Computes the run and writes its result."""
    circumstances = provenance(seed=config.seed, threads=config.threads, device=device.type)
    circumstances["num_processes"] = team.size
    write_json(run_dir / "provenance.json", circumstances)
    outcome: dict[str, Any] = {}
    try:
        for fields in run(config, device, run_dir, team):
            outcome |= fields
    except torch.OutOfMemoryError as error:
        outcome.update(status="oom", reason=first_line(error))
    except UncompletedJobError:  # submitit's way to end a job that met its time limit too often: no result of ours
        raise
    except EXPECTED_ERRORS as error:
        outcome.update(status="error", reason=str(error))
    except Exception as error:
        if is_disk_full(error):
            raise
        traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        outcome.update(status="error", reason=f"{type(error).__name__}: {first_line(error)} ({where})")
    write_json(run_dir / "provenance.json", {**circumstances, "finished_utc": utc_now()})
    write_result(run_dir, Result(run_id=run_dir.name, **outcome))


def follow(config: RunConfig, device: torch.device, run_dir: Path, team: Team) -> None:
    """Trains with the leader whenever it says so."""
    while team.listen() == "train":
        train_set, _ = build_datasets(config, build_model(config, num_classes=400).config)
        model = build_model(config, num_classes=len(train_set.classes)).to(device)
        with contextlib.suppress(TrainingError):  # the leader meets the same one, and its row says so
            train(model, train_set, config, device, run_dir, team)


def run(config: RunConfig, device: torch.device, run_dir: Path, team: Team = ALONE) -> Iterator[dict[str, Any]]:
    """Counts, times, trains and evaluates one model; yields the fields of its result as they become known.

    What was found before a failure is thus part of the failed run's row. A network that doesn't fit or doesn't compute
    what its reference does is not trained.
    """
    if config.device == "cuda" and device.type != "cuda":
        raise ConfigError("device is 'cuda' and this machine has none")
    trained = config.train.trains
    model = build_model(config, num_classes=400)
    if trained:
        train_set, test_set = build_datasets(config, model.config)
        model = build_model(config, num_classes=len(train_set.classes))
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
        yield train(model, train_set, config, device, run_dir, team)
        yield evaluate(model, test_set, config, device, run_dir)


def build_model(config: RunConfig, num_classes: int) -> nn.Module:
    """The network with the weights that the seed gives it."""
    torch.manual_seed(config.seed)
    return create_model(config.model.name, num_classes=num_classes, **config.model.changes())


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


def evaluate(
    model: nn.Module, dataset: VideoDataset, config: RunConfig, device: torch.device, run_dir: Path
) -> dict[str, Any]:
    """Accuracies on the held-out videos; saves the predictions they come from."""
    predictions = predict(model, dataset, config.evaluate, device)
    write_predictions(run_dir / "predictions.csv", predictions, dataset.classes)
    num_videos = len(predictions["files"])
    for failure in [*map(str, dataset.failures), *predictions["failures"]]:
        print(f"not scored: {failure}", flush=True)
    return {
        **score(predictions["probabilities"], predictions["labels"], dataset.factors),
        "num_videos": num_videos,
        "num_failed_videos": dataset.num_expected - num_videos,
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


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
