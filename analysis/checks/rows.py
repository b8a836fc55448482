"""What a row says against itself: by arithmetic alone, without torch, a network or any other file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dualformer.data.config import EMBEDDED, FACTORS
from dualformer.results import result, table
from dualformer.results.disturbance import WITHHELD, disturbances
from dualformer.results.provenance import CIRCUMSTANCES
from dualformer.results.result import FACTOR_PREFIXES, MEASUREMENT_VERSION, MISSING, ROW_STATUSES, SCHEMA_VERSION
from dualformer.results.result_set import flags, is_number
from dualformer.results.table import Row

CLOSE = 1e-9
"""Relative difference that rounding explains."""

ASYNCHRONOUS = 2.0
"""Above this ratio of unsynchronised to synchronised time of a pass, nobody waited for the synchronised one."""

AGREE, SPREAD = 0.151, 0.301
"""Differences of the times of a pass that measuring flags when they are larger (`sweeps.measuring.steadiness`)."""

COUNTS = ("params_m", "gmacs_per_view", "macs_head_included", "num_views", "gmacs_total", "gflops_total", "num_classes")
QUANTILES = ("latency_ms_p20", "latency_ms_p50", "latency_ms_p80")
SCORES = ("top1", "top5", "chance_top1", "mean_class_accuracy", "calibration_error")
TRAINED = ("num_videos", "num_failed_videos", "train_clips_per_s", "final_train_loss", "train_gmacs_per_clip",
           "data_wait_share", "in_order_share")  # fmt: skip
GIB = 2**30


def check(row: Row, *, allow_disturbed: bool = False) -> Iterator[str]:
    """Everything in a row that can't be together."""
    checks: list[Callable[[Row], Iterator[str]]] = [
        schema, missing_provenance, circumstances, lacks_what_was_asked, has_what_was_not_asked, products, ranges,
        in_order, whole_videos, accuracies, classes, too_quick, times_disagree, memory,
    ]  # fmt: skip
    for each in checks:
        yield from each(row)
    if not allow_disturbed:
        yield from (f"disturbed while it was timed: {why}" for why in disturbances(row) if not why.startswith(WITHHELD))


def schema(row: Row) -> Iterator[str]:
    if row.get("status") not in ROW_STATUSES:
        yield f"unknown status {row.get('status')!r}"
    elif row["status"] != "ok" and not row.get("reason"):
        yield f"status '{row['status']}' without a reason"
    elif row["status"] == "ok" and row.get("reason") and not str(row["reason"]).startswith(WITHHELD):
        yield f"status 'ok', yet a reason why it isn't: {row['reason']}"
    if row.get("schema_version") != SCHEMA_VERSION and row.get("status") != MISSING:
        yield f"unknown schema version {row.get('schema_version')}"


def missing_provenance(row: Row) -> Iterator[str]:
    if row.get("status") == "ok":
        needed = ("always", "on cuda") if row.get("provenance.device") == "cuda" else ("always",)
        absent = [known.name for known in CIRCUMSTANCES if known.needed in needed and known.column not in row]
        if absent:
            yield f"missing provenance: {', '.join(absent)}"


def circumstances(row: Row) -> Iterator[str]:
    """What was asked for and what was found must be the same."""
    version = row.get("provenance.measurement_version", MEASUREMENT_VERSION)
    if version != MEASUREMENT_VERSION:
        yield f"measurement version {version}: its numbers don't mean what those of {MEASUREMENT_VERSION} do"
    device, asked = row.get("provenance.device"), row.get("device", "auto")
    if device is not None and (device not in ("cpu", "cuda") or asked not in ("auto", device)):
        yield f"ran on device {device!r}, and {asked!r} was asked for"
    if device == "cpu" and (only := [name for name in ("cuda", "cudnn", "driver") if f"provenance.{name}" in row]):
        yield f"ran on a cpu, yet has {', '.join(only)}"
    threads, asked = row.get("provenance.threads"), row.get("threads")
    if None not in (threads, asked) and threads != asked:
        yield f"ran with {threads} threads, and {asked} were asked for"
    times = [row.get(f"provenance.{name}") for name in ("started_utc", "finished_utc")]
    if None not in times and str(times[0]) > str(times[1]):
        yield f"ended at {times[1]}, before it started at {times[0]}"


