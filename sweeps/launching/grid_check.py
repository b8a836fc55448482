"""Refuses the planned runs that could only fail: values, files that aren't there, networks that can't be built."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualformer.config import ConfigError, nearest, nest
from dualformer.data.config import EMBEDDED
from dualformer.model_config import ModelConfig
from dualformer.registry import model_config
from dualformer.results.layout import WEIGHTS_SUFFIXES
from sweeps.launching.planned_run import PlannedRun
from sweeps.run_config import RunConfig

MOST_BUILT = 12
MOST_BLOCKS = 1000

_MOST_ERRORS = 10
_MOST_ITEMS = 10_000
_LARGEST = 1_000_000
_SHOWN = 200


def check_all(source: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[RunConfig]:
    """Returns the config of every run.

    Args:
        source: the grid's name in messages.
        rows: each run's name in messages and its dotted fields.

    Raises:
        ConfigError: lists all that is wrong, and where.
    """
    configs: list[RunConfig] = []
    models: dict[ModelConfig, str] = {}
    problems = Problems(source, len(rows))
    for label, fields in rows:
        with problems.of(label):
            config, model = _check(fields)
            models.setdefault(model, label)
            configs.append(config)
    for model in to_build(list(models)):
        with problems.of(models[model]):
            check_build(model)
    problems.raise_any()
    return configs


def check_startable(source: str, runs: Sequence[PlannedRun], more: Callable[[PlannedRun], None]) -> None:
    """Refuses runs that lack what only a run needs, and nobody who merely reads the grid.

    Args:
        source: the grid's name in messages.
        runs: those that are to be started.
        more: raises `ConfigError` for what the place to run can't give.

    Raises:
        ConfigError: lists all that is wrong, and where.
    """
    problems = Problems(source, len(runs))
    for run in runs:
        with problems.of(run.name):
            if run.config.train.trains:
                _check_teacher(run.config)
                _check_installed(run.config)
                _check_sizes(run.config, _model_of(run.config))
                _check_lengths(run.config, _model_of(run.config))
            more(run)
    problems.raise_any()


class Problems:
    """What is wrong with the runs of a grid, each message once with the runs that it is about."""

    def __init__(self, source: str, num_runs: int) -> None:
        self._source = source
        self._num_runs = num_runs
        self._messages: dict[str, list[str]] = {}

    @contextlib.contextmanager
    def of(self, label: str) -> Iterator[None]:
        """Notes a `ConfigError` of the block under a run's name, and goes on."""
        try:
            yield
        except ConfigError as error:
            self._messages.setdefault(str(error), []).append(label)

    def raise_any(self) -> None:
        """Raises one `ConfigError` that lists them all."""
        if not self._messages:
            return
        lines = [self._line(*item) for item in itertools.islice(self._messages.items(), _MOST_ERRORS)]
        if len(self._messages) > _MOST_ERRORS:
            lines.append(f"  and {len(self._messages) - _MOST_ERRORS} more")
        raise ConfigError("\n".join([f"{self._source}: nothing was started", *lines]))

    def _line(self, message: str, labels: Sequence[str]) -> str:
        if len(labels) == 1:
            return f"  {message} [{labels[0]}]"
        return f"  {message} [{len(labels)} of {self._num_runs} runs, the first being {labels[0]}]"


def _check(fields: Mapping[str, Any]) -> tuple[RunConfig, ModelConfig]:
    _refuse_long("", fields)
    config = RunConfig.from_dict(nest(fields))
    _refuse_endless("model", config.model.changes())
    _refuse_endless("train.token_labels.overrides", config.train.token_labels.overrides)
    _check_root(config.data.root)
    _check_weights("model.weights", config.model.weights)
    _check_weights("train.token_labels.weights", config.train.token_labels.weights)
    if teacher := config.train.token_labels.teacher:
        _model(teacher, "{}")
    return config, _model_of(config)


def _refuse_long(path: str, value: Any) -> None:
    """A list that nobody wrote by hand would take memory and minutes to find out about."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _refuse_long(f"{path}.{name}".lstrip("."), item)
    elif isinstance(value, list):
        if len(value) > _MOST_ITEMS:
            raise ConfigError(f"{path}: {len(value)} values; at most {_MOST_ITEMS}")
        for item in value:
            _refuse_long(path, item)


def _refuse_endless(path: str, fields: Mapping[str, Any]) -> None:
    """Refuses networks that would take minutes and gigabytes to look at, even without memory for their weights."""
    for name, value in fields.items():
        if any(abs(number) > _LARGEST for number in _numbers(value)):
            raise ConfigError(f"{path}.{name}: numbers of a network are at most {_LARGEST}, got {str(value)[:80]}")
        if name in ("depth", "depths") and (blocks := sum(_numbers(value))) > MOST_BLOCKS:
            raise ConfigError(f"{path}.{name}: {blocks} blocks; at most {MOST_BLOCKS}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value


def _check_root(root: str) -> None:
    if root == EMBEDDED:
        return
    if not root.strip() or not (os.path.isdir(root) or os.path.isfile(root)):
        raise ConfigError(
            f"data.root: no folder '{_shortened(root)}' (nor manifest file); say where yours is by --set data.root=PATH"
        )


def _shortened(path: str) -> str:
    return path if len(path) <= _SHOWN else f"{path[:_SHOWN]}..."


def _check_weights(field: str, path: str | None) -> None:
    if path is None or os.path.isfile(path):
        return
    folder = Path(path).parent
    if not os.path.isdir(folder):
        raise ConfigError(f"{field}: no file '{_shortened(path)}', nor its folder")
    weights = [file.name for file in folder.iterdir() if file.suffix in WEIGHTS_SUFFIXES]
    raise ConfigError(f"{field}: no file '{_shortened(path)}'{nearest(Path(path).name, weights)}")


def _model_of(config: RunConfig) -> ModelConfig:
    return _model(config.model.name, json.dumps(config.model.changes(), sort_keys=True))


@functools.cache
def _model(name: str, changes: str) -> ModelConfig:
    """The network's config, which checks itself."""
    return model_config(name, **json.loads(changes))


