"""Preset iao against numbers that the original quantizer printed: the oracle vectors O1 to O12, of which O10 and O11
were also reproduced from the formulas alone. Levels are compared as integers, values at the digits that were printed.
"""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantfair.quant import Add, ModelSpec, PtqSpec, QatSpec, build_model, calibrate, freeze, prepare
from quantfair.quant.iao import quantizer as iao_quantizer
from quantfair.quant.iao.layers import IaoConv2d
from quantfair.quant.iao.quantizer import IaoQuantizer, IaoQuantizerSpec, kth_magnitude, observe, round_half_away
from quantfair.quant.layers.modes import bypassed
from quantfair.quant.layers.modules import quant_layers
from quantfair.quant.specs import methods

EPS = 1.1920929e-07
X = torch.tensor([-1, -0.6, -0.25, 0, 0.1, 0.37, 0.9, 2])


def spec_of(role, bits=8, *, symmetric=True, observer="minmax", percentile=0.9999, axis=None) -> IaoQuantizerSpec:
    return IaoQuantizerSpec(role, bits, symmetric, observer, percentile, axis=axis, follows=True)


def quantizer_of(role, bits=8, *, shape=(), **settings) -> IaoQuantizer:
    """A quantizer that follows, as in training."""
    return IaoQuantizer(spec_of(role, bits, **settings), layer="layer", shape=shape).train()


def original_levels(quantizer: IaoQuantizer, y: Tensor) -> list[int]:
    """The integers y / scale, as the oracle lists them: they include the zero point."""
    return (y / quantizer.scale).round().int().tolist()


def gradient(quantizer: IaoQuantizer, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    quantizer(x).sum().backward()
    assert x.grad is not None
    return x.grad


def close(actual: Any, expected: Any, rtol: float = 2e-7, atol: float = 0) -> None:
    torch.testing.assert_close(actual.detach(), torch.tensor(expected), rtol=rtol, atol=atol)


def test_o1_ties_round_away_from_zero():
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 0.49999997, -0.49999997, 1.4999999])
    assert round_half_away(x).tolist() == [-3, -2, -1, 1, 2, 3, 4, 1, -1, 1]


@pytest.mark.parametrize(
    ("bits", "grids"),
    [
        (2, [(-1, 1), (-2, 1), (0, 2), (0, 3)]),
        (3, [(-3, 3), (-4, 3), (0, 6), (0, 7)]),
        (4, [(-7, 7), (-8, 7), (0, 14), (0, 15)]),
        (8, [(-127, 127), (-128, 127), (0, 254), (0, 255)]),
        (16, [(-32767, 32767), (-32768, 32767), (0, 65534), (0, 65535)]),
    ],
)
def test_o2_grids(bits, grids):
    cases = [("weight", True), ("activation", True), ("weight", False), ("activation", False)]
    found = [quantizer_of(role, bits, symmetric=symmetric) for role, symmetric in cases]
    assert [(quantizer.quant_min, quantizer.quant_max) for quantizer in found] == grids


O3 = [
    ("activation", True, 4, 0.2666666806, 0, [-4, -2, -1, 0, 0, 1, 3, 7]),
    ("weight", True, 4, 0.2857142985, 0, [-3, -2, -1, 0, 0, 1, 3, 7]),
    ("activation", True, 8, 0.01568627544, 0, [-64, -38, -16, 0, 6, 24, 57, 127]),
    ("weight", True, 8, 0.01574803144, 0, [-64, -38, -16, 0, 6, 23, 57, 127]),
    ("activation", True, 16, 6.103608757e-05, 0, [-16384, -9830, -4096, 0, 1638, 6062, 14745, 32767]),
    ("weight", True, 16, 6.10370189e-05, 0, [-16384, -9830, -4096, 0, 1638, 6062, 14745, 32767]),
    ("activation", False, 4, 0.200000003, -5, [-5, -3, -1, 0, 1, 2, 5, 10]),
    ("weight", False, 4, 0.2142857164, -5, [-5, -3, -1, 0, 0, 2, 4, 9]),
    ("activation", False, 8, 0.01176470611, -85, [-85, -51, -21, 0, 9, 31, 77, 170]),
    ("weight", False, 8, 0.01181102358, -85, [-85, -51, -21, 0, 8, 31, 76, 169]),
    ("activation", False, 16, 4.577706568e-05, -21845, [-21845, -13107, -5461, 0, 2185, 8083, 19661, 43690]),
    ("weight", False, 16, 4.577776417e-05, -21845, [-21845, -13107, -5461, 0, 2184, 8083, 19660, 43689]),
]


