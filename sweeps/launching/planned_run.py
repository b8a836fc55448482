"""One run of a grid before it is computed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.run_config import RunConfig


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a grid.

    Attributes:
        config: the run, resolved and checked.
        run_id: the run's identity.
        name: where the grid file says so, as `axis=value, ...` or `row 3`.
        differs: dotted field to value, for the fields that are not the same in all runs of the grid.
    """

    config: RunConfig
    run_id: str
    name: str
    differs: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What tells this run from the others, for people."""
        return " ".join(f"{field}={show(value)}" for field, value in self.differs.items()) or "(the only run)"

    @property
    def resources(self) -> dict[str, Any]:
        """What the run asks for; None means what the profile says."""
        return self.config.resources.to_dict()


def show(value: Any) -> str:
    """Writes a value as it would be typed after `--set FIELD=`."""
    return value if isinstance(value, str) else json.dumps(value)