def lacks_what_was_asked(row: Row) -> Iterator[str]:
    """An ok row has every number that its config asks for."""
    if row.get("status") != "ok":
        return
    wanted = [*COUNTS[:-1]] if "evaluate.num_clips" in row else []
    withheld = bool(disturbances(row)) and str(row.get("reason", "")).startswith(WITHHELD)
    if row.get("measure.latency") is True:
        wanted += ["peak_mem_gib", "flags", "gate"]
        wanted += [] if withheld else [*QUANTILES, "throughput_clips_per_s"]
        wanted += [] if row.get("measure.compile", "off") == "off" else ["compile_s"]
    if trains(row):
        wanted += [*TRAINED, *SCORES, "num_classes"]
        if (classes := row.get("num_classes")) and is_number(classes) and classes <= 5:
            wanted.remove("top5")
        wanted += [f"top1_{factor}" for factor in FACTORS] if row.get("data.root") == EMBEDDED else []
    newer = "provenance.network" in row
    optional = {name for name, field in result.fields().items() if field.optional}
    if absent := [name for name in wanted if name not in row and (newer or name not in optional)]:
        yield f"ok, yet without {', '.join(absent)}, for which its config asks"


def has_what_was_not_asked(row: Row) -> Iterator[str]:
    """Numbers that a run of this config doesn't come to."""
    unasked: list[str] = []
    if row.get("measure.latency") is False:
        unasked += [*result.of_kind("timed"), "flags", "gate", "compile_s", "roofline_ms"]
    elif row.get("measure.compile") == "off":
        unasked += ["compile_s"]
    if str(row.get("reason", "")).startswith(WITHHELD):
        unasked += [*QUANTILES, "throughput_clips_per_s", "energy_j_per_clip"]
    if "train.steps" in row and not trains(row):
        unasked += [*TRAINED, *SCORES, *(name for name in row if name.startswith(FACTOR_PREFIXES))]
    if found := [name for name in dict.fromkeys(unasked) if name in row]:
        yield f"has {', '.join(found)}, for which its config doesn't ask"


def trains(row: Row) -> bool:
    """Whether a row's config trains, by the rule of `TrainConfig.trains`."""
    return bool(row.get("train.steps")) or row.get("train.epochs") is not None


def products(row: Row) -> Iterator[str]:
    """Totals are views times a view, and FLOPs are two a multiply-accumulate."""
    if known := numbers(row, "evaluate.num_clips", "evaluate.num_crops", "num_views"):
        clips, crops, views = known
        if clips * crops != views:
            yield f"num_views is {views}, not {clips} clips x {crops} crops"
    if known := numbers(row, "num_views", "gmacs_per_view", "gmacs_total"):
        views, per_view, total = known
        if not math.isclose(views * per_view, total, rel_tol=CLOSE):
            yield f"gmacs_total is {total:g}, not {views} views x {per_view:g}"
    if known := numbers(row, "gmacs_total", "gflops_total"):
        total, gflops = known
        if not math.isclose(2 * total, gflops, rel_tol=CLOSE):
            yield f"gflops_total is {gflops:g}, not 2 x {total:g}"


def ranges(row: Row) -> Iterator[str]:
    for name, value in row.items():
        field = table.field(name)
        if field is None:
            continue
        if field.type is bool and not isinstance(value, bool):
            yield f"{name} is {value!r}, neither true nor false"
        if not field.is_number:
            continue
        if not is_number(value):
            yield f"{name} is {value!r}, not a number"
        elif field.type is int and (value != int(value) or value < 0):
            yield f"{name} is {value:g}, not a whole number from 0"
        elif field.is_fraction and not 0 <= value <= 1:
            yield f"{name} is {value:g}, not a fraction from 0 to 1"
        elif field.positive and value <= 0:
            yield f"{name} is {value:g}, not positive"


def in_order(row: Row) -> Iterator[str]:
    for names in (QUANTILES, ("top1", "top5")):
        if (values := numbers(row, *names)) and values != sorted(values):
            yield f"{' <= '.join(names)} doesn't hold: {', '.join(f'{value:g}' for value in values)}"


def whole_videos(row: Row) -> Iterator[str]:
    """An accuracy over videos is a whole number of them."""
    factors = [name for name in row if name.startswith("top1_")]
    for name in ("top1", "top5", "chance_top1", *factors):
        if known := numbers(row, name, "num_videos"):
            share, videos = known
            if not math.isclose(share * videos, round(share * videos), rel_tol=1e-6, abs_tol=1e-6):
                yield f"{name} {share:g} of {videos} videos is {share * videos:.2f} videos, which is no whole number"
    known = numbers(row, "num_videos", "num_failed_videos", "data.embedded.num_test")
    if known and row.get("data.root") == EMBEDDED:
        videos, failed, expected = known
        if videos + failed != expected:
            yield f"{videos} videos scored and {failed} failed, of {expected} in the data set"


