"""Offsets of classes: a planted shift is undone, noise is not, and the fit is that of another optimiser."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax

from quantfair.results.statistics.offsets import PRIOR_SD_NATS, fit_offsets

SHIFT = np.array([2.0, -1.0, 0.5, -1.5, 0.0])


def calibrated(n: int, seed: int, *, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels drawn from them, so that the best offsets are 0."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(n, len(SHIFT)))
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(1)


def loss(offsets: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> float:
    picked = log_softmax(logits + offsets, axis=1)[np.arange(len(labels)), labels]
    return float(offsets @ offsets / (2 * PRIOR_SD_NATS**2) - picked.sum())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 300), sharpness=st.floats(0, 30))
def test_the_fit_is_that_of_scipy(seed: int, n: int, sharpness: float) -> None:
    logits, labels = calibrated(n, seed, sharpness=sharpness)
    expected = minimize(loss, np.zeros(5), args=(logits + SHIFT, labels), method="BFGS", options={"gtol": 1e-6})
    ours = fit_offsets(logits + SHIFT, labels)
    assert loss(ours, logits + SHIFT, labels) <= expected.fun + 1e-7
    assert ours == pytest.approx(expected.x, abs=0.01)
    assert ours.sum() == pytest.approx(0, abs=1e-6)


def test_a_planted_shift_is_undone() -> None:
    logits, labels = calibrated(20_000, 0)
    assert fit_offsets((logits + SHIFT).astype(np.float32), labels) == pytest.approx(-SHIFT, abs=0.1)
    assert fit_offsets(logits, labels) == pytest.approx(0, abs=0.1)


def test_planted_noise_is_not_undone() -> None:
    logits, labels = calibrated(20_000, 1)
    noisy = logits + np.random.default_rng(2).normal(0, 3, logits.shape)
    before, after = ((noisy + offsets).argmax(1) == labels for offsets in (0, fit_offsets(noisy, labels)))
    assert (logits.argmax(1) == labels).mean() - before.mean() > 0.2
    assert after.mean() - before.mean() < 0.002


def test_a_class_without_images_keeps_a_finite_offset() -> None:
    logits, labels = calibrated(500, 3)
    some = labels != 4
    offsets = fit_offsets(logits[some], labels[some])
    assert -20 < offsets[4] < -5
    assert np.isfinite(offsets).all()


def test_the_order_of_images_and_classes_changes_nothing() -> None:
    logits, labels = calibrated(300, 4)
    images, classes = np.random.default_rng(0).permutation(300), np.array([3, 1, 4, 0, 2])
    ours = fit_offsets(logits, labels)
    assert fit_offsets(logits[images], labels[images]) == pytest.approx(ours, abs=1e-6)
    assert fit_offsets(logits[:, classes], np.argsort(classes)[labels]) == pytest.approx(ours[classes], abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_have_no_offsets(value: float) -> None:
    logits, labels = calibrated(50, 5)
    logits[3, 2] = value
    assert not fit_offsets(logits, labels).any()
    assert not fit_offsets(logits[:0], labels[:0]).any()