@pytest.mark.parametrize(("role", "symmetric", "bits", "scale", "zero_point", "levels"), O3)
def test_o3_scales_and_levels(role, symmetric, bits, scale, zero_point, levels):
    quantizer = quantizer_of(role, bits, symmetric=symmetric)
    assert original_levels(quantizer, quantizer(X)) == levels
    close(quantizer.scale, scale)
    assert quantizer.zero_point == -zero_point


@pytest.mark.parametrize(("role", "symmetric", "bits"), [case[:3] for case in O3])
def test_o3_gradient_is_1_but_where_the_largest_value_rounds_off_the_grid(role, symmetric, bits):
    expected = torch.ones(8)
    if (role, symmetric, bits) == ("activation", True, 16):
        expected[-1] = 0  # 32767.5 rounds to 32768
    assert torch.equal(gradient(quantizer_of(role, bits, symmetric=symmetric), X), expected)


@pytest.mark.parametrize(
    ("x", "symmetric", "scale", "zero_point", "y"),
    [
        ([0.0, 0, 0], True, EPS, 0, [0.0, 0, 0]),
        ([1.0, 2, 3], False, 0.007843138, 127, [0.99607849, 2, 2.99607849]),
        ([-3.0, -2, -1], False, 0.007843138, -382, [-2.99607849, -2, -0.99607849]),
        ([3.0, 3], False, EPS, 25165824, [3.0, 3]),
    ],
)
def test_o4_degenerate_ranges(x, symmetric, scale, zero_point, y):
    quantizer = quantizer_of("activation", symmetric=symmetric)
    close(quantizer(torch.tensor(x)), y)
    close(quantizer.scale, scale)
    assert quantizer.zero_point == -zero_point


def test_o4_zeros_keep_their_gradient():
    assert gradient(quantizer_of("activation"), torch.zeros(3)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("observer", "ranges"),
    [("ema", [(-1.0, 2.0), (-1.2, 1.9), (-1.08, 2.21)]), ("minmax", [(-1.0, 2.0), (-3.0, 2.0), (-3.0, 5.0)])],
)
@pytest.mark.parametrize("role", ["weight", "activation"])
def test_o5_observers(role, observer, ranges):
    quantizer = quantizer_of(role, observer=observer)
    for batch, (low, high) in zip([[-1.0, 2.0], [-3.0, 1.0], [0.0, 5.0]], ranges, strict=True):
        quantizer(torch.tensor(batch))
        close(quantizer.min_val, low)
        close(quantizer.max_val, high)


@pytest.mark.parametrize(
    ("percentile", "n", "expected"),
    [
        (0.9999, 10, 9),
        (0.999999, 10, 9),
        (0.9999, 10_000, 9_999),
        (0.999999, 1_000_000, 999_999),
        (0.999999, 2_000_000, 1_999_998),
        (0.9, 10, 9),
        (1.0, 10, 10),
        (0.99, 7, 6),
    ],
)
def test_o6_percentile_takes_the_kth_magnitude(percentile, n, expected):
    assert kth_magnitude(torch.arange(1.0, n + 1), percentile) == expected


def test_o6_percentile_is_of_magnitudes_and_averaged_over_batches():
    assert kth_magnitude(torch.tensor([-10.0, *range(1, 10)]), 0.9) == 9
    quantizer = quantizer_of("activation", observer="percentile", percentile=0.9)
    for factor, high in ((1, 9.0), (2, 9.9), (4, 12.51)):
        quantizer(torch.arange(1.0, 11) * factor)
        close(quantizer.max_val, high)
        assert quantizer.min_val == 0


def test_the_percentile_of_one_value_and_of_channels_last_images_exists_unlike_in_the_original():
    assert kth_magnitude(torch.tensor([-2.0]), 0.9999) == 2
    images_NCHW = torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    assert kth_magnitude(images_NCHW, 0.9) == 20


