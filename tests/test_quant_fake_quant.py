"""The oracles: ATen's kernels (rounding ties apart) and numpy's rint of a float32 division (ties included).

A tie is a value whose quotient x / scale, in float64, lies within float32 rounding of a half-integer: ATen multiplies
by 1 / scale, which may fall on the other side of it.
"""

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfair.quant.quantizer.fake_quantize import MODES, FakeQuantize, fake_quantize
from quantfair.quant.quantizer.observers import OBSERVERS, ActivationStats, activation_range, weight_range
from quantfair.quant.quantizer.qparams import QuantizerSpec, choose_qparams
from quantfair.quant.specs.methods import FOLLOWING_ACTIVATIONS, SEARCHING

BITS = [2, 3, 4, 6, 8, 12, 16]
SCHEMES = ["symmetric", "asymmetric"]
ROLES = ["weight", "activation"]


def make_spec(role: Any = "activation", bits=8, scheme="symmetric", **changes) -> QuantizerSpec:
    fields = {"observer": "minmax", "percentile": 0.9999, "axis": None, "may_be_unsigned": False, **changes}
    return QuantizerSpec(role=role, bits=bits, symmetric=scheme == "symmetric", **fields)


def grid_for(x, spec, shrink=1.0):
    """Return (scale, zero_point, quant_min, quant_max) for `shrink` times the range of `x`."""
    quant_min, quant_max = spec.grid(unsigned=False)
    others = list(range(x.ndim)) if spec.axis is None else [dim for dim in range(x.ndim) if dim != spec.axis]
    low, high = x.amin(others, keepdim=True) * shrink, x.amax(others, keepdim=True) * shrink
    qparams = choose_qparams(low, high, quant_min=quant_min, quant_max=quant_max, symmetric=spec.symmetric)
    return *qparams, quant_min, quant_max


def value_and_gradient(function, x):
    leaf = x.clone().requires_grad_()
    output = function(leaf)
    output.backward(torch.ones_like(output) * 3)
    assert leaf.grad is not None
    return output.detach(), leaf.grad


def aten(x, scale, zero_point, quant_min, quant_max, axis):
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(x, scale.item(), int(zero_point), quant_min, quant_max)
    zero_points = zero_point.flatten().int()
    return torch.fake_quantize_per_channel_affine(x, scale.flatten(), zero_points, axis, quant_min, quant_max)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", BITS)
def test_fake_quantize_equals_aten_except_at_rounding_ties(bits, scheme, role, axis):
    x = torch.randn(16, 12, 9, 9, generator=torch.Generator().manual_seed(bits)) + 0.2
    scale, zero_point, quant_min, quant_max = grid_for(x, make_spec(role, bits, scheme, axis=axis), shrink=0.5)
    quotient = x.double() / scale.double()
    is_tie = ((quotient - quotient.floor()) - 0.5).abs() <= 2.0**-22 * quotient.abs().clamp(min=1)
    assert is_tie.double().mean() < 0.02

    offset = None if scheme == "symmetric" else zero_point
    value, grad = value_and_gradient(lambda v: fake_quantize(v, scale, offset, quant_min, quant_max), x)
    aten_value, aten_grad = value_and_gradient(lambda v: aten(v, scale, zero_point, quant_min, quant_max, axis), x)
    assert torch.equal(value[~is_tie], aten_value[~is_tie])
    assert torch.equal(grad[~is_tie], aten_grad[~is_tie])
    assert ((value - aten_value).abs() <= 1.01 * scale).all()  # one level, in float32
    assert 0 < (grad == 0).sum() < grad.numel() / 2  # the shrunken range does cut values off
    with torch.no_grad():
        assert torch.equal(fake_quantize(x, scale, offset, quant_min, quant_max), value)


