"""Corrections for many tests: they equal those of scipy and statsmodels, and leave out what was not tested."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import false_discovery_control
from statsmodels.stats.multitest import multipletests

from quantfair.results.statistics.multiplicity import benjamini_hochberg, holm

P = np.random.default_rng(0).beta(0.4, 1, (30, 5)).round(2)  # with ties


def test_both_equal_statsmodels_and_scipy() -> None:
    for correct, name in ((holm, "holm"), (benjamini_hochberg, "fdr_bh")):
        expected: Any = multipletests(P.ravel(), method=name)[1]
        assert np.allclose(correct(P).ravel(), expected, atol=1e-15)
    assert np.allclose(benjamini_hochberg(P).ravel(), false_discovery_control(P.ravel()), atol=1e-15)


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_what_was_not_tested_stays_nan_and_does_not_count(correct: Callable[..., np.ndarray]) -> None:
    some = np.where(np.random.default_rng(1).random(P.shape) < 0.3, np.nan, P)
    found = correct(some)
    assert (np.isnan(found) == np.isnan(some)).all()
    assert np.array_equal(found[~np.isnan(some)], correct(some[~np.isnan(some)]))
    assert np.isnan(correct([np.nan, np.nan])).all()
    assert correct([]).shape == (0,)


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_a_p_outside_0_to_1_is_refused(correct: Callable[..., np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"`p` must be in 0..1, got 1.5; nan says that nothing was tested."):
        correct([0.5, 1.5])
