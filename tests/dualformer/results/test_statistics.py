"""Intervals and means: exact where a closed value exists."""

import math

import numpy as np
import pytest

from dualformer.results import statistics


@pytest.mark.parametrize(
    ("share", "trials", "low", "high"),
    # R: prop.test(x, n, correct = FALSE)$conf.int; zero and all successes have closed forms z^2 / (n + z^2).
    [(0.5, 100, 0.403832, 0.596168), (0.9, 50, 0.786398, 0.956524), (0.0, 10, 0.0, 0.277533), (1.0, 10, 0.722467, 1.0)],
)
def test_wilson_interval(share, trials, low, high):
    found = statistics.wilson_interval(share, trials)
    assert found == pytest.approx((low, high), abs=1e-5)
    assert found[0] <= share <= found[1]


@pytest.mark.parametrize(("share", "trials"), [(math.nan, 10), (0.5, math.nan), (None, 10), (0.5, None), (0.5, 0)])
def test_wilson_interval_of_nothing_is_nan(share, trials):
    assert all(map(math.isnan, statistics.wilson_interval(share, trials)))


def test_the_bootstrap_interval_holds_the_ratio_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(40):
        draws = statistics.ratio_draws(random.normal(11, 1, 40), random.normal(10, 1, 40), random)
        low, high = statistics.interval(draws)
        hits += low <= 1.1 <= high
    assert 33 <= hits <= 40


def test_draws_of_one_source_are_independent_of_each_other():
    random = np.random.default_rng(0)
    samples = np.random.default_rng(1).normal(10, 1, 30).tolist()
    one, other = (statistics.ratio_draws(samples, samples[::-1], random) for _ in range(2))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_one_pass_has_no_interval():
    ratio, low, high = statistics.median_ratio([2.0], [1.0, 1.0])
    assert ratio == 2 and math.isnan(low) and math.isnan(high)
    assert statistics.ratio_draws([], [1.0, 2.0]) is None


def test_passes_that_never_differ_have_an_interval_without_width():
    assert statistics.median_ratio([2.0] * 5, [1.0] * 5) == (2.0, 2.0, 2.0)


def test_geometric_mean_keeps_draws_apart():
    assert statistics.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert statistics.geometric_mean([np.array([1.0, 2.0]), np.array([4.0, 8.0])]) == pytest.approx([2.0, 4.0])


def test_t_interval():
    # R: t.test(c(0.5, 0.6, 0.7))$conf.int
    assert statistics.t_interval([0.5, 0.6, 0.7]) == pytest.approx((0.351586, 0.848414), abs=1e-6)
    assert statistics.t_interval([0.5, 0.5]) == (0.5, 0.5)
    assert all(map(math.isnan, [*statistics.t_interval([0.5]), *statistics.t_interval([])]))


def test_paired_difference():
    found = statistics.paired_difference([0.5, 0.6, 0.7], [0.4, 0.55, 0.6])
    expected = (0.0833333, 0.0116225, 0.1550442, 1 - 5 / math.sqrt(27), 3)  # t = 5; p in closed form for two degrees
    assert (found.mean, found.low, found.high, found.p, found.pairs) == pytest.approx(expected, abs=1e-6)
    assert statistics.paired_difference([], []).pairs == 0
    with pytest.raises(ValueError):
        statistics.paired_difference([1.0], [])


@pytest.mark.parametrize("by", [0.0, 0.1])
def test_pairs_that_all_differ_by_the_same_have_no_p(by):
    found = statistics.paired_difference([0.3 + by, 0.6 + by, 0.7 + by], [0.3, 0.6, 0.7])
    assert found.mean == pytest.approx(by) and math.isnan(found.p)


def test_one_pair_has_a_difference_alone():
    found = statistics.paired_difference([0.5], [0.4])
    assert found.mean == pytest.approx(0.1) and math.isnan(found.low) and math.isnan(found.p)


def test_holm():
    # R: p.adjust(c(0.01, 0.04, 0.03), "holm")
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = statistics.holm([math.nan, 0.02, math.nan, 0.01])
    assert adjusted[1::2] == pytest.approx([0.02, 0.02]) and math.isnan(adjusted[0]) and math.isnan(adjusted[2])
    assert statistics.holm([]) == []
