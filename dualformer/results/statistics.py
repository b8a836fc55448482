"""Intervals and means of results, by scipy: what varied while a number was taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.95
"""Share of all resamplings, or of all repetitions, that an interval holds."""

DRAWS = 4000


def wilson_interval(share: float | None, trials: float | None) -> tuple[float, float]:
    """Wilson score interval of a proportion at `LEVEL`; NaN where share or trials are missing.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    from scipy.stats import binomtest  # here: it takes a second

    if share is None or trials is None or math.isnan(share) or math.isnan(trials) or trials <= 0:
        return math.nan, math.nan
    interval = binomtest(round(share * trials), int(trials)).proportion_ci(LEVEL, method="wilson")
    # At 0 % and 100 % one end is the proportion itself; rounding must not put it beyond.
    return min(float(interval.low), share), max(float(interval.high), share)


def ratio_draws(
    samples: Sequence[float], baseline: Sequence[float], random: np.random.Generator | None = None
) -> np.ndarray | None:
    """Bootstrap draws of median(samples) / median(baseline), float [DRAWS]; None where either has less than two.

    Args:
        samples: times of single passes, say.
        baseline: likewise.
        random: source of the resamplings; draws of one source are independent of each other.
    """
    import numpy as np
    from scipy.stats import bootstrap  # here, as numpy: commands that only say what they are don't wait for them

    if min(len(samples), len(baseline)) < 2:
        return None
    drawn = bootstrap(
        (samples, baseline),
        lambda one, other, axis: np.median(one, axis=axis) / np.median(other, axis=axis),
        n_resamples=DRAWS,
        method="percentile",
        rng=random or np.random.default_rng(0),
    )
    return drawn.bootstrap_distribution


def interval(draws: np.ndarray | None) -> tuple[float, float]:
    """Ends of the middle `LEVEL` of all draws; NaN where there are none. One that spans 1 shows no difference."""
    if draws is None:
        return math.nan, math.nan
    import numpy as np

    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def median_ratio(samples: Sequence[float], baseline: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of two medians, and the ends of its bootstrap interval."""
    import numpy as np

    return float(np.median(samples) / np.median(baseline)), *interval(ratio_draws(samples, baseline))


def geometric_mean(ratios: Sequence[Any]) -> Any:
    """Over the first axis; draws of each ratio stay apart."""
    import numpy as np
    from scipy.stats import gmean

    return gmean(np.asarray(ratios, dtype=float), axis=0)
