"""Whether times are those of a steady machine: no trend, no two speeds, no few passes that say otherwise than the rest.

A median hides all of these. A machine that is still getting quicker or slower gives one, of a moment that won't come
back; so does one that alternates between two speeds, of neither.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHANCE = 0.01
"""A trend that chance would show less often than this is one."""
DRIFT = 0.02
"""Largest change of times along a trend, as a share of their median, that is let pass."""
SPREAD = 0.3
"""Largest distance of 20th and 80th percentile, as a share of the median, that is let pass."""
DISAGREEMENT = 0.15
"""Largest difference of a median from a mean of the same passes, or of as many others, that is let pass."""


def drift(
    runs: Sequence[Sequence[float]], starts: Sequence[int] | None = None, strides: Sequence[int] | None = None
) -> float:
    """Relative change of times from first to last along their trend; 0 where chance alone would do.

    The test for a trend is Kendall's of times against their order (H. B. Mann, Nonparametric tests against trend,
    Econometrica 13, 1945), its slope the median of all pairs' (P. K. Sen, JASA 63, 1968), so outliers make none.

    Args:
        runs: times in the order in which they were taken, in runs that other passes may lie between.
        starts: number of the pass that each run begins with; None where one run follows the other at once.
        strides: from one pass of a run to the next; None means 1.
    """
    from scipy.stats import kendalltau, theilslopes  # here: it takes a second

    strides = strides or [1] * len(runs)
    starts = starts or [sum(map(len, runs[:number])) for number in range(len(runs))]
    times = np.concatenate([np.asarray(run, dtype=float) for run in runs])
    order = np.concatenate([start + stride * np.arange(len(run)) for run, start, stride in zip(runs, starts, strides)])
    if len(times) < 5 or np.ptp(times) == 0 or not kendalltau(order, times).pvalue < CHANCE:
        return 0.0
    return float(theilslopes(times, order).slope * np.ptp(order) / np.median(times))


def complaints(samples: Sequence[float], pass_ms: float | None, trend: float, *, overlaps: bool = False) -> list[str]:
    """What speaks against the median of times, in words.

    Args:
        samples: milliseconds of synchronised passes, in order.
        pass_ms: of one of many passes that were timed at their ends only; None where there were none.
        trend: `drift` of these passes and those around them.
        overlaps: whether starting a pass overlaps with the one before, so that one of many may well take less.
    """
    p20, p50, p80 = np.quantile(samples, (0.2, 0.5, 0.8))
    mean = float(np.mean(samples))
    found = []
    if abs(trend) > DRIFT:
        found.append(f"times drifted: by {trend:+.0%} while they were taken, around {p50:.3g} ms")
    if p80 - p20 > SPREAD * p50:
        found.append(f"times vary: a fifth of the passes took at most {p20:.3g} ms and a fifth at least {p80:.3g} ms")
    if abs(mean / p50 - 1) > DISAGREEMENT:
        found.append(f"times are uneven: their median is {p50:.3g} ms and their mean {mean:.3g} ms")
    if pass_ms is None:
        return found
    quicker, slower = pass_ms < (1 - DISAGREEMENT) * p50, pass_ms > (1 + DISAGREEMENT) * p50
    if slower or (quicker and not overlaps):
        found.append(
            f"times changed: the median is {p50:.3g} ms, and {len(samples)} more passes took {pass_ms:.3g} each"
        )
    return found
