"""Intervals, tests and means of results, by scipy and statsmodels: what varied while a number was taken."""

from __future__ import annotations

import dataclasses
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


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's t-interval of the mean of independent values at `LEVEL`; NaN where there are less than two.

    Values that are all the same have an interval without width, which is no more than what they say.
    """
    import numpy as np
    from scipy.stats import t

    if len(values) < 2:
        return math.nan, math.nan
    mean, half = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half *= float(t.ppf((1 + LEVEL) / 2, len(values) - 1))
    return mean - half, mean + half


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Mean of the differences of pairs, with what a paired t-test says about it.

    Attributes:
        mean: NaN without a pair.
        low, high: ends of the t-interval at `LEVEL`; NaN with less than two pairs.
        p: two-sided, of no difference; NaN with less than two pairs, or where all differ by the same, of which the
            test, which divides by their spread, says nothing.
        pairs: how many there are.
    """

    mean: float
    low: float
    high: float
    p: float
    pairs: int


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> PairedDifference:
    """Compares values with those of a baseline that belong to them, one by one: `values` - `baseline`.

    Raises:
        ValueError: there are not as many of the one as of the other.
    """
    import numpy as np
    from scipy.stats import ttest_rel

    differences = [one - other for one, other in zip(values, baseline, strict=True)]
    if not differences:
        return PairedDifference(math.nan, math.nan, math.nan, math.nan, 0)
    spread = max(differences) - min(differences)
    p = math.nan
    if spread > 1e-12 * max(map(abs, (*values, *baseline))):  # less is rounding
        p = float(ttest_rel(values, baseline).pvalue)
    return PairedDifference(float(np.mean(differences)), *t_interval(differences), p, len(differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values adjusted for there being several tests; NaN stays NaN and counts as no test.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    from statsmodels.stats.multitest import multipletests

    known = [p for p in p_values if not math.isnan(p)]
    adjusted = iter(multipletests(known, method="holm")[1] if known else ())
    return [p if math.isnan(p) else float(next(adjusted)) for p in p_values]


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
