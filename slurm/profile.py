"""What a place to run has to offer, and what it allows: cluster profiles as data."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from dualformer import strict_yaml
from dualformer.config import ConfigError, nearest
from slurm.environment import NEVER
from slurm.times import IN_MINUTES, MOST_MIN

FOLDER = Path(__file__).resolve().parent / "profiles"


class ProfileError(ValueError):
    """A profile that can't be meant, or a cluster that can't be had."""


OURS = (
    "job-name",
    "output",
    "error",
    "open-mode",
    "array",
    "signal",
    "requeue",
    "no-requeue",
    "parsable",
    "wait",
    "wrap",
)
"""Options of sbatch by which submissions are made and found again, and which no profile can change."""

_Processes = Annotated[int, pydantic.Field(gt=0, le=4096)]
_Jobs = Annotated[int, pydantic.Field(gt=0, le=100_000)]


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
        time_min: wall time of one attempt in minutes, or as Slurm writes it: "2:00:00" or "1-12" (days and hours).
        signal_delay_s: how long before the wall time ends a job is told to save and go back into the queue.
        max_timeouts: how often a job may run into its wall time before it counts as failed.
        max_parallel: jobs that run at once; None means as many as the cores and GPUs allow here, no limit on Slurm.
        max_submitted: jobs in the queue at once, for clusters that refuse more; the rest follow as they end.
        max_array_size: longest job array; the cluster's own limit holds as well.
        max_attempts: how often a job may die without a result (killed, out of memory, node lost) before that is its
            result.
        setup: shell lines before a job on the cluster, such as `module load`.
        environment: further variables of the launcher that jobs see, as names or patterns ("SITE_*"); see
            `slurm.environment` for those that pass anyway, and those that never do.
        sbatch: any further option of sbatch by its long name, such as {mail-type: FAIL}.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: _Jobs = 1
    gpus_per_node: Annotated[int, pydantic.Field(ge=0, le=4096)] = 0
    tasks_per_node: _Processes | None = None
    cpus_per_task: _Processes | None = None
    mem_gib: Annotated[float, pydantic.Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    time_min: Annotated[int, pydantic.Field(gt=0, le=MOST_MIN), IN_MINUTES] = 24 * 60
    signal_delay_s: pydantic.NonNegativeInt = 90
    max_timeouts: pydantic.NonNegativeInt = 10
    max_parallel: _Jobs | None = None
    max_submitted: _Jobs | None = None
    max_array_size: _Jobs = 1000
    max_attempts: pydantic.PositiveInt = 3
    setup: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    sbatch: dict[str, str | int | Literal[True]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.signal_delay_s >= 60 * self.time_min:
            raise ValueError(f"signal_delay_s ({self.signal_delay_s}) must be shorter than time_min ({self.time_min})")
        for name in self.environment:
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in NEVER):
                raise ValueError(
                    f"environment: {name} says which part of which job a process is, and can't be passed on"
                )
        for name in ("partition", "account", "qos", "constraint"):
            _refuse_lines(name, getattr(self, name))
        for option, value in self.sbatch.items():
            _refuse_lines(f"sbatch: {option}", value)
            if not re.fullmatch(r"[A-Za-z][\w-]*", option, re.ASCII):
                raise ValueError(f"sbatch: {option!r} is no long name of an option, such as mail-type")
            if option.replace("_", "-").lstrip("-") in OURS:
                raise ValueError(f"sbatch: {option} is set by the launcher, which finds its jobs by it")

    def changed(self, **changes: Any) -> Profile:
        """Returns a copy with `changes`; None changes nothing.

        Raises:
            ProfileError: what comes of it can't be meant.
        """
        changes = {field: value for field, value in changes.items() if value is not None}
        if not changes:
            return self
        try:
            return dataclasses.replace(self, **changes)
        except pydantic.ValidationError as error:
            raise ProfileError("; ".join(_explain(item) for item in error.errors())) from None


def load_profile(where: str | Path | None) -> Profile:
    """Reads a profile: a path first, then a name in `slurm/profiles`; None means all defaults.

    Raises:
        ProfileError: no such file, or what is wrong with it, with the nearest valid name.
        OSError: it can't be read.
    """
    if where is None:
        return Profile()
    path = _find(where)
    try:
        content = strict_yaml.read(path)
    except ConfigError as error:
        raise ProfileError(str(error)) from None
    if not (content is None or isinstance(content, dict)):
        raise ProfileError(f"{path}: a profile is a mapping of fields, got {str(content)[:40]!r}")
    try:
        return _checker().validate_json(json.dumps(content or {}))
    except pydantic.ValidationError as error:
        raise ProfileError("\n".join(f"{path}: {_explain(item)}" for item in error.errors())) from None


def _refuse_lines(name: str, value: object) -> None:
    """Options are lines of a script that a shell runs: what breaks a line would be run as well."""
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{name}: a value of one line, without control characters")


@functools.cache
def _checker() -> pydantic.TypeAdapter[Profile]:
    return pydantic.TypeAdapter(Profile)


def _find(where: str | Path) -> Path:
    for path in (Path(where), FOLDER / where, FOLDER / f"{where}.yaml"):
        if path.is_file():
            return path
    raise ProfileError(f"no profile '{where}'{nearest(str(where), (path.stem for path in FOLDER.glob('*.yaml')))}")


def _explain(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"])
    if item["type"] == "unexpected_keyword_argument":
        return f"unknown field '{field}'{nearest(field, [known.name for known in dataclasses.fields(Profile)])}"
    message = item["msg"].removeprefix("Value error, ")
    return f"{field}: {message} (got {str(item['input'])[:80]!r})" if field else message
