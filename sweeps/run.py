"""One run: from `config.json` in its folder to `result.json` beside it, whatever happens in between.

The same model is counted, timed, trained and evaluated in one process. A failure is a result too: its row says which
status and why. Only what kills the process leaves no result; the launcher then says so.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from submitit.core.utils import UncompletedJobError
from torch import nn

from dualformer.checkpoint_files import WeightsError
from dualformer.config import ConfigError
from dualformer.data.dataset import VideoDataset
from dualformer.macs import count_macs, count_training_macs
from dualformer.model_config import ModelConfig
from dualformer.model_contract import config_of
from dualformer.registry import create_model, model_config
from dualformer.results import layout
from dualformer.results.files import is_disk_full, read_object, write_json
from dualformer.results.result import Result, read_result, write_result
from dualformer.weights import load_weights
from slurm.task import LostContact, on_torchrun
from sweeps.device import choose_device, is_missing
from sweeps.failure import COMMON_ERRORS, told_failure
from sweeps.measuring.bounds import lower_bound_ms
from sweeps.measuring.measurement import measure
from sweeps.provenance import finished, provenance
from sweeps.run_config import RunConfig
from sweeps.run_context import RunContext
from sweeps.training import processes, scoring
from sweeps.training.evaluation import evaluate
from sweeps.training.loop import train


def execute(run_dir: Path) -> None:
    """Runs the config in `run_dir` and writes its result, of any status.

    Of several processes that share a run, the first does this, and the others train and evaluate when it does.

    Raises:
        OSError: the disk is full; the run counts as not finished.
        LostContact: another process of the run died without a word; likewise.
    """
    folder = Path(run_dir)
    config = RunConfig.from_dict(read_object(folder / layout.CONFIG))
    prepare_torch(config)
    with processes.join() as team:
        context = RunContext(config, choose_device(config.device), folder, team)
        if not team.leads:
            follow(context)
            return
        try:
            lead(context)
        finally:
            if not team.broken:
                team.order("leave")


def lead(context: RunContext) -> None:
    """Computes the run and writes its result."""
    circumstances = circumstances_of(context)
    write_json(context.folder / layout.PROVENANCE, circumstances)
    outcome: dict[str, Any] = {}
    try:
        for fields in run(context):
            outcome |= fields
    except UncompletedJobError:  # submitit's way to end a job that met its time limit too often: no result of ours
        raise
    except LostContact:
        if (told := read_result(context.folder)) is None:
            raise
        outcome.update(status=told.status, reason=told.reason)
    except Exception as error:
        if is_disk_full(error):
            raise
        outcome.update(told_failure(error))
    write_json(context.folder / layout.PROVENANCE, finished(circumstances))
    write_result(context.folder, Result(run_id=context.folder.name, **outcome))


def follow(context: RunContext) -> None:
    """Trains and evaluates with the leader when it says so.

    A process that fails alone writes the row, since the leader may be waiting for it where nothing can reach it; the
    leader, if it can, adds what it has found so far.

    Raises:
        LostContact: another process has failed, which knows why.
        Exception: what this process failed of.
    """
    config, team = context.config, context.team
    while team.listen() == "train":
        try:
            with team.together(*COMMON_ERRORS):
                # The leader has inspected all files by now, and where machines share a cache its records are there.
                train_set, test_set = build_datasets(config, chosen_model(config))
                model = build_model(config, num_classes=len(train_set.classes)).to(context.device)
                for _ in train_and_evaluate(model, train_set, test_set, context):
                    pass
        except COMMON_ERRORS:
            continue  # the leader meets the same one, and its row says so
        except LostContact:
            raise
        except Exception as error:
            if not is_disk_full(error) and read_result(context.folder) is None:
                failure = told_failure(error)
                failure["reason"] = f"process {team.rank} of {team.size}: {failure['reason']}"
                write_result(context.folder, Result(run_id=context.folder.name, **failure))
            raise


def run(context: RunContext) -> Iterator[dict[str, Any]]:
    """Counts, times, trains and evaluates one model; yields the fields of its result as they become known.

    What was found before a failure is thus part of the failed run's row. A network that doesn't fit or doesn't compute
    what its reference does is not trained.
    """
    config, team = context.config, context.team
    check_device(context)
    num_classes = 400
    if trains := config.train.trains:
        scoring.rehearse()
        train_set, test_set = build_datasets(config, chosen_model(config))
        num_classes = len(train_set.classes)
        yield {"in_order_share": in_order_share(train_set, test_set)}
    model = build_model(config, num_classes)
    yield describe(model, config)
    status = ""
    for fields in measured(model.to(context.device), context):
        status = fields.get("status", status)
        yield fields
    if trains and status == "ok":
        team.order("train")
        with team.together(*COMMON_ERRORS):
            yield from train_and_evaluate(model, train_set, test_set, context)


def measured(model: nn.Module, context: RunContext) -> Iterator[dict[str, Any]]:
    """Times the network and bounds its time; yields fields of the result, `status` first."""
    config = context.config
    found = measure(model, config.measure, device=context.device, threads=config.threads)
    write_json(context.folder / layout.MEASUREMENT, found.details)
    yield {"status": found.status, "reason": found.reason, **found.fields}
    yield {"gate": found.details.get("gate", {}).get("compared_with")}
    yield {name: found.details.get(name) for name in ("flags", "compile_s")}
    if found.status == "ok" and config.measure.latency:
        yield {"roofline_ms": lower_bound_ms(model, config.measure, device=context.device, threads=config.threads)}


def train_and_evaluate(
    model: nn.Module, train_set: VideoDataset, test_set: VideoDataset, context: RunContext
) -> Iterator[dict[str, Any]]:
    """What all processes of a run do together; yields fields of the result."""
    yield train(model, train_set, context, test_set)
    yield evaluate(model, test_set, context)


def circumstances_of(context: RunContext) -> dict[str, Any]:
    """What `provenance.json` holds of a run that starts now."""
    config = context.config
    return {
        **provenance(config, context.device.type),
        "num_processes": context.team.size,
        "weights_sha256": file_hash(config.model.weights),
    }


def check_device(context: RunContext) -> None:
    """Raises `ConfigError` where this machine has not the devices that the run needs."""
    if is_missing(context.config.device):
        raise ConfigError("device is 'cuda' and this machine has none")
    sharing = context.team.local_size
    if context.device.type == "cuda" and on_torchrun() and sharing > torch.cuda.device_count():
        raise ConfigError(f"{sharing} processes on this machine, and its GPUs are {torch.cuda.device_count()}")


def in_order_share(*datasets: VideoDataset) -> float:
    """Share of all videos that are read in order, since seeking there gives other frames."""
    infos = [info for dataset in datasets for info in dataset.infos]
    return sum(not info.seekable for info in infos) / len(infos)


def chosen_model(config: RunConfig) -> ModelConfig:
    """The config of the network, without the network."""
    return model_config(config.model.name, **config.model.changes())


def build_model(config: RunConfig, num_classes: int) -> nn.Module:
    """The network with the weights that it starts from: those of a file where one is given, else the seed's."""
    torch.manual_seed(config.seed)
    model = create_model(config.model.name, num_classes=num_classes, **config.model.changes())
    if config.model.weights is not None:
        start_from(model, config.model.weights, config.model.weight_set)
    return model


def start_from(model: nn.Module, path: str, weight_set: str | None = None) -> None:
    """Loads weights to train on from; says what matched. A head of other classes starts anew.

    Args:
        path: of the file.
        weight_set: which of its sets of weights, where it holds several; None means those that were trained.

    Raises:
        ConfigError: there is no such file.
        WeightsError: it can't be read or doesn't fit.
    """
    try:
        report = load_weights(model, path, interpolate=True, weight_set=weight_set)
    except FileNotFoundError as error:
        raise ConfigError(f"model.weights: {error}") from None
    except WeightsError:
        report = load_weights(model, path, interpolate=True, replace_head=True, weight_set=weight_set)
    print(f"{path}: {report}", flush=True)


def build_datasets(config: RunConfig, model: ModelConfig) -> tuple[VideoDataset, VideoDataset]:
    """The training clips and the held-out views, of the size that the model takes."""
    sized = partial(VideoDataset, config.data, num_frames=model.num_frames, crop_size=model.crop_size)
    views = (config.evaluate.num_clips, config.evaluate.num_crops)
    return sized("train", seed=config.seed), sized("test", views=views)


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
        "num_classes": config_of(model).num_classes,
    }


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