@pytest.mark.parametrize("step", [1 / 8, 3e-5], ids=["ties", "divides"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", BITS)
def test_fake_quantize_equals_numpy_on_every_value_with_ties_to_even(bits, scheme, step):
    ties = (torch.arange(-40, 41) + 0.5) / 8
    x = torch.cat([torch.randn(100_000, generator=torch.Generator().manual_seed(bits)), ties])
    quant_min, quant_max = make_spec("activation", bits, scheme).grid(unsigned=False)
    scale, zero_point = np.float32(step), np.float32(0 if scheme == "symmetric" else quant_max // 2)
    levels = np.clip(np.rint(x.numpy() / scale) + zero_point, quant_min, quant_max)
    offset = None if scheme == "symmetric" else torch.tensor(zero_point)
    actual = fake_quantize(x, torch.tensor(scale), offset, quant_min, quant_max)
    np.testing.assert_array_equal(actual.numpy(), (levels - zero_point) * scale)


def test_gradient_mask_is_on_the_rounded_value():
    x = torch.tensor([-8.6, -8.4, 0.0, 7.4, 7.6])
    _, grad = value_and_gradient(lambda v: fake_quantize(v, torch.tensor(1.0), None, -8, 7), x)
    assert grad.tolist() == [0, 3, 3, 3, 0]


def test_fake_quantize_leaves_its_input_alone():
    x = torch.randn(100)
    before = x.clone()
    fake_quantize(x, torch.tensor(0.1), torch.tensor(3.0), 0, 15)
    value_and_gradient(lambda v: fake_quantize(v, torch.tensor(0.1), torch.tensor(3.0), 0, 15), x)
    assert torch.equal(x, before)


def test_fake_quantize_can_be_differentiated_twice_over_one_graph():
    x = torch.randn(50, requires_grad=True)
    loss = fake_quantize(x, torch.tensor(0.1), None, -8, 7).sum()
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


FLOATS = st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-20)
TENSORS = st.lists(FLOATS, min_size=1, max_size=20).map(lambda values: torch.tensor(values, dtype=torch.float32))
SPECS = st.builds(make_spec, st.sampled_from(ROLES), st.integers(2, 16), st.sampled_from(SCHEMES))


def quantize(x, spec, grid=None):
    scale, zero_point, quant_min, quant_max = grid or grid_for(x, spec)
    return fake_quantize(x, scale, None if spec.symmetric else zero_point, quant_min, quant_max)


@settings(deadline=None)
@given(TENSORS, SPECS)
def test_fake_quantize_is_identity_on_its_grid(x, spec):
    grid = grid_for(x, spec)
    once = quantize(x, spec, grid)
    assert torch.equal(quantize(once, spec, grid), once)


@settings(deadline=None)
@given(TENSORS, SPECS)
def test_fake_quantize_is_monotone(x, spec):
    assert (quantize(x.sort().values, spec).diff() >= 0).all()


@settings(deadline=None)
@given(TENSORS, SPECS)
def test_fake_quantize_stays_on_at_most_two_to_the_bits_levels_and_near_its_input(x, spec):
    scale, zero_point, quant_min, quant_max = grid_for(x, spec)
    actual = quantize(x, spec)
    levels = (actual / scale).round() + zero_point
    assert quant_min <= levels.min()
    assert levels.max() <= quant_max
    # Half a step; with a rounded zero point the ends of the range may be cut by another half.
    assert ((actual - x).abs() <= scale * (0.5 if spec.symmetric else 1) * 1.01 + x.abs() * 1e-6).all()


@settings(deadline=None)
@given(TENSORS, SPECS)
def test_zero_is_exact(x, spec):
    with_zero = torch.cat([x, torch.zeros(1)])
    assert quantize(with_zero, spec)[-1] == 0


@settings(deadline=None)
@given(TENSORS, SPECS, st.integers(-10, 10))
def test_scaling_by_a_power_of_two_scales_the_result(x, spec, exponent):
    assert torch.equal(quantize(x * 2.0**exponent, spec), quantize(x, spec) * 2.0**exponent)


def calibrated(spec, x) -> FakeQuantize:
    quantizer = FakeQuantize(spec, layer="conv1").eval()
    if spec.role == "weight":
        quantizer.set_range(*weight_range(x, spec))
        return quantizer
    seen = ActivationStats()
    seen.add(x, 0, float(x.min()), float(x.max()))
    unsigned = spec.may_be_unsigned and seen.smallest() >= 0
    quantizer.set_range(*activation_range(seen, spec, unsigned=unsigned), unsigned=unsigned)
    return quantizer


def test_sign_is_decided_by_the_calibrated_minimum_and_kept():
    auto, always = make_spec(may_be_unsigned=True), make_spec()
    positive = torch.tensor([0.0, 5.1])
    quantizer = calibrated(dataclasses.replace(auto, follows=True), positive)
    assert (quantizer.quant_min, quantizer.quant_max) == (0, 255)
    assert quantizer.scale == pytest.approx(5.1 / 255)
    assert calibrated(auto, -positive).quant_min == -128
    assert calibrated(always, positive).quant_min == -128
    quantizer.train()(torch.tensor([-7.0, 5.1]))
    assert quantizer.quant_min == 0
    assert quantizer.scale == pytest.approx(5.1 / 255)


def test_unsigned_grid_has_a_quarter_of_the_error_after_relu():
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).relu()
    errors = [(calibrated(make_spec(may_be_unsigned=auto), x)(x) - x).square().mean() for auto in (False, True)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


def test_modes():
    x, wider = torch.tensor([-1.0, 0.3, 1.0]), torch.tensor([-2.0, 0.3, 2.0])
    quantizer = calibrated(make_spec(bits=2), x)
    expected, scale = quantizer(x), quantizer.scale.clone()
    assert expected.tolist() == [-1, 0, 1]

    quantizer.enabled = False
    assert quantizer(wider) is wider
    quantizer.enabled, quantizer.mode = True, "frozen"
    assert quantizer(wider) is wider
    quantizer.mode = "fixed"
    quantizer.train()(wider)
    assert quantizer.scale == scale
    quantizer.mode = "follow"
    quantizer.eval()(wider)
    assert quantizer.scale == scale
    quantizer.train()(wider)
    assert quantizer.scale == 2 * scale


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_state_dict_pickle_and_deepcopy_carry_the_whole_state(scheme, observer):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).abs()
    follows = observer in FOLLOWING_ACTIVATIONS
    spec = make_spec(scheme=scheme, observer=observer, may_be_unsigned=scheme == "symmetric", follows=follows)
    quantizer = calibrated(spec, x)
    fresh = FakeQuantize(spec, layer="conv1").eval()
    fresh.load_state_dict(quantizer.state_dict())
    for twin in (fresh, copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert torch.equal(twin(x), quantizer(x))
        assert (twin.quant_min, twin.quant_max) == (0, 255)
        move(twin, 3 * x)
    move(quantizer, 3 * x)
    assert fresh.scale == quantizer.scale


def move(quantizer: FakeQuantize, x) -> None:
    """Let the range go on from where it is, with its observer or, where that cannot follow, by hand."""
    if quantizer.spec.follows:
        quantizer.follow(x)
        return
    with pytest.raises(ValueError, match=f"the observer '{quantizer.spec.observer}' offers no range of activations"):
        quantizer.follow(x)
    quantizer.set_range(torch.minimum(quantizer.min_val, x.min()), torch.maximum(quantizer.max_val, x.max()))


@pytest.mark.parametrize("mode", MODES)
def test_a_state_dict_carries_the_mode(mode):
    quantizer, fresh = (calibrated(make_spec(), torch.ones(3)) for _ in range(2))
    quantizer.mode = mode
    fresh.load_state_dict(quantizer.state_dict())
    assert fresh.mode == mode


@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize(
    "x",
    [torch.zeros(9), torch.full((9,), 1e-40), -torch.arange(1.0, 10), torch.arange(1.0, 10), torch.full((9,), 3e37)],
    ids=["zeros", "denormal", "all negative", "all positive", "huge"],
)
def test_degenerate_tensors_stay_finite_and_near(x, observer, scheme, role, bits):
    spec = make_spec(role=role, bits=bits, scheme=scheme, observer=observer, may_be_unsigned=scheme == "symmetric")
    if role == "weight" and OBSERVERS[observer].of_weight is None:
        with pytest.raises(ValueError, match=f"the observer '{observer}' offers no range of weights; take another one"):
            calibrated(spec, x)
        return
    quantizer = calibrated(spec, x)
    actual = quantizer(x)
    assert actual.isfinite().all()
    if observer in SEARCHING:
        return  # which of nine values are worth cutting off is not for this test
    cut = 1e-3 if observer == "percentile" else 0  # the quantile of nine values lies that far inside
    assert ((actual - x).abs() <= 1.01 * quantizer.scale + cut * x.abs()).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_constant_is_kept_exactly_by_its_own_grid(scheme):
    x = torch.full((9,), 0.75)
    assert calibrated(make_spec(scheme=scheme), x)(x).tolist() == pytest.approx([0.75] * 9, rel=1e-6)


def test_an_uncalibrated_quantizer_says_so():
    assert not FakeQuantize(make_spec(), layer="conv1").is_calibrated()
    assert calibrated(make_spec(), torch.ones(3)).is_calibrated()
