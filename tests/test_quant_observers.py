import importlib.util
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch

from quantfair.quant.quantizer import observers
from quantfair.quant.quantizer.observers import (
    OBSERVERS,
    ActivationStats,
    activation_range,
    check_observers,
    extremes,
    follow,
    upper_quantile,
    weight_range,
)
from quantfair.quant.quantizer.qparams import QuantizerSpec
from quantfair.quant.specs import methods
from quantfair.quant.specs.methods import WITHOUT_MEMORY


def make_spec(role: Any, observer: str, *, percentile=0.99, axis=None, bits=8, **changes) -> QuantizerSpec:
    fields = {"role": role, "bits": bits, "symmetric": True, "observer": observer, "percentile": percentile}
    return QuantizerSpec(**{**fields, "axis": axis, **changes})


def see(*tensors: torch.Tensor) -> ActivationStats:
    seen = ActivationStats()
    for batch, x in enumerate(tensors):
        seen.add(x, batch, float(x.min()), float(x.max()))
    return seen


def range_of(spec: QuantizerSpec, *tensors: torch.Tensor, unsigned=False) -> tuple[torch.Tensor, torch.Tensor]:
    return activation_range(see(*tensors), spec, unsigned=unsigned)


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
    low, high = range_of(make_spec("activation", "minmax"), *reversed(data))
    everything = torch.cat(data)
    assert (low, high) == (everything.min(), everything.max())


def test_ema_copies_the_first_batch_and_moves_a_tenth_afterwards():
    data = [torch.tensor([-1.0, 5.0]), torch.tensor([-2.0, 1.0]), torch.tensor([-4.0, 3.0])]
    spec = make_spec("activation", "ema")
    assert range_of(spec, data[0]) == (-1, 5)
    low, high = range_of(spec, *data)
    assert low.item() == pytest.approx((-1 * 0.9 + -2 * 0.1) * 0.9 + -4 * 0.1)
    assert high.item() == pytest.approx((5 * 0.9 + 1 * 0.1) * 0.9 + 3 * 0.1)
    before = range_of(spec, *data[:2])
    assert follow(before, data[2], spec) == (low, high)  # training goes on as calibration would


@pytest.mark.parametrize("percentile", [0.6, 0.99, 0.9999])
@pytest.mark.parametrize("relu", [False, True])
def test_activation_percentile_is_within_one_bin_of_numpy_over_all_data(percentile, relu):
    data = [x.relu() if relu else x for x in batches(2)]
    low, high = range_of(make_spec("activation", "percentile", percentile=percentile), *data)
    everything = torch.cat(data).numpy().astype(np.float64)
    histogram = see(*data).histogram
    assert histogram.width <= np.abs(everything).max() / 4096
    assert abs(low.item() - np.quantile(everything, 1 - percentile)) <= histogram.width
    assert abs(high.item() - np.quantile(everything, percentile)) <= histogram.width
    assert histogram.counts.sum() == everything.size
    if relu:
        assert low.item() >= 0


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_activation_percentile_of_few_values_interpolates_as_numpy_does(n):
    x = torch.randn(n, generator=torch.Generator().manual_seed(n))
    low, high = range_of(make_spec("activation", "percentile", percentile=0.9), x)
    width = see(x).histogram.width
    assert low.item() == pytest.approx(np.quantile(x.numpy(), 0.1), abs=width)
    assert high.item() == pytest.approx(np.quantile(x.numpy(), 0.9), abs=width)


@pytest.mark.parametrize("percentile", [0.51, 0.9, 0.9999])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weight_percentile_is_the_quantile_of_numpy(percentile, axis):
    weight_OIHW = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    low, high = weight_range(weight_OIHW, make_spec("weight", "percentile", percentile=percentile, axis=axis))
    shape = () if axis is None else tuple(n if dim == axis else 1 for dim, n in enumerate(weight_OIHW.shape))
    assert low.shape == high.shape == shape
    others = tuple(dim for dim in range(4) if dim != axis) if axis is not None else None
    for actual, q in ((low, 1 - percentile), (high, percentile)):
        expected = np.quantile(weight_OIHW.numpy().astype(np.float64), q, axis=others)
        np.testing.assert_allclose(actual.flatten(), np.ravel(expected), rtol=1e-5, atol=1e-6)