def accuracies(row: Row) -> Iterator[str]:
    """Accuracies that no predictions have together.

    A class that is told right tells each of its factors right, unless that class has less than half of all probability.
    With top-1 `a` and calibration error `e` mean confidence is `a - e` at least, so that holds for `2 (1 - a + e)` of
    all videos at most.
    """
    error = row.get("calibration_error", 0.0)
    for name in (name for name in row if name.startswith("top1_")):
        if known := numbers(row, "top1", name):
            unsure = 2 * (1 - known[0] + error) if is_number(error) else 1
            if known[0] - known[1] > max(unsure, 0) + CLOSE:
                told = f"top1 is {known[0]:g}, more than {name} {known[1]:g}"
                yield f"{told}: a class that is told right tells its factors right"


def classes(row: Row) -> Iterator[str]:
    """Scores that this number of classes doesn't allow."""
    if (known := numbers(row, "num_classes", "top5")) and known[0] <= 5:
        yield f"top5 of {known[0]} classes says nothing, and is {known[1]:g}"
    if not (known := numbers(row, "chance_top1", "num_classes")):
        return
    chance, num_classes = known
    if chance * num_classes < 1 - CLOSE:
        yield f"chance_top1 is {chance:g}, below 1 of {num_classes} classes"
    balanced = math.isclose(chance * num_classes, 1, rel_tol=CLOSE)
    if balanced and (known := numbers(row, "mean_class_accuracy", "top1")):
        mean, top1 = known
        if not math.isclose(mean, top1, rel_tol=1e-6, abs_tol=1e-9):
            yield f"mean_class_accuracy is {mean:g} and top1 {top1:g}, though all classes have as many videos"


def too_quick(row: Row) -> Iterator[str]:
    """Times that no machine can have taken."""
    if known := numbers(row, "latency_ms_p50", "roofline_ms"):
        latency, bound = known
        if latency < bound:
            yield f"latency {latency:g} ms is below the least time that the machine's ceilings allow, {bound:g} ms"
    if pass_ms := _pass_ms(row):
        for bound in (bound for bound in numbers(row, "roofline_ms") if pass_ms < bound):
            yield f"by its throughput a pass takes {pass_ms:g} ms, below what the machine's ceilings give, {bound:g} ms"
        latency = row["latency_ms_p50"]
        if pass_ms > ASYNCHRONOUS * latency:
            yield f"latency is {latency:g} ms, yet by its throughput a pass takes {pass_ms:g} ms: nobody waited"


def times_disagree(row: Row) -> Iterator[str]:
    """Times that measuring would have flagged, and whose row says nothing."""
    said = " ".join(flags(row))
    if "flags" not in row:
        return
    if (pass_ms := _pass_ms(row)) and "times changed" not in said:
        latency = row["latency_ms_p50"]
        overlaps = row.get("provenance.device") == "cuda"
        if pass_ms > (1 + AGREE) * latency or (pass_ms < (1 - AGREE) * latency and not overlaps):
            yield f"latency is {latency:g} ms, by its throughput a pass takes {pass_ms:g} ms, and no flag says why"
    newer = "provenance.network" in row  # older measurements didn't look for this
    if newer and (known := numbers(row, *QUANTILES)) and "times vary" not in said:
        p20, p50, p80 = known
        if p80 - p20 > SPREAD * p50:
            yield f"latencies from {p20:g} to {p80:g} ms around {p50:g} vary, and no flag says so"


def memory(row: Row) -> Iterator[str]:
    if known := numbers(row, "peak_mem_gib", "params_m"):
        peak, params = known
        if (weights := 4e6 * params / GIB) > peak:
            yield f"peak_mem_gib is {peak:g}, and the weights alone are {weights:g}"


def _pass_ms(row: Row) -> float | None:
    """Milliseconds of a pass by throughput, where there is a latency as well."""
    known = numbers(row, "latency_ms_p50", "throughput_clips_per_s")
    if not known or known[1] <= 0:
        return None
    (batch_size,) = numbers(row, "measure.batch_size") or (1,)
    return batch_size / known[1] * 1e3


def numbers(row: Row, *names: str) -> Sequence[Any]:
    """Values of fields, none at all where one of them is absent or no number (of which `ranges` speaks)."""
    values = [row.get(name) for name in names]
    return values if all(map(is_number, values)) else []
