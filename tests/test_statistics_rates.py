"""Demographic parity and equalized odds: fairlearn's values, and floors that true permutations give."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

from quantfair.results.statistics.rates import RateGaps, measure_odds, measure_parity

SHARES = [0.45, 0.3, 0.15, 0.1]


class Drawn:
    """Labels, predictions and groups of N images, where groups have other mixes of classes."""

    def __init__(self, n_classes: int, *, seed: int = 0, n: int = 3000):
        rng = np.random.default_rng(seed)
        self.n_classes, self.groups = n_classes, rng.choice(4, n, p=SHARES)
        mixes = rng.dirichlet(np.full(n_classes, 4), 4)
        self.labels = (rng.random(n)[:, None] > mixes.cumsum(axis=1)[self.groups]).sum(axis=1).clip(0, n_classes - 1)
        self.predicted = np.where(rng.random(n) < 0.8, self.labels, rng.integers(0, n_classes, n))

    def measure(self, how: Callable[..., RateGaps | None], groups: np.ndarray | None = None) -> Any:
        groups = self.groups if groups is None else groups
        return how(count(self.labels, self.predicted, groups, self.n_classes)[None])


def count(labels: np.ndarray, predicted: np.ndarray, groups: np.ndarray, n_classes: int) -> np.ndarray:
    cells = (groups * n_classes + labels) * n_classes + predicted
    return np.bincount(cells, minlength=4 * n_classes**2).reshape(4, n_classes, n_classes)


PAIRS = [(measure_parity, demographic_parity_difference), (measure_odds, equalized_odds_difference)]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_two_classes_have_fairlearns_differences(ours: Callable[..., Any], theirs: Callable[..., float]) -> None:
    drawn = Drawn(2)
    expected = theirs(drawn.labels, drawn.predicted, sensitive_features=drawn.groups)
    assert [gap.value[0] for gap in drawn.measure(ours)] == pytest.approx([expected, expected], abs=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_more_classes_are_one_against_the_rest(ours: Callable[..., Any], theirs: Callable[..., float]) -> None:
    drawn = Drawn(4, seed=1, n=6000)
    of_class = [
        theirs(drawn.labels == k, drawn.predicted == k, sensitive_features=drawn.groups) for k in range(drawn.n_classes)
    ]
    assert np.bincount(drawn.groups * 4 + drawn.labels).min() >= 50
    expected = [max(of_class), np.mean(of_class)]
    assert [gap.value[0] for gap in drawn.measure(ours)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("how", [measure_parity, measure_odds])
def test_the_floor_is_that_of_true_permutations(how: Callable[..., Any], n_classes: int) -> None:
    drawn = Drawn(n_classes, seed=2, n=6000)
    rng, counts = np.random.default_rng(3), []
    strata = [drawn.labels >= 0] if how is measure_parity else [drawn.labels == k for k in range(n_classes)]
    for _ in range(1000):
        groups = drawn.groups.copy()
        for members in strata:
            groups[members] = rng.permutation(groups[members])
        counts.append(count(drawn.labels, drawn.predicted, groups, n_classes))
    found, permuted = drawn.measure(how), [gap.value for gap in how(np.stack(counts))]
    for gap, values in zip(found, permuted, strict=True):
        assert gap.null_mean[0] == pytest.approx(values.mean(), rel=0.03)
        assert gap.null_q95[0] == pytest.approx(np.quantile(values, 0.95), rel=0.08)  # two quantiles of 1000
        assert gap.p[0] == pytest.approx((values >= gap.value[0]).mean(), abs=0.06)


def test_false_alarms_are_few_where_predictions_know_nothing_of_the_group() -> None:
    rng, labels, groups = np.random.default_rng(4), Drawn(3).labels, Drawn(3).groups
    counts = []
    for _ in range(500):
        predicted = np.where(rng.random(len(labels)) < 0.8, labels, rng.integers(0, 3, len(labels)))
        counts.append(count(labels, predicted, groups, 3))
    for gap in measure_odds(np.stack(counts)) or ():
        assert 0.03 <= (gap.p < 0.05).mean() <= 0.07


def test_other_trials_change_nothing() -> None:
    drawn = Drawn(3, seed=5)
    counts = count(drawn.labels, drawn.predicted, drawn.groups, 3)
    several: Any = measure_odds(np.stack([counts] * 40))
    assert np.allclose(np.array(several)[:, :, 33], np.array(measure_odds(counts[None]))[:, :, 0], rtol=1e-5)


def test_rates_of_fewer_than_fifty_images_are_left_out() -> None:
    drawn = Drawn(2, seed=6)
    few = np.flatnonzero((drawn.groups == 3) & (drawn.labels == 1))
    drawn.predicted[few] = 0  # a recall of 0, of too few images to count
    drawn.labels[few[40:]], drawn.predicted[few[40:]] = 0, 0
    found = drawn.measure(measure_odds)
    kept = drawn.groups != 3
    of_others = equalized_odds_difference(
        drawn.labels[kept], drawn.predicted[kept], sensitive_features=drawn.groups[kept]
    )
    negatives = [(drawn.predicted[(drawn.groups == g) & (drawn.labels == 0)] == 1).mean() for g in range(4)]
    assert found.largest.value[0] == pytest.approx(max(of_others, np.ptp(negatives)))
    assert measure_odds(np.full((1, 4, 2, 2), 20)) is None
