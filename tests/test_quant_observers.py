from typing import Any

import numpy as np
import pytest
import torch

from quant.observers import OBSERVERS, Histogram, Observer, extremes, upper_quantile
from quant.qparams import TensorSpec


def make(role: Any, name: str, *, percentile=0.99, axis=None, shape=()) -> Observer:
    spec = TensorSpec(role=role, bits=8, symmetric=True, observer=name, percentile=percentile, axis=axis)
    return OBSERVERS[role, name](spec, shape)


def observe(observer: Observer, *tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    for x in tensors:
        observer.observe(x, *extremes(x, observer.spec.axis))
    return observer.range()


def batches(seed: int, n: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(64, 3, 8, 8, generator=generator) * (i + 1) for i in range(n)]


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_extremes_are_those_of_numpy(axis):
    x = batches(0, 1)[0]
    low, high = extremes(x, axis)
    others = tuple(dim for dim in range(4) if dim != axis) if axis is not None else None
    np.testing.assert_array_equal(low.flatten(), x.numpy().min(others).flatten())
    np.testing.assert_array_equal(high.flatten(), x.numpy().max(others).flatten())
    assert (x >= low).all()
    assert (x <= high).all()


def test_activation_minmax_is_the_range_of_everything():
    data = batches(1)
    low, high = observe(make("activation", "minmax"), *reversed(data))
    everything = torch.cat(data)
    assert (low, high) == (everything.min(), everything.max())


def test_weight_minmax_is_the_range_of_the_last_tensor():
    wide, narrow = torch.tensor([-3.0, 4.0]), torch.tensor([-1.0, 2.0])
    assert observe(make("weight", "minmax"), wide, narrow) == (-1, 2)


@pytest.mark.parametrize("role", ["weight", "activation"])
def test_ema_copies_the_first_batch_and_moves_a_tenth_afterwards(role):
    data = [torch.tensor([-1.0, 5.0]), torch.tensor([-2.0, 1.0]), torch.tensor([-4.0, 3.0])]
    observer = make(role, "ema")
    assert observe(observer, data[0]) == (-1, 5)
    low, high = observe(observer, *data[1:])
    assert low.item() == pytest.approx((-1 * 0.9 + -2 * 0.1) * 0.9 + -4 * 0.1)
    assert high.item() == pytest.approx((5 * 0.9 + 1 * 0.1) * 0.9 + 3 * 0.1)


@pytest.mark.parametrize("percentile", [0.6, 0.99, 0.9999])
@pytest.mark.parametrize("relu", [False, True])
def test_activation_percentile_is_within_one_bin_of_numpy_over_all_data(percentile, relu):
    data = [x.relu() if relu else x for x in batches(2)]
    observer = make("activation", "percentile", percentile=percentile)
    low, high = observe(observer, *data)
    everything = torch.cat(data).numpy().astype(np.float64)
    assert isinstance(observer, Histogram)
    bin_width = observer.width.item()
    assert bin_width <= np.abs(everything).max() / 2048
    assert abs(low.item() - np.quantile(everything, 1 - percentile)) <= bin_width
    assert abs(high.item() - np.quantile(everything, percentile)) <= bin_width
    assert observer.counts.sum() == everything.size
    if relu:
        assert low.item() >= 0


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_activation_percentile_of_few_values_interpolates_as_numpy_does(n):
    x = torch.randn(n, generator=torch.Generator().manual_seed(n))
    observer = make("activation", "percentile", percentile=0.9)
    low, high = observe(observer, x)
    assert isinstance(observer, Histogram)
    assert low.item() == pytest.approx(np.quantile(x.numpy(), 0.1), abs=observer.width.item())
    assert high.item() == pytest.approx(np.quantile(x.numpy(), 0.9), abs=observer.width.item())


def test_histogram_after_doubling_equals_a_histogram_of_the_final_width():
    small, large = batches(3, 1)[0] / 1000, batches(4, 1)[0] * 1000
    grown, direct = (make("activation", "percentile") for _ in range(2))
    observe(grown, torch.zeros(4), small, large)
    observe(direct, large, torch.zeros(4), small)
    assert isinstance(grown, Histogram)
    assert isinstance(direct, Histogram)
    assert grown.width == direct.width
    assert torch.equal(grown.counts, direct.counts)


@pytest.mark.parametrize("percentile", [0.51, 0.9, 0.9999])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weight_percentile_is_the_quantile_of_numpy_for_the_last_tensor(percentile, axis):
    first, weight_OIHW = torch.full((6, 5, 3, 3), 100.0), torch.randn(6, 5, 3, 3)
    shape = () if axis is None else tuple(n if dim == axis else 1 for dim, n in enumerate(weight_OIHW.shape))
    observer = make("weight", "percentile", percentile=percentile, axis=axis, shape=shape)
    low, high = observe(observer, first, weight_OIHW)
    assert low.shape == high.shape == shape
    others = tuple(dim for dim in range(4) if dim != axis) if axis is not None else None
    for actual, q in ((low, 1 - percentile), (high, percentile)):
        expected = np.quantile(weight_OIHW.numpy().astype(np.float64), q, axis=others)
        np.testing.assert_allclose(actual.flatten(), np.ravel(expected), rtol=1e-5, atol=1e-6)


def test_upper_quantile_of_a_single_value_is_that_value():
    assert upper_quantile(torch.tensor([[7.0], [8.0]]), 0.9).tolist() == [7, 8]


@pytest.mark.parametrize(("role", "name"), OBSERVERS)
def test_reset_forgets_everything(role, name):
    used, fresh = make(role, name), make(role, name)
    observe(used, *batches(5))
    used.reset()
    for key, value in fresh.state_dict().items():
        assert torch.equal(used.state_dict()[key], value), key
    expected = observe(fresh, *batches(6, 2))
    assert observe(used, *batches(6, 2)) == expected


@pytest.mark.parametrize(("role", "name"), OBSERVERS)
def test_every_observation_is_counted(role, name):
    observer = make(role, name)
    observe(observer, *batches(7, 3))
    assert observer.n_observed == 3


def test_histogram_holds_a_largest_value_that_is_a_power_of_two():
    observer = make("activation", "percentile", percentile=0.9999)
    low, high = observe(observer, torch.tensor([-2.0, 0.5, 2.0]), torch.tensor([4.0]))
    assert (low, high) == (pytest.approx(-2, abs=4e-3), pytest.approx(4, abs=4e-3))
