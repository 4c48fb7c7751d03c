"""Learned scales (LSQ) against torch's learnable kernels, finite differences and the paper's formulas."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from quant_digits import EXAMPLE, TEST, TRAIN, VAL, trained_model
from torch import Tensor, nn

from quantfair.quant import QatSpec, TrainSpec, calibrate, fit, freeze, predict, prepare
from quantfair.quant.layers.modules import quant_layers, quantizers
from quantfair.quant.quantizer.fake_quantize import (
    FakeQuantize,
    fake_quantize,
    fused_fake_quantize,
    learned_fake_quantize,
)
from quantfair.quant.quantizer.qparams import SMALLEST_SCALE, QuantizerSpec, choose_qparams
from quantfair.quant.training.optimizer import make_optimizer, set_learning_rate

BOUNDS = {"symmetric": (-8, 7), "unsigned": (0, 15), "asymmetric": (0, 15), "8 bits": (-127, 127)}


def qat(**settings) -> QatSpec:
    return QatSpec.model_validate({"method": "qat", "epochs": 2, "lr": 0.002, "scales": "learned", **settings})


def case(kind: str, axis: int | None, *, seed=0) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Values of which some are cut off, none near a tie; a scale; a zero point; a gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 5, 7, generator=generator) + 0.3
    shape = () if axis is None else tuple(n if dim == axis else 1 for dim, n in enumerate(x.shape))
    scale = (torch.rand(shape, generator=generator) + 1) * (0.007 if kind == "8 bits" else 0.12)
    zero_point = torch.full(shape, 4.0) if kind == "asymmetric" else None
    quotient = x / scale
    x = torch.where(((quotient - quotient.floor()) - 0.5).abs() < 1e-2, (quotient.floor() + 0.2) * scale, x)
    return x, scale, zero_point, torch.randn(x.shape, generator=generator)


def gradients(function, x: Tensor, scale: Tensor, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, scale = x.clone().requires_grad_(), scale.clone().requires_grad_()
    output = function(x, scale)
    output.backward(grad_output)
    assert x.grad is not None
    assert scale.grad is not None
    return output.detach(), x.grad, scale.grad


@pytest.mark.parametrize("factor", [1.0, 0.03])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("kind", BOUNDS)
def test_value_and_both_gradients_are_those_of_torchs_learnable_kernels(kind, axis, factor):
    x, scale, zero_point, grad_output = case(kind, axis)
    low, high = BOUNDS[kind]
    offset = torch.zeros_like(scale) if zero_point is None else zero_point

    def aten(x: Tensor, scale: Tensor) -> Tensor:
        if axis is None:
            return torch._fake_quantize_learnable_per_tensor_affine(  # pyright: ignore
                x, scale.reshape(1), offset.reshape(1), low, high, factor
            )
        return torch._fake_quantize_learnable_per_channel_affine(  # pyright: ignore
            x, scale.flatten(), offset.flatten(), axis, low, high, factor
        )

    actual = gradients(
        lambda x, s: learned_fake_quantize(x, s, zero_point, low, high, scale_gradient=factor), x, scale, grad_output
    )
    for one, other in zip(actual, gradients(aten, x, scale, grad_output), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert actual[2].shape == scale.shape
    n_cut = (actual[1] == 0).sum()
    assert 0 < n_cut < x.numel() / 2
    assert torch.equal(actual[0], fake_quantize(x, scale, zero_point, low, high))


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("kind", BOUNDS)
def test_the_gradient_of_the_scale_is_that_of_finite_differences_with_the_rounding_held(kind, axis):
    x, scale, zero_point, grad_output = case(kind, axis)
    low, high = BOUNDS[kind]
    raw, s0, offset = x.double().numpy(), scale.double().numpy(), 0.0 if zero_point is None else 4.0
    rounding = np.rint(raw / s0) - raw / s0  # straight through: it does not move with the scale

    # On the outermost levels the two sides differ: the one that is cut off is not the engine's.
    is_kink = np.isin(np.rint(raw / s0) + offset, (low, high))
    grad_output = torch.where(torch.from_numpy(is_kink), 0, grad_output)

    def loss(s: np.ndarray) -> np.ndarray:
        output = (np.clip(raw / s + rounding + offset, low, high) - offset) * s
        return (output * grad_output.double().numpy()).sum(None if axis is None else (1, 2), keepdims=axis is not None)

    h = s0 * 1e-6
    expected = (loss(s0 + h) - loss(s0 - h)) / (2 * h)
    _, _, actual = gradients(
        lambda x, s: learned_fake_quantize(x, s, zero_point, low, high, scale_gradient=1.0), x, scale, grad_output
    )
    np.testing.assert_allclose(actual.numpy(), expected.reshape(actual.shape), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [-0.01, 0.0, SMALLEST_SCALE / 2, 1e-45])
def test_a_scale_below_the_smallest_number_counts_as_that_and_gets_the_gradient_that_raises_it(value):
    x = torch.tensor([-6.0, 0.0, 0.3, 7.0])
    output, grad_x, grad_scale = gradients(
        lambda x, s: learned_fake_quantize(x, s, None, -8, 7, scale_gradient=0.5), x, torch.tensor(value), -x
    )
    assert output.tolist() == [level * SMALLEST_SCALE for level in (-8, 0, 7, 7)]
    assert grad_x.tolist() == [0, 0, 0, 0]
    assert grad_scale.item() == pytest.approx(0.5 * -(8 * 6 + 7 * 0.3 + 7 * 7))


def test_huge_values_give_finite_gradients():
    x = torch.tensor([3e38, -3e38, 1.0])
    for scale in (1e-3, 1e-38):
        _, _, grad_scale = gradients(
            lambda x, s: learned_fake_quantize(x, s, torch.tensor(3.0), 0, 15, scale_gradient=1.0),
            x, torch.tensor(scale), torch.ones(3),
        )  # fmt: skip
        assert grad_scale.item() == pytest.approx(12 - 3 + 12)


@pytest.mark.parametrize(
    ("spec", "x", "n", "qmax"),
    [
        (QuantizerSpec.of_activation(qat(act_bits=4)), torch.rand(5, 3, 4, 4), 48, 15),
        (QuantizerSpec.of_activation(qat(act_bits=4, act_signed="always")), torch.rand(5, 30), 30, 7),
        (QuantizerSpec.of_weight(qat(weight_bits=3, granularity="per_tensor"), 0), torch.rand(6, 2, 3, 3), 108, 3),
        (QuantizerSpec.of_weight(qat(weight_bits=3), 0), torch.rand(6, 2, 3, 3), 18, 3),
        (QuantizerSpec.of_weight(qat(weight_bits=8, scheme="asymmetric"), 1), torch.rand(6, 2, 3, 3), 54, 255),
    ],
    ids=["activation", "signed activation", "weight", "weight per channel", "transposed weight"],
)
def test_the_scale_gradient_is_lsqs_over_the_root_of_n_qmax(spec, x, n, qmax):
    shape = () if spec.axis is None else tuple(size if dim == spec.axis else 1 for dim, size in enumerate(x.shape))
    quantizer = FakeQuantize(spec, layer="conv", shape=shape)
    quantizer.set_range(torch.zeros(shape), torch.full(shape, 0.5), unsigned=spec.may_be_unsigned)
    quantizer(x).sum().backward()
    scale = quantizer.scale.detach()
    zero_point = None if spec.symmetric else quantizer.zero_point
    _, _, expected = gradients(
        lambda x, s: learned_fake_quantize(x, s, zero_point, *bounds_of(quantizer), scale_gradient=1.0),
        x, scale, torch.ones_like(x),
    )  # fmt: skip
    assert quantizer.scale.grad is not None
    torch.testing.assert_close(quantizer.scale.grad, expected / math.sqrt(n * qmax))
    assert expected.abs().min() > 0


def bounds_of(quantizer: FakeQuantize) -> tuple[int, int]:
    return quantizer.quant_min, quantizer.quant_max


# --- training ---


def images_of(batches):
    return (images_NCHW for images_NCHW, _ in batches.epoch(None))


def calibrated(spec: QatSpec) -> nn.Module:
    model = prepare(trained_model(), spec, EXAMPLE).model
    calibrate(model, images_of(TRAIN))
    return model


def train(model: nn.Module, spec: QatSpec, **changes) -> None:
    base = TrainSpec.model_validate({"epochs": 1, "lr": 0.1, **changes})
    fit(model, base.with_recipe(spec), train=TRAIN, val=VAL, seed=0, log=lambda _: None)


def logits_of(model: nn.Module) -> Tensor:
    return predict(model, images_of(TEST))


@pytest.mark.parametrize(("bits", "observer"), [(2, "mse"), (4, "mse"), (5, "minmax"), (8, "minmax")])
def test_scales_start_by_mse_at_4_bits_and_below_and_by_the_observer_above(bits, observer):
    model = calibrated(qat(weight_bits=bits, act_bits=bits, act_observer="minmax"))
    reference = qat(
        weight_bits=bits, act_bits=bits, weight_observer=observer, act_observer=observer, scales="observed",
        freeze_observers_after=0,
    )  # fmt: skip
    for one, other in zip(quantizers(model), quantizers(calibrated(reference)), strict=True):
        assert one.mode == "learn"
        assert isinstance(one.scale, nn.Parameter)
        assert torch.equal(one.scale, other.scale)


def test_minmax_and_mse_start_4_bits_at_different_scales():
    one = calibrated(qat(weight_bits=4, act_bits=4))
    other = calibrated(qat(weight_bits=4, act_bits=4, scales="observed", act_observer="minmax"))
    pairs = zip(quantizers(one), quantizers(other), strict=True)
    assert sum(not torch.equal(first.scale, second.scale) for first, second in pairs) >= 6


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_scales_are_not_decayed_and_weights_are(optimizer):
    model = calibrated(qat(weight_bits=4))
    made = make_optimizer(model, TrainSpec(epochs=1, lr=0.1, optimizer=optimizer, weight_decay=0.5))
    set_learning_rate(made, 0.1)
    before = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    scales = {f"{name}.scale" for name, module in model.named_modules() if isinstance(module, FakeQuantize)}
    assert len(scales) == 8
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in scales or not before[name].any()), name


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_step_of_adam_moves_a_scale_by_the_rate_relative_to_where_it_started(optimizer):
    model = calibrated(qat(weight_bits=4, granularity="per_tensor"))
    made = make_optimizer(model, TrainSpec(epochs=1, lr=0.1, optimizer=optimizer, weight_decay=0.5))
    set_learning_rate(made, 0.01)
    before = [quantizer.scale.detach().clone() for quantizer in quantizers(model)]
    assert max(before) > 3 * min(before)
    F.cross_entropy(model(TRAIN.images_NCHW[:64]), TRAIN.labels_N[:64]).backward()
    made.step()
    for quantizer, start in zip(quantizers(model), before, strict=True):
        assert abs(quantizer.scale.item() / start.item() - 1) == pytest.approx(0.01, rel=1e-2)


def test_a_step_of_sgd_moves_a_scale_by_its_gradient():
    model = calibrated(qat(weight_bits=4))
    made = make_optimizer(model, TrainSpec(epochs=1, lr=0.1, optimizer="sgd", weight_decay=0.5))
    set_learning_rate(made, 0.01)
    before = [quantizer.scale.detach().clone() for quantizer in quantizers(model)]
    F.cross_entropy(model(TRAIN.images_NCHW[:64]), TRAIN.labels_N[:64]).backward()
    made.step()
    for quantizer, start in zip(quantizers(model), before, strict=True):
        assert quantizer.scale.grad is not None
        torch.testing.assert_close(quantizer.scale.detach(), start - 0.01 * quantizer.scale.grad)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_learned_scales_move_stay_positive_and_freeze_changes_no_logit(scheme, optimizer):
    spec = qat(weight_bits=3, act_bits=3, scheme=scheme)
    model = calibrated(spec)
    before = [quantizer.scale.detach().clone() for quantizer in quantizers(model)]
    train(model, spec, optimizer=optimizer)
    for quantizer, start in zip(quantizers(model), before, strict=True):
        assert quantizer.scale.isfinite().all()
        assert (quantizer.scale > 0).all()
        assert not torch.equal(quantizer.scale, start)
    expected = logits_of(model)
    freeze(model)
    assert torch.equal(logits_of(model), expected)
    assert {quantizer.mode for quantizer in quantizers(model)} == {"fixed", "frozen"}


def test_learned_scales_repair_two_bits():
    spec = qat(weight_bits=2, act_bits=2, epochs=4, lr=0.005)
    model = calibrated(spec)
    broken = (logits_of(model).argmax(1) == TEST.labels_N).double().mean()
    train(model, spec)
    assert (logits_of(model).argmax(1) == TEST.labels_N).double().mean() > broken + 0.1


@pytest.mark.parametrize("value", [-0.5, 0.0])
def test_a_scale_pushed_below_zero_evaluates_as_it_trains_freezes_valid_and_recovers(value):
    model = calibrated(qat(weight_bits=4, act_bits=4, granularity="per_tensor"))
    conv = model.get_submodule("features.block2.conv")
    for quantizer in (conv.act_quantizer, conv.weight_quantizer):
        assert isinstance(quantizer, FakeQuantize)
        x = torch.randn(8, 16, 3, 3)
        with torch.no_grad():
            quantizer.scale.fill_(value)
            evaluated = quantizer(x)
        assert torch.equal(quantizer(x).detach(), evaluated)
        assert evaluated.isfinite().all()
        assert evaluated.abs().max() < 1e-30
    frozen = copy.deepcopy(model)
    expected = logits_of(frozen)
    freeze(frozen)
    assert torch.equal(logits_of(frozen), expected)
    assert all((quantizer.scale >= SMALLEST_SCALE).all() for quantizer in quantizers(frozen))

    made = torch.optim.SGD([conv.act_quantizer.scale], lr=1e-3)  # pyright: ignore
    for _ in range(50):
        made.zero_grad()
        x = torch.rand(8, 16, 4, 4)
        F.mse_loss(conv.act_quantizer(x), x, reduction="sum").backward()  # pyright: ignore
        made.step()
    assert 0 < conv.act_quantizer.scale < 1  # pyright: ignore


# --- the kernels that CUDA uses ---


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("kind", BOUNDS)
def test_the_fused_kernels_compute_the_same_except_at_ties(kind, axis):
    x, scale, zero_point, grad_output = case(kind, axis)
    low, high = BOUNDS[kind]
    found = []
    for function in (fused_fake_quantize, fake_quantize):
        leaf = x.clone().requires_grad_()
        output = function(leaf, scale, zero_point, low, high)
        output.backward(grad_output)
        assert leaf.grad is not None
        found.append((output.detach(), leaf.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert 0 < (found[0][1] == 0).sum() < x.numel() / 2


@pytest.mark.parametrize("shape", [(1, 1, 1), (1,), ()])
def test_the_fused_kernel_takes_one_scale_of_any_shape(shape):
    x = torch.randn(1, 5, 7)
    scale, zero_point = torch.full(shape, 0.1), torch.full(shape, 3.0)
    assert torch.equal(
        fused_fake_quantize(x, scale, zero_point, 0, 15), fused_fake_quantize(x, scale.sum(), zero_point.sum(), 0, 15)
    )
    torch.testing.assert_close(
        fused_fake_quantize(x, scale, zero_point, 0, 15), fake_quantize(x, scale, zero_point, 0, 15), atol=0.11, rtol=0
    )


def test_a_tie_lands_at_most_one_level_away():
    scale = torch.tensor(0.1)
    x = (torch.arange(-8, 8) + 0.5) * scale
    apart = (fused_fake_quantize(x, scale, None, -8, 7) - fake_quantize(x, scale, None, -8, 7)).abs()
    assert apart.max() <= 1.001 * scale


def test_the_fused_kernel_takes_a_scale_that_was_learned(monkeypatch):
    model = calibrated(qat(weight_bits=4))
    expected = logits_of(model)
    freeze(model)
    monkeypatch.setattr("quantfair.quant.quantizer.fake_quantize.fake_quantize", fused_fake_quantize)
    images_NCHW = TEST.images_NCHW[:64].clone().requires_grad_()
    logits = model.eval()(images_NCHW)
    logits.sum().backward()
    assert images_NCHW.grad is not None
    assert (logits.argmax(1) == expected[:64].argmax(1)).double().mean() > 0.9


def test_the_oracle_of_the_start_is_a_search():
    low, high = torch.tensor(-1.0), torch.tensor(2.0)
    assert choose_qparams(low, high, quant_min=-8, quant_max=7, symmetric=True)[0] == pytest.approx(2 / 7)
    layers = dict(quant_layers(calibrated(qat(weight_bits=4, granularity="per_tensor"))))
    peak = layers["classifier"].weight.abs().max() / 7
    assert layers["classifier"].weight_quantizer.scale < peak  # pyright: ignore
