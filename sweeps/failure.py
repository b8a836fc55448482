"""What ended a run, as status and reason of its row."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TypedDict

import torch

from dualformer.checkpoint_files import WeightsError
from dualformer.config import ConfigError
from dualformer.data.cache import CacheError
from dualformer.data.files import DataError
from dualformer.data.handover import HandoverError
from dualformer.data.reader import VideoError
from dualformer.errors import first_line, kind_and_line
from dualformer.results.files import RecordError
from dualformer.results.result import Status
from sweeps.training.errors import EvaluationError, TrainingError

EXPECTED_ERRORS = (
    ConfigError,
    DataError,
    VideoError,
    WeightsError,
    CacheError,
    HandoverError,
    RecordError,
    TrainingError,
    EvaluationError,
)
"""Errors whose message says all there is to say; any other comes with the place where it was raised."""

COMMON_ERRORS = (TrainingError, EvaluationError)
"""Errors that all processes of a run meet alike, because they follow from what all of them know."""


class Failure(TypedDict):
    """Fields of the result of a run that failed."""

    status: Status
    reason: str


def told_failure(error: Exception) -> Failure:
    """Status and reason of a run that ended with an error; prints where the error came from unless it says so."""
    if isinstance(error, torch.OutOfMemoryError):
        return {"status": "oom", "reason": first_line(error)}
    if isinstance(error, EXPECTED_ERRORS):
        return {"status": "error", "reason": str(error)}
    traceback.print_exception(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return {"status": "error", "reason": f"{kind_and_line(error)} ({where})"}
