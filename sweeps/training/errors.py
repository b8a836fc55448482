"""What ends a training or an evaluation with a reason that says all there is to say."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training that can't go on: the loss is not finite, too many videos can't be read, a checkpoint is another's."""


class EvaluationError(RuntimeError):
    """Nothing that would be a figure: no video could be read, scores are not finite, or nothing here can score."""
