"""What all parts of a run share: which run it is, where it computes, where it writes, and with whom."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from sweeps.run_config import RunConfig
from sweeps.training.processes import ALONE, Team


@dataclasses.dataclass(frozen=True)
class RunContext:
    """One attempt at a run in one process.

    Attributes:
        config: of the run.
        device: where its network is.
        folder: of the run; holds its config and takes all that it writes.
        team: the processes that share the run, this one among them.
    """

    config: RunConfig
    device: torch.device
    folder: Path
    team: Team = dataclasses.field(default_factory=lambda: ALONE)

    @property
    def identity(self) -> dict[str, str]:
        """What tells this run's checkpoints and weights from those of others."""
        return {"id": self.config.run_id, "model": self.config.model.name}