@pytest.mark.parametrize(
    ("symmetric", "scale", "zero_point", "y"),
    [
        (True, [0.2857142985, 0.0142857144, EPS], [0.0, 0, 0], [0.8571429, -2, 0.1, 0.0571429, 0, 0]),
        (False, [0.2142857, 0.0035714286, EPS], [-9.0, 14, 0], [1.0714285, -1.9285715, 0.1, 0.05, 0, 0]),
    ],
)
def test_o7_a_convolution_has_a_grid_per_filter(symmetric, scale, zero_point, y):
    weight_OIHW = torch.tensor([[1, -2], [0.1, 0.05], [0, 0]]).reshape(3, 2, 1, 1)
    quantizer = quantizer_of("weight", 4, symmetric=symmetric, axis=0, shape=(3, 1, 1, 1))
    close(quantizer(weight_OIHW).flatten(), y, atol=5e-8)
    close(quantizer.scale.flatten(), scale, atol=5e-11 if symmetric else 5e-9)
    assert quantizer.zero_point.flatten().tolist() == [-value for value in zero_point]


def test_o7_a_linear_layer_has_a_grid_per_row():
    quantizer = quantizer_of("weight", 8, axis=0, shape=(2, 1))
    y = quantizer(torch.tensor([[1, -2, 0.3], [0.1, 0.05, -0.02]]))
    close(y.flatten(), [1.007874, -2, 0.2992126, 0.1, 0.0503937, -0.019685], atol=5e-8)
    close(quantizer.scale.flatten(), [0.0157480314, 0.0007874016], atol=5e-11)


SYMMETRIC_X = [-2, -1.6, -1.45, -1, 1, 1.51, 1.6, 1.5]
SYMMETRIC_Y = [-1.6, -1.6, -1.4, -1, 1, 1.4, 1.4, 1.4]


@pytest.mark.parametrize(
    ("symmetric", "seen", "x", "y", "mask"),
    [
        (True, [-1, 1.5], SYMMETRIC_X, SYMMETRIC_Y, [0, 0, 1, 1, 1, 0, 0, 0]),
        (True, [-1, 1.5], [-1.5, 1.39, 1.4, 1.45], [-1.6, 1.4, 1.4, 1.4], [1, 1, 1, 1]),
        (
            False,
            [-1, 0, 3],
            [-1.3, -1.05, 0.5, 2.9, 3.05],
            [-1.0666667, -1.0666667, 0.5333334, 2.9333334, 2.9333334],
            [0, 0, 1, 1, 0],
        ),
    ],
    ids=["symmetric", "ties", "asymmetric"],
)
def test_o8_gradient_mask_and_that_it_survives_a_reload(symmetric, seen, x, y, mask):
    calibrated = quantizer_of("activation", 4, symmetric=symmetric)
    calibrated(torch.tensor(seen))
    reloaded = quantizer_of("activation", 4, symmetric=symmetric)
    reloaded.load_state_dict(calibrated.state_dict())
    for quantizer in (calibrated.eval(), reloaded.eval()):
        close(quantizer(torch.tensor(x)), y, atol=5e-8)
        assert gradient(quantizer, torch.tensor(x)).tolist() == mask