def _check_teacher(config: RunConfig) -> None:
    labels = config.train.token_labels
    if labels.teacher and labels.weights is None:
        raise ConfigError(
            f"train.token_labels: a teacher that has learned nothing teaches nothing; name the weights of "
            f"{labels.teacher} with --set train.token_labels.weights=FILE"
        )


def _check_installed(config: RunConfig) -> None:
    """Refuses what needs a package that isn't there; jobs run by the same Python."""
    from dualformer.data.decoders import check_decoder
    from sweeps.training.tracking import check_installed

    check_installed(config.train.log_to)
    decoder = config.data.decoder
    # Whether one that is there works, its machine knows: it may lack shared libraries here, and not there.
    if decoder in ("decord", "torchcodec") and importlib.util.find_spec(decoder) is None:
        check_decoder(decoder)


def _check_sizes(config: RunConfig, model: ModelConfig) -> None:
    """Refuses crops larger than the frames that they are cut from, as far as these are known without looking."""
    for split, size in _sizes(config):
        shape = _frame_shape(config, size, min(model.crop_size))
        if shape and (shape[0] < model.crop_size[0] or shape[1] < model.crop_size[1]):
            frames = "embedded data's" if config.data.root == EMBEDDED else "resized"
            raise ConfigError(
                f"model.crop_size: {_by(model.crop_size)} is larger than the {frames} {split} frames, {_by(shape)}; "
                "set data.resize (or data.embedded.height and width) to at least the crop"
            )


def _check_lengths(config: RunConfig, model: ModelConfig) -> None:
    """Refuses clips that the embedded videos are too short for."""
    data = config.data
    stride = data.frame_stride if data.sampling == "dense" else 1
    needed = (model.num_frames - 1) * stride + 1
    if data.root == EMBEDDED and data.short_video == "error" and data.embedded.num_frames < needed:
        raise ConfigError(
            f"model.num_frames: {model.num_frames} frames at stride {stride} need {needed}, and embedded videos have "
            f"{data.embedded.num_frames} (data.embedded.num_frames; data.short_video chooses what to do)"
        )


def _frame_shape(config: RunConfig, size: int | tuple[int, int] | None, short_side: int) -> tuple[int, int] | None:
    """Height and width of frames after they were resized; None where only the files could tell."""
    if config.data.root == EMBEDDED:
        return _resized((config.data.embedded.height, config.data.embedded.width), size)
    if isinstance(size, int):
        return (size, size) if size < short_side else None
    return size


def _sizes(config: RunConfig) -> Iterable[tuple[str, int | tuple[int, int] | None]]:
    """What frames of each split are resized to before they are cropped; a crop of any size fits where it is resized."""
    data = config.data
    if not data.augment.crop_area:
        yield "training", data.augment.short_side[0] if data.augment.short_side else data.resize
    yield "test", data.resize if data.test_resize is None else data.test_resize


def _resized(shape: tuple[int, int], size: int | tuple[int, int] | None) -> tuple[int, int]:
    from dualformer.data.transforms import resized_shape

    return resized_shape(*shape, size)


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def to_build(models: Sequence[ModelConfig]) -> list[ModelConfig]:
    """Picks networks so that every value of every field is in one of them; evenly spread ones where that is too many.

    A config's own check is to refuse whatever can't be built. That it does is tried on few, since a network takes some
    tenths of a second to build and a grid may have a thousand.
    """
    seen: set[tuple[str, str]] = set()
    picked = []
    for model in models:
        values = {(field, repr(value)) for field, value in vars(model).items()}
        if not values <= seen:
            picked.append(model)
            seen |= values
    if len(picked) <= MOST_BUILT:
        return picked
    step = (len(picked) - 1) / (MOST_BUILT - 1)
    return [picked[round(number * step)] for number in range(MOST_BUILT)]


@functools.cache
def check_build(model: ModelConfig) -> None:
    """Builds a network on the meta device, which allocates nothing.

    Raises:
        ConfigError: it can't be built, for whatever reason: the run would meet it too.
    """
    from dualformer.meta import no_memory  # here: it brings torch along

    try:
        with no_memory():
            model.build()
    except Exception as error:
        raise ConfigError(f"{model.name}: {error}") from None
