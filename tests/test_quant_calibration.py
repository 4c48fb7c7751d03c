"""One calibration for every setting, its parts in any order, and the one histogram behind it. The oracle is numpy."""

import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quant_digits import EXAMPLE, TRAIN, trained_model
from torch import nn

from quantfair.quant import Calibration, NonFiniteError, PtqSpec, QatSpec, calibrate, collect, freeze, prepare
from quantfair.quant.layers.modules import Add, quantizers
from quantfair.quant.quantizer.fake_quantize import FakeQuantize
from quantfair.quant.quantizer.histogram import BINS
from quantfair.quant.quantizer.observers import EMA_MOMENTUM, OBSERVERS, ActivationStats, activation_range
from quantfair.quant.quantizer.qparams import QuantizerSpec

SIXTEEN = PtqSpec(method="ptq", weight_bits=16, act_bits=16, quantize_adds=True)
IMAGES = [images_NCHW for images_NCHW, _ in TRAIN.epoch(None)]


def ptq(**settings) -> PtqSpec:
    return PtqSpec.model_validate({"method": "ptq", **settings})


def prepared(spec, model: nn.Module | None = None, example=EXAMPLE) -> nn.Module:
    return prepare(model or trained_model(), spec, example).model


def grids_of(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor, bool]]:
    return [(q.scale.detach().clone(), q.zero_point.clone(), bool(q.unsigned)) for q in quantizers(model)]


def act_quantizer(model: nn.Module, name: str) -> FakeQuantize:
    quantizer = model.get_submodule(f"{name}.act_quantizer" if name else "act_quantizer")
    assert isinstance(quantizer, FakeQuantize)
    return quantizer