class _Sum(nn.Module):
    """An addition of a tensor and a part of it, behind a layer so that there is a weight to quantize."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.add = nn.Linear(1, 1), Add()

    def forward(self, pair_2N: Tensor) -> Tensor:
        self.linear(pair_2N[0][:, None])
        return self.add(pair_2N[0], pair_2N[1])


def added(pair_2N: list[list[float]], **settings) -> tuple[Tensor, Any]:
    """Add two inputs in training mode under the preset; return the sum and the quantizer of the addition."""
    model: Any = prepare(_Sum(), qat(**settings), torch.zeros(2, 2)).model.train()
    return model(torch.tensor(pair_2N)), model.add.act_quantizer


def qat(**settings) -> QatSpec:
    return QatSpec.model_validate({"method": "qat", "preset": "iao", "epochs": 1, "lr": 0.01, **settings})


def test_o9_residual_addition_has_one_scale_from_both_observers():
    out, quantizer = added([[-1, 2], [-3, 1]])
    close(out, [-4.0235295, 3.0117648])
    close(quantizer.scale, 0.0235294122)
    assert (quantizer.min_val, quantizer.max_val) == (-3, 2)


def test_o9_with_percentile():
    _, quantizer = added([list(range(10)), [-3 * i for i in range(10)]], act_observer="percentile", percentile=0.9)
    close(quantizer.scale, 0.1882353, atol=5e-8)


def test_residual_observers_rest_in_eval_mode_unlike_in_the_original():
    model = prepare(_Sum(), qat(), torch.zeros(2, 2)).model.train()
    model(torch.tensor([[-1.0, 2], [-3, 1]]))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.eval()(torch.tensor([[-100.0, 2], [-3, 1]]))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


BATCH = torch.tensor([1.0, 2, 3, 5]).reshape(1, 1, 2, 2)


def fused(bias: float | None = None, **settings) -> Any:
    """The layer of O10, prepared and in training mode: convolution (w = 2) and batch norm (gamma 1.5, beta .5)."""
    convolution, batchnorm = nn.Conv2d(1, 1, 1, bias=bias is not None), nn.BatchNorm2d(1)
    nn.init.constant_(convolution.weight, 2)
    if convolution.bias is not None and bias is not None:
        nn.init.constant_(convolution.bias, bias)
    nn.init.constant_(batchnorm.weight, 1.5)
    nn.init.constant_(batchnorm.bias, 0.5)
    model = prepare(nn.Sequential(convolution, batchnorm), qat(**settings), BATCH).model
    assert isinstance(model.get_submodule("0"), IaoConv2d)
    return model.train()


def values(model: nn.Module, images_NCHW: Tensor = BATCH) -> Tensor:
    return model(images_NCHW).flatten()


@pytest.mark.parametrize("bias", [None, 0.7])
@pytest.mark.parametrize("init", ["fp32", "scratch"])
@pytest.mark.parametrize("bn_fold", ["fold", "fold_calibrated"])
def test_o10_without_quantizers_training_has_the_unbiased_variance(bn_fold, init, bias):
    model = fused(bias, bn_fold=bn_fold, init=init)
    with bypassed(model):
        # Terms of nearly 2 cancel in the second value, each known to 1.2e-7: which way they round is the machine's.
        # With a bias, which cancels too, they are larger.
        atol = 2.4e-7 if bias is None else 5e-7
        close(values(model), [-1.0370419, -0.1587323, 0.7195774, 2.4761968], rtol=5e-7, atol=atol)
        if init == "fp32" and bias is None:
            close(values(model.eval()), [2.0129445, 4.0997643, 6.1865840, 10.3602238], rtol=5e-7)


@pytest.mark.parametrize("bn_fold", ["fold", "fold_calibrated"])
def test_o10_running_statistics_start_from_the_first_batch_or_from_the_loaded_ones(bn_fold):
    scratch, loaded = fused(bn_fold=bn_fold, init="scratch"), fused(bn_fold=bn_fold, init="fp32")
    for model, mean, variance in ((scratch, 5.5, 11.666667), (loaded, 0.55, 2.0666666)):
        values(model)
        close(model[0].batchnorm.running_mean, [mean], rtol=5e-7)
        close(model[0].batchnorm.running_var, [variance], rtol=5e-7)
    values(scratch, 2 * BATCH)
    close(scratch[0].batchnorm.running_mean, [6.05], rtol=5e-7)
    close(scratch[0].batchnorm.running_var, [15.1666667], rtol=5e-7)


def test_o10_folded_with_batch_statistics_evaluation_is_cut_off():
    model = fused(bn_fold="fold")
    close(values(model), [-1.0198201, -0.1587323, 0.7367993, 2.4589753], rtol=5e-7, atol=1e-7)
    close(model[0].act_quantizer.scale, 0.03921569, rtol=5e-7)
    close(model[0].weight_quantizer.scale.flatten(), [0.00691582], rtol=1e-6)
    close(values(model.eval()), [0.821656, 1.6827438, 2.5782754, 4.3004513], rtol=5e-7)


def test_o10_calibrated_fold_evaluates_on_the_range_it_has_learned():
    model = fused(bn_fold="fold_calibrated")
    values(model)
    close(model[0].weight_quantizer.scale.flatten(), [0.01643165], rtol=5e-7)
    close(values(model.eval()), [2.0538626, 4.0997643, 6.2275023, 10.3193064], rtol=5e-7)


@pytest.mark.parametrize("bn_fold", ["fold", "fold_calibrated"])
def test_o10_frozen_batch_norm_folds_with_running_statistics_also_in_training(bn_fold):
    model = fused(bn_fold=bn_fold)
    model[0].batchnorm.eval()
    with bypassed(model):
        close(values(model), [3.499985, 6.49997, 9.499955, 15.499925], rtol=5e-7)


def test_o10_the_range_of_weights_never_shrinks():
    model, scales = fused(bn_fold="fold"), []
    for factor in (1, 0.1, 10):
        values(model, factor * BATCH)
        scales.append(model[0].weight_quantizer.scale.item())
    close(torch.tensor(scales), [0.006915824, 0.069155313, 0.069155313], rtol=5e-7)


def test_o10_freezing_leaves_the_evaluated_values():
    model = fused(bn_fold="fold_calibrated")
    values(model)
    expected = values(model.eval())
    freeze(model)
    assert torch.equal(values(model), expected)
    assert model[0].batchnorm is None


O11 = [
    (4, "symmetric", 0.222222224, 0, [0.1642857, 0.05, 0.1642857], 0,
     [-1.03175, 1.56032, -3.22222, 1.19524], -1.07619),
    (8, "symmetric", 0.0130718956, 0, [0.0090551181, 0.0027559055, 0.0090551181], 0,
     [-1.16014, 1.52159, -3.23228, 1.27231], -0.41624),
    (16, "symmetric", 5.08634039e-05, 0, [3.5096284e-05, 1.0681478e-05, 3.5096284e-05], 0,
     [-1.14996, 1.51668, -3.23333, 1.26672], -0.40010),
    (4, "asymmetric", 0.222222224, -8, [0.05] * 3, [-23, -7, 9],
     [-1.42222, 1.21111, -3.33333, 1.03333], -0.46667),
    (8, "asymmetric", 0.0130718956, -127, [0.0027559055] * 3, [-417, -127, 163],
     [-1.18144, 1.49452, -3.25464, 1.24444], -0.40366),
    (16, "asymmetric", 5.08634039e-05, -32768, [1.0681478e-05] * 3, [-107663, -32767, 42129],
     [-1.15006, 1.5166, -3.23336, 1.26661], -0.40001),
    (4, "symmetric", 0.222222224, 0, 0.1642857, 0, [-1.03175, 1.56032, -3.22222, 1.19524], -1.28095),
    (8, "symmetric", 0.0130718956, 0, 0.0090551181, 0, [-1.16014, 1.52159, -3.23228, 1.27231], -0.42487),
    (16, "symmetric", 5.08634039e-05, 0, 3.5096284e-05, 0, [-1.14996, 1.51668, -3.23333, 1.26672], -0.40007),
    (4, "asymmetric", 0.222222224, -8, 0.1642857, -7, [-1.43333, 1.04921, -3.33175, 0.86667], -1.06190),
    (8, "asymmetric", 0.0130718956, -127, 0.0090551181, -127, [-1.18109, 1.49472, -3.25324, 1.24284], -0.40522),
    (16, "asymmetric", 5.08634039e-05, -32768, 3.5096284e-05, -32767,
     [-1.15005, 1.51657, -3.23335, 1.26664], -0.40003),
]  # fmt: skip


def golden_layer() -> tuple[nn.Conv2d, Tensor]:
    layer = nn.Conv2d(2, 3, 2)
    with torch.no_grad():
        layer.weight.copy_(((torch.arange(24) - 11.5) / 10).reshape(3, 2, 2, 2))
        assert layer.bias is not None
        layer.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return layer, ((torch.arange(18) * 7 % 11 - 5) / 3).reshape(1, 2, 3, 3)


@pytest.mark.parametrize(("bits", "scheme", "act_scale", "act_zero", "scale", "zero", "y", "total"), O11)
def test_o11_a_whole_layer(bits, scheme, act_scale, act_zero, scale, zero, y, total):
    layer, x = golden_layer()
    granularity = "per_channel" if isinstance(scale, list) else "per_tensor"
    settings = qat(weight_bits=bits, act_bits=bits, scheme=scheme, granularity=granularity)
    model = prepare(nn.Sequential(layer), settings, x).model.train()
    out = model(x).flatten()
    ((_, quantized),) = quant_layers(model)
    weight_quantizer, act_quantizer = quantized.weight_quantizer, quantized.act_quantizer
    assert isinstance(weight_quantizer, IaoQuantizer)
    assert isinstance(act_quantizer, IaoQuantizer)
    close(act_quantizer.scale, act_scale)
    assert act_quantizer.zero_point == -act_zero
    close(weight_quantizer.scale.flatten(), scale if isinstance(scale, list) else [scale], rtol=3e-7)
    zeros = zero if isinstance(zero, list) else [zero] * weight_quantizer.scale.numel()
    assert weight_quantizer.zero_point.flatten().tolist() == [-value for value in zeros]
    close(out[:4], y, atol=6e-6, rtol=0)
    close(out.sum(), total, atol=6e-6, rtol=0)


def test_o11_with_percentile_ptq():
    layer, x = golden_layer()
    settings = PtqSpec(method="ptq", preset="iao", act_observer="percentile", percentile=0.9)
    model = prepare(nn.Sequential(layer), settings, x).model
    calibrate(model, [x])
    ((_, quantized),) = quant_layers(model)
    assert isinstance(quantized.act_quantizer, IaoQuantizer)
    close(quantized.act_quantizer.max_val, 1.6666666)
    close(quantized.act_quantizer.scale, 0.0130718956)
    freeze(model)
    close(model(x).sum(), -0.41624, atol=6e-6, rtol=0)


# as in the original: conv, linear, max-pool, average pool, add
COUNTS = {
    "nin": {"Conv2d": 9, "MaxPool2d": 2, "AdaptiveAvgPool2d": 1},
    "nin_gc": {"Conv2d": 9, "MaxPool2d": 2, "AdaptiveAvgPool2d": 1},
    "resnet18": {"Conv2d": 20, "Add": 8, "AdaptiveAvgPool2d": 1, "Linear": 1},
    "trident": {"Conv2d": 12, "Linear": 12, "MaxPool2d": 3},
}
PARAMETERS = {"nin": 969_822, "nin_gc": 591_390, "resnet18": 11_173_962, "trident": 6_410_544}


@pytest.mark.parametrize("bn_fold", ["none", "fold"])
@pytest.mark.parametrize("name", COUNTS)
def test_o12_quantized_modules_and_parameters(name, bn_fold):
    faces = name == "trident"
    spec = ModelSpec.model_validate({"name": name, **({"heads": "all"} if faces else {})})
    shape = {"in_channels": 1, "n_classes": 5, "task": "ethnicity"} if faces else {"in_channels": 3, "n_classes": 10}
    model = build_model(spec, seed=0, **shape)  # pyright: ignore[reportArgumentType]
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    side = 48 if faces else 32
    model, layers = prepare(model, qat(bn_fold=bn_fold), torch.zeros(2, shape["in_channels"], side, side))
    kinds = [layer.kind for layer in layers if layer.status == "quantized"]
    assert {kind: kinds.count(kind) for kind in kinds} == COUNTS[name]
    n_fused = sum(isinstance(module, IaoConv2d) for module in model.modules())
    assert n_fused == (0 if bn_fold == "none" or faces else COUNTS[name]["Conv2d"])


def test_o12_calibration_runs_the_network_once_per_batch():
    layer, x = golden_layer()
    model, calls = prepare(nn.Sequential(layer), PtqSpec(method="ptq", preset="iao"), x).model, []
    model.register_forward_pre_hook(lambda _module, _inputs: calls.append(1))
    calibrate(model, [x] * 10)
    assert len(calls) == 10


def test_observing_keeps_the_shape_of_a_channel_grid():
    weight_OI = torch.tensor([[1.0, 2], [3, 5]])
    before = (torch.full((2, 1), torch.nan), torch.full((2, 1), torch.nan))
    low, high = observe(before, weight_OI, spec_of("weight", axis=0))
    assert (low.tolist(), high.tolist()) == ([[1], [3]], [[2], [5]])


def test_an_observer_that_the_preset_names_and_does_not_have_is_an_error_at_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(methods.IAO_HAS, "act_observer", ("ema", "percentile", "minmax", "kl"))
    found = importlib.util.spec_from_file_location("iao_again", str(iao_quantizer.__file__))
    assert found is not None
    assert found.loader is not None
    with pytest.raises(
        ValueError, match=r"has code for minmax, ema, percentile, and IAO_HAS names ema, percentile, .*kl"
    ):
        found.loader.exec_module(importlib.util.module_from_spec(found))
