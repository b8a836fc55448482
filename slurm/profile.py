"""What a place to run has to offer, and what it allows: cluster profiles as data."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

FOLDER = Path(__file__).resolve().parent / "profiles"


class ProfileError(ValueError):
    """A profile that can't be meant, or a cluster that can't be had."""


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid", strict=True))
class Profile:
    """One place to run. Every field has a default, so a profile lists only what is particular about the place.

    Attributes:
        partition: of the cluster; None leaves it to the cluster, as for all that follow up to `constraint`.
        account: who pays.
        qos: quality of service.
        constraint: features that nodes must have.
        nodes: nodes of one job.
        gpus_per_node: GPUs of one job on each node.
        tasks_per_node: processes of one job on each node; None means one for each GPU, at least one.
        cpus_per_task: CPU cores of each process; None means as many as the job's threads.
        mem_gib: memory of each node; None leaves it to the cluster.
        time_min: wall time of one attempt in minutes.
        signal_delay_s: how long before the wall time ends a job is told to save and go back into the queue.
        max_timeouts: how often a job may run into its wall time before it counts as failed.
        max_parallel: jobs that run at once; None means as many as the cores and GPUs allow here, no limit on Slurm.
        max_submitted: jobs in the queue at once, for clusters that refuse more; the rest follow as they end.
        max_array_size: longest job array; the cluster's own limit holds as well.
        max_attempts: how often a job may die without a result (killed, out of memory, node lost) before that is its
            result.
        setup: shell lines before a job on the cluster, such as `module load`.
        sbatch: any further option of sbatch by its long name, such as {mail-type: FAIL}.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: pydantic.PositiveInt = 1
    gpus_per_node: pydantic.NonNegativeInt = 0
    tasks_per_node: pydantic.PositiveInt | None = None
    cpus_per_task: pydantic.PositiveInt | None = None
    mem_gib: pydantic.PositiveFloat | None = None
    time_min: pydantic.PositiveInt = 24 * 60
    signal_delay_s: pydantic.NonNegativeInt = 90
    max_timeouts: pydantic.NonNegativeInt = 10
    max_parallel: pydantic.PositiveInt | None = None
    max_submitted: pydantic.PositiveInt | None = None
    max_array_size: pydantic.PositiveInt = 1000
    max_attempts: pydantic.PositiveInt = 3
    setup: tuple[str, ...] = ()
    sbatch: dict[str, str | int | Literal[True]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.signal_delay_s >= 60 * self.time_min:
            raise ValueError(f"signal_delay_s ({self.signal_delay_s}) must be shorter than time_min ({self.time_min})")

    def changed(self, **changes: Any) -> Profile:
        """Returns a copy with `changes`; None changes nothing."""
        return dataclasses.replace(self, **{field: value for field, value in changes.items() if value is not None})


def load_profile(where: str | Path | None) -> Profile:
    """Reads a profile: a path first, then a name in `slurm/profiles`; None means all defaults.

    Raises:
        ProfileError: no such file, or what is wrong with it, with the nearest valid name.
    """
    if where is None:
        return Profile()
    path = _find(where)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return pydantic.TypeAdapter(Profile).validate_json(pydantic.TypeAdapter(Any).dump_json(content))
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: not valid YAML: {error}") from None
    except pydantic.ValidationError as error:
        raise ProfileError("\n".join(f"{path}: {_explain(item)}" for item in error.errors())) from None


def _find(where: str | Path) -> Path:
    for path in (Path(where), FOLDER / where, FOLDER / f"{where}.yaml"):
        if path.is_file():
            return path
    raise ProfileError(f"no profile '{where}'{_nearest(str(where), [path.stem for path in FOLDER.glob('*.yaml')])}")


def _explain(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"])
    if item["type"] == "unexpected_keyword_argument":
        return f"unknown field '{field}'{_nearest(field, [known.name for known in dataclasses.fields(Profile)])}"
    message = item["msg"].removeprefix("Value error, ")
    return f"{field}: {message} (got {item['input']!r})" if field else message


def _nearest(name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; valid: {', '.join(sorted(valid))}"
