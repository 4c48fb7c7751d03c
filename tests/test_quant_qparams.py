import pytest
import torch

from quantfair.quant.quantizer.qparams import SMALLEST_SCALE, QuantizerSpec, choose_qparams
from quantfair.quant.specs.methods import PtqSpec


def weight_spec(**settings) -> QuantizerSpec:
    return QuantizerSpec.of_weight(PtqSpec(method="ptq", **settings), channel_axis=0)


def act_spec(**settings) -> QuantizerSpec:
    return QuantizerSpec.of_activation(PtqSpec(method="ptq", **settings))


@pytest.mark.parametrize(
    ("spec", "unsigned", "expected"),
    [
        (weight_spec(weight_bits=8), False, (-127, 127)),
        (weight_spec(weight_bits=2), False, (-1, 1)),
        (weight_spec(weight_bits=16), False, (-32767, 32767)),
        (weight_spec(weight_bits=4, scheme="asymmetric"), False, (0, 15)),
        (act_spec(act_bits=8), False, (-128, 127)),
        (act_spec(act_bits=8), True, (0, 255)),
        (act_spec(act_bits=2), False, (-2, 1)),
        (act_spec(act_bits=16), True, (0, 65535)),
        (act_spec(act_bits=16, scheme="asymmetric"), False, (0, 65535)),
    ],
)
def test_grid_is_the_one_of_the_design(spec, unsigned, expected):
    assert spec.grid(unsigned=unsigned) == expected


def test_specs_take_their_half_of_the_settings():
    settings = {"weight_bits": 4, "act_bits": 6, "weight_observer": "ema", "act_observer": "percentile"}
    weight, activation = weight_spec(**settings), act_spec(**settings)
    assert (weight.role, weight.bits, weight.observer, weight.axis) == ("weight", 4, "ema", 0)
    assert (activation.role, activation.bits, activation.observer) == ("activation", 6, "percentile")
    assert activation.axis is None
    assert weight_spec(granularity="per_tensor").axis is None
    assert act_spec().may_be_unsigned
    assert not act_spec(act_signed="always").may_be_unsigned
    assert not act_spec(scheme="asymmetric").may_be_unsigned


def qparams(low: float, high: float, quant_min: int, quant_max: int, *, symmetric: bool) -> tuple[float, float]:
    scale, zero_point = choose_qparams(
        torch.tensor(low), torch.tensor(high), quant_min=quant_min, quant_max=quant_max, symmetric=symmetric
    )
    assert scale.dtype == zero_point.dtype == torch.float32
    return scale.item(), zero_point.item()


@pytest.mark.parametrize(
    ("low", "high", "quant_min", "quant_max", "expected"),
    [(-1, 2, -127, 127, 2 / 127), (-4, 2, -128, 127, 4 / 127), (0, 3, 0, 255, 3 / 255), (-9, 3, 0, 255, 3 / 255)],
)
def test_symmetric_scale_is_peak_over_quant_max(low, high, quant_min, quant_max, expected):
    scale, zero_point = qparams(low, high, quant_min, quant_max, symmetric=True)
    assert scale == pytest.approx(expected, rel=1e-6)
    assert zero_point == 0


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-1, 3, (4 / 255, 64)),  # 255 / 4 = 63.75
        (2, 4, (4 / 255, 0)),  # extended down to 0
        (-4, -2, (4 / 255, 255)),  # extended up to 0
    ],
)
def test_asymmetric_range_contains_zero(low, high, expected):
    scale, zero_point = qparams(low, high, 0, 255, symmetric=False)
    assert scale == pytest.approx(expected[0], rel=1e-6)
    assert zero_point == expected[1]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-40, -1e-40])
def test_scale_of_a_vanishing_range_is_the_smallest_normal_number(value, symmetric):
    scale, zero_point = qparams(min(value, 0), max(value, 0), 0 if not symmetric else -127, 127, symmetric=symmetric)
    assert scale == SMALLEST_SCALE == 2.0**-126
    assert zero_point == 0


def test_scale_of_a_small_16_bit_channel_is_not_floored():
    # A floor of 1.2e-7 (torch.ao's) would coarsen this grid by a factor of four.
    assert qparams(-1e-3, 1e-3, -32767, 32767, symmetric=True)[0] == pytest.approx(1e-3 / 32767, rel=1e-6)