# --- one pass for all ---


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("observer", OBSERVERS)
def test_one_collection_gives_the_grids_of_calibrating_each_prepared_model_itself(observer, bits, scheme):
    spec = ptq(act_observer=observer, act_bits=bits, weight_bits=bits, scheme=scheme, bn_fold="none")
    shared, own = prepared(spec), prepared(spec)
    calibrate(shared, collected())
    calibrate(own, IMAGES)
    for one, other in zip(grids_of(shared), grids_of(own), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        assert one[2] == other[2]


CACHE: list[Calibration] = []


def collected() -> Calibration:
    if not CACHE:
        CACHE.append(collect(trained_model(), IMAGES))
    return CACHE[0]


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("spec", [ptq(), QatSpec(method="qat", epochs=1, lr=0.1, bn_fold="fold", scales="learned")])
def test_the_collection_of_the_float_model_serves_folded_models(spec, observer):
    spec = spec.model_copy(update={"act_observer": observer})
    shared, own = prepared(spec), prepared(spec)
    calibrate(shared, collected())
    calibrate(own, IMAGES)
    for one, other in zip(grids_of(shared), grids_of(own), strict=True):
        torch.testing.assert_close(one[0], other[0], rtol=1e-3, atol=0)  # folding rounds; a bin is 1 / 4096 of the peak
        assert one[2] == other[2]


def test_collecting_leaves_the_model_as_it_was():
    model = prepared(QatSpec(method="qat", epochs=1, lr=0.1, bn_fold="fold"))
    calibrate(model, IMAGES)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    collect(model, IMAGES)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(quantizer.enabled for quantizer in quantizers(model))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_collecting_cleans_up_after_an_error():
    model = prepared(ptq())
    with pytest.raises(ValueError, match="small_cnn needs images of at least 8 x 8"):
        collect(model, [EXAMPLE, EXAMPLE[..., :4]])
    assert all(quantizer.enabled for quantizer in quantizers(model))
    assert not any(module._forward_pre_hooks for module in model.modules())


def same_calibration(one: Calibration, other: Calibration) -> bool:
    return (
        one.batches == other.batches
        and one.layers.keys() == other.layers.keys()
        and all(same_seen(one.layers[name], other.layers[name]) for name in one.layers)
    )


def same_seen(one: ActivationStats, other: ActivationStats) -> bool:
    return (
        one.extremes_B == other.extremes_B
        and one.histogram.exponent == other.histogram.exponent
        and torch.equal(one.histogram.counts, other.histogram.counts)
    )


@pytest.mark.parametrize("cuts", [(1, 5), (3, 4), (11, 11), (0, 12)])
def test_parts_merge_into_one_pass_in_any_order(cuts):
    bounds = [0, *cuts, len(IMAGES)]
    parts = [
        collect(trained_model(), IMAGES[start:stop], first_batch=start)
        for start, stop in itertools.pairwise(bounds)
        if start < stop
    ]
    for order in itertools.permutations(range(len(parts))):
        merged = Calibration()
        for part in order:
            merged.merge(parts[part])
        assert same_calibration(merged, collected())
        grids = []
        for calibration in (merged, collected()):
            model = prepared(ptq(act_observer="ema"))  # depends on the order of the batches, not of the parts
            calibrate(model, calibration)
            grids.append(torch.stack([grid[0] for grid in grids_of(model) if grid[0].ndim == 0]))
        assert torch.equal(*grids)


def test_merging_leaves_the_other_part_alone():
    one, other = collect(trained_model(), IMAGES[:1]), collect(trained_model(), IMAGES[1:2], first_batch=1)
    before = pickle.loads(pickle.dumps(other))
    merged = Calibration()
    for part in (other, one):
        merged.merge(part)
    assert same_calibration(other, before)
    assert not same_calibration(merged, before)


def test_the_same_batch_in_two_parts_is_refused():
    part = collect(trained_model(), IMAGES[:2])
    with pytest.raises(ValueError, match="batch 1 is in both calibrations; give each part its own `first_batch`"):
        part.merge(collect(trained_model(), IMAGES[:2], first_batch=1))


def test_a_calibration_survives_pickling():
    copy = pickle.loads(pickle.dumps(collected()))
    assert same_calibration(copy, collected())


# --- what decides a grid ---


class Relu(nn.Module):
    """A layer that meets mostly positive values, and one negative value in the second batch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, values):
        return self.linear(values)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_the_true_minimum_decides_the_sign_whatever_the_observer_makes_of_it(observer):
    positive = torch.rand(4000, 1, generator=torch.Generator().manual_seed(0))
    touched = torch.cat([positive, torch.tensor([[-1e-3]])])
    spec = ptq(act_observer=observer, percentile=0.99)
    for data, unsigned in ((positive, True), (touched, False)):
        model = prepared(spec, Relu(), positive[:2])
        calibrate(model, [positive, data])
        quantizer = act_quantizer(model, "linear")
        assert bool(quantizer.unsigned) == unsigned
        assert (quantizer.quant_min, quantizer.quant_max) == ((0, 255) if unsigned else (-128, 127))


def test_ema_is_derived_from_the_extremes_of_each_batch_in_their_order():
    data = [torch.tensor([[-1.0], [2.0]]), torch.tensor([[-5.0], [1.0]]), torch.tensor([[0.5], [8.0]])]
    model = prepared(ptq(act_observer="ema"), Relu(), data[0])
    calibrate(model, data)
    low, high = data[0].min().item(), data[0].max().item()
    for batch in data[1:]:
        low += EMA_MOMENTUM * (batch.min().item() - low)
        high += EMA_MOMENTUM * (batch.max().item() - high)
    quantizer = act_quantizer(model, "linear")
    assert quantizer.min_val.item() == pytest.approx(low)
    assert quantizer.max_val.item() == pytest.approx(high)


class Wired(nn.Module):
    def __init__(self, wire):
        super().__init__()
        self.wire = wire
        self.conv, self.other, self.up = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.ConvTranspose2d(1, 1, 3, stride=2)
        self.add = Add()

    def forward(self, images):
        return self.wire(self, images)


def test_a_shared_layer_is_seen_on_both_inputs_within_one_batch():
    model = prepared(ptq(act_observer="ema"), Wired(lambda net, x: net.conv(x) + net.conv(-10 * x)))
    calibrate(model, [EXAMPLE])
    quantizer = act_quantizer(model, "conv")
    low, high = EXAMPLE.min().item(), EXAMPLE.max().item()
    assert quantizer.min_val.item() == pytest.approx(min(low, -10 * high))
    assert quantizer.max_val.item() == pytest.approx(max(high, -10 * low))
    seen = collect(Wired(lambda net, x: net.conv(x) + net.conv(-10 * x)), [EXAMPLE]).layers["conv"]
    assert seen.histogram.counts.sum() == 2 * EXAMPLE.numel()


def branch(net: Wired, images: torch.Tensor) -> torch.Tensor:
    return net.other(images) if images.mean() > 10 else net.conv(images)


def test_a_layer_that_only_some_batches_reach_is_calibrated_on_those():
    far = EXAMPLE + 100
    calibration = collect(Wired(branch), [EXAMPLE, far, EXAMPLE - 1, far + 1])
    assert list(calibration.layers["conv"].extremes_B) == [0, 2]
    assert list(calibration.layers["other"].extremes_B) == [1, 3]
    model = prepared(ptq(act_observer="minmax"), Wired(branch), far)
    calibrate(model, calibration)
    assert act_quantizer(model, "other").max_val == far.max() + 1


def split_by_value(net: Wired, images: torch.Tensor) -> torch.Tensor:
    is_dark = images.mean((1, 2, 3)) < 0
    return torch.cat([net.conv(images[is_dark]), net.other(images[~is_dark])])


def test_a_branch_that_no_image_of_a_batch_takes_meets_an_empty_tensor():
    bright = EXAMPLE.abs()
    model = prepared(QatSpec(method="qat", epochs=1, lr=0.1), Wired(split_by_value))
    calibrate(model, [bright, -bright])
    before = act_quantizer(model, "conv").max_val.clone()
    model.train()(2 * bright).sum().backward()
    assert act_quantizer(model, "conv").max_val == before
    assert act_quantizer(model, "other").max_val > bright.max()


@pytest.mark.parametrize(
    "wire",
    [
        lambda net, x: net.conv(input=x),
        lambda net, x: net.up(net.conv(x), [18, 18]),
        lambda net, x: net.up(input=net.conv(x), output_size=[18, 18]),
        lambda net, x: net.add(a=net.conv(x), b=x),
    ],
    ids=["keyword", "output size", "keywords", "add"],
)
def test_layers_may_be_called_with_keywords_and_with_sizes(wire):
    model, reference = prepared(SIXTEEN, plain := Wired(wire)), plain.eval()
    calibrate(model, [EXAMPLE])
    freeze(model)
    with torch.no_grad():
        torch.testing.assert_close(model(EXAMPLE), reference(EXAMPLE), atol=1e-2, rtol=0)
        assert not torch.equal(model(EXAMPLE), reference(EXAMPLE))


# --- bad requests ---


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="`batches` holds no image to calibrate on; give it at least one"):
        collect(trained_model(), [])


def test_an_empty_batch_is_refused_by_its_index():
    with pytest.raises(ValueError, match="calibration batch 6 holds no image; leave it out"):
        collect(trained_model(), [EXAMPLE, EXAMPLE[:0]], first_batch=5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_name_the_layer_that_meets_them(value):
    model = Wired(lambda net, x: net.other(net.conv(x) * value))
    message = r"layer 'other' met a non-finite activation while calibrating; check the weights of the float model"
    with pytest.raises(NonFiniteError, match=message):
        collect(model, [EXAMPLE])


def test_an_unreached_layer_is_named():
    model = prepared(ptq(), Wired(branch), EXAMPLE + 100)
    with pytest.raises(ValueError, match="layer 'other' saw no data; `batches` must hold images that reach every"):
        calibrate(model, [EXAMPLE])


def test_the_calibration_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"layer 'features.block1.conv' saw no data"):
        calibrate(prepared(ptq()), collect(Wired(branch), [EXAMPLE]))


# --- the histogram ---

# A negative value so small beside the peak that x / width underflows falls on the other side of 0: not drawn.
VALUES = st.floats(-(2.0**60), 2.0**60, width=32).filter(lambda value: value == 0 or abs(value) > 2.0**-60)
BATCHES = st.lists(st.lists(VALUES, min_size=1, max_size=8), min_size=1, max_size=5)


def see(*batches: Any, first: int = 0) -> ActivationStats:
    seen = ActivationStats()
    for batch, values in enumerate(batches, start=first):
        x = torch.as_tensor(values, dtype=torch.float32)
        seen.add(x, batch, float(x.min()), float(x.max()))
    return seen


@given(BATCHES)
def test_every_value_is_counted_once_in_the_bin_that_holds_it(batches):
    histogram = see(*batches).histogram
    values = np.array([value for batch in batches for value in batch])
    bins = np.floor(values / histogram.width).astype(np.int64) + BINS // 2
    np.testing.assert_array_equal(histogram.counts.numpy(), np.bincount(bins, minlength=BINS))


@given(BATCHES, st.randoms(use_true_random=False))
def test_histograms_merge_exactly_in_any_order_and_split(batches, random):
    whole = see(*batches)
    parts = [see(batch, first=at) for at, batch in enumerate(batches)]
    random.shuffle(parts)
    merged = ActivationStats()
    for part in parts:
        merged.merge(part)
    assert same_seen(merged, whole)


@given(st.lists(VALUES, min_size=1, max_size=8))
def test_a_bin_is_at_most_a_4096th_of_the_peak_unless_the_peak_is_next_to_denormal(values):
    peak = float(np.abs(np.float32(values)).max())
    assert see(values).histogram.width <= max(peak / 4096, 2.0**-124)


@pytest.mark.parametrize("peak", [1e-45, 1e-40, 2.0**-126, 1e-37, 3.4e38, -3.4e38, 1.0, -1.0, 0.99999994])
def test_extreme_peaks_are_counted(peak):
    histogram = see([peak, peak / 2, 0.0]).histogram
    assert histogram.counts.sum() == 3
    assert histogram.quantile(1.0 if peak > 0 else 0.0) == pytest.approx(peak, rel=1e-3, abs=2.0**-124)


def test_a_batch_of_zeros_makes_no_bin_wider():
    small = [1e-3, -2e-3]
    for batches in ([[0.0, 0.0], small], [small, [0.0, 0.0]]):
        assert see(*batches).histogram.exponent == see(small).histogram.exponent
    assert see([0.0]).histogram.quantile(0.5) == pytest.approx(0, abs=1e-37)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), st.floats(0, 1))
def test_a_quantile_is_within_one_bin_of_numpy(values, q):
    histogram = see(values).histogram
    expected = np.quantile(np.float32(values).astype(np.float64), q)
    # Interpolating between two ranks moves the result by no more than either of them moves.
    assert abs(histogram.quantile(q) - expected) <= histogram.width * 1.000001


@pytest.mark.parametrize("observer", OBSERVERS)
def test_a_constant_of_any_size_gets_a_finite_grid(observer):
    for value in (0.0, 1e-40, -3.0, 3e38):
        spec = QuantizerSpec("activation", 8, symmetric=True, observer=observer, percentile=0.9999)
        low, high = activation_range(see([value] * 4), spec, unsigned=value >= 0)
        assert math.isfinite(low)
        assert math.isfinite(high)
        assert low <= high


def test_batches_with_labels_are_refused_with_the_remedy() -> None:
    loader = [(EXAMPLE, torch.zeros(2))]
    with pytest.raises(ValueError, match=r"batch 0 is a tuple; give images alone: \(x for x, _ in loader\)"):
        collect(trained_model(), loader)  # pyright: ignore[reportArgumentType]