def test_upper_quantile_of_a_single_value_is_that_value():
    assert upper_quantile(torch.tensor([[7.0], [8.0]]), 0.9).tolist() == [7, 8]


def test_histogram_holds_a_largest_value_that_is_a_power_of_two():
    spec = make_spec("activation", "percentile", percentile=0.9999)
    low, high = range_of(spec, torch.tensor([-2.0, 0.5, 2.0]), torch.tensor([4.0]))
    assert (low, high) == (pytest.approx(-2, abs=4e-3), pytest.approx(4, abs=4e-3))


@pytest.mark.parametrize("field", ["ActObserver", "WeightObserver"])
def test_a_name_without_an_implementation_is_an_error_at_import(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    names = Literal["entropy", "minmax", "ema", "percentile", "mse"]
    monkeypatch.setattr(methods, field, names if field == "WeightObserver" else Literal[names, "kl"])
    found = importlib.util.spec_from_file_location("observers_again", str(observers.__file__))
    assert found is not None
    assert found.loader is not None
    ability = "of_weight" if field == "WeightObserver" else "of_activation"
    with pytest.raises(ValueError, match=f"'entropy' stands in {field}, and no row gives it `{ability}`"):
        found.loader.exec_module(importlib.util.module_from_spec(found))


MINMAX = OBSERVERS["minmax"]
WITH_EMA = [name for name in OBSERVERS if name in (*WITHOUT_MEMORY, "ema")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"entropy": observers.Observer(of_weight=MINMAX.of_weight)},
            "'entropy' has `of_weight`, and does not stand in",
        ),
        ({"kl": MINMAX}, "'kl' has `weight_in_training`, and does not stand in FOLLOWING_WEIGHTS"),
        (
            {"ema": replace(OBSERVERS["ema"], activation_in_training=None)},
            "'ema' stands in FOLLOWING_ACTIVATIONS, and no",
        ),
        ({"ema": replace(OBSERVERS["ema"], weight_in_training=None)}, "'ema' stands in FOLLOWING_WEIGHTS, and no row"),
        ({"mse": observers.Observer()}, "'mse' stands in ActObserver, .*; 'mse' stands in WeightObserver, and no row"),
        ({"ema": MINMAX}, f"WITHOUT_MEMORY must name {', '.join(WITH_EMA)}, and names {', '.join(WITHOUT_MEMORY)}"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_rows_and_names_must_agree(rows: dict[str, observers.Observer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_observers({**OBSERVERS, **rows})


def test_an_observer_that_nobody_knows_is_refused_with_those_that_are_known() -> None:
    spec = make_spec("activation", "entropy")
    with pytest.raises(ValueError, match=f"there is no observer 'entropy'; known are {', '.join(OBSERVERS)}"):
        range_of(spec, torch.ones(3))


def test_every_observer_of_the_specs_gives_another_range() -> None:
    data = [torch.randn(5000, generator=torch.Generator().manual_seed(i)) ** 3 for i in range(3)]
    of_activations = {}
    for name in get_args(methods.ActObserver):
        low, high = range_of(make_spec("activation", name, bits=4), *data)
        of_activations[name] = (float(low), float(high))
    assert len(set(of_activations.values())) == len(of_activations), of_activations
    of_weights = {}
    for name in get_args(methods.WeightObserver):
        low, high = weight_range(data[0], make_spec("weight", name, bits=4))
        of_weights[name] = (float(low), float(high))
    assert of_weights.pop("ema") == of_weights["minmax"], "a weight is seen once"
    assert len(set(of_weights.values())) == len(of_weights), of_weights
