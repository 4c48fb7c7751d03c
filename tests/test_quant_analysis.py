"""What quantization did to each layer, against numpy and against models that were prepared with overrides."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from quant_digits import EXAMPLE, TEST, TRAIN, VAL, same_state, trained_model
from torch import nn

from quantfair.quant import (
    Add,
    LayerOverride,
    LayerReport,
    PtqSpec,
    QatSpec,
    TrainSpec,
    calibrate,
    collect,
    fit,
    freeze,
    measure_sqnr,
    predict,
    predict_each_layer,
    prepare,
    without_quantizers,
)
from quantfair.quant.analysis.layer_noise import quantized_layers
from quantfair.quant.layers.modules import quantizers


def images_of(batches):
    return (images_NCHW for images_NCHW, _ in batches.epoch(None))


def ptq(*, bits: int = 4, **settings) -> PtqSpec:
    return PtqSpec(method="ptq", weight_bits=bits, act_bits=bits, **settings)


def quantize(model: nn.Module, spec: PtqSpec | QatSpec, images: list[torch.Tensor]) -> tuple[nn.Module, nn.Module]:
    """Return the frozen model and its twin."""
    prepared = prepare(model, spec, images[0][:2]).model
    twin = without_quantizers(prepared)
    calibrate(prepared, collect(model, images))
    freeze(prepared)
    return prepared, twin


def quantize_digits(spec: PtqSpec) -> tuple[nn.Module, nn.Module]:
    return quantize(trained_model(), spec, list(images_of(TRAIN)))


def db(x: np.ndarray, quantized: np.ndarray) -> float:
    return float(10 * np.log10((x**2).sum() / ((x - quantized) ** 2).sum()))


def to_grid(x: np.ndarray, scale: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.clip(np.round(x / scale), low, high) * scale


class TwoLayers(nn.Module):
    """Two linear layers with an activation in place between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.second(self.relu(self.first(x)))


def test_both_ratios_of_two_layers_are_those_that_numpy_computes() -> None:
    torch.manual_seed(0)
    model, images = TwoLayers(), [torch.randn(40, 6), torch.randn(24, 6)]
    reports = measure_sqnr(*quantize(model, ptq(), images), images)
    x = torch.cat(images).double().numpy()
    first, second = (layer.weight.detach().double().numpy() for layer in (model.first, model.second))
    first_q, second_q = (to_grid(w, abs(w).max(1, keepdims=True) / 7, -7, 7) for w in (first, second))
    hidden = np.maximum(x @ first.T, 0)
    hidden_q = np.maximum(to_grid(x, abs(x).max() / 7, -8, 7) @ first_q.T, 0)
    output_q = to_grid(hidden_q, hidden.max() / 15, 0, 15) @ second_q.T
    before_relu_q = to_grid(x, abs(x).max() / 7, -8, 7) @ first_q.T
    assert [report.weight_sqnr_db for report in reports] == pytest.approx([db(first, first_q), db(second, second_q)])
    expected = [db(x @ first.T, before_relu_q), db(hidden @ second.T, output_q)]
    assert [report.sqnr_db for report in reports] == pytest.approx(expected, abs=1e-3)
    assert [report.reason for report in reports] == [None, None]


def test_a_bit_more_is_worth_about_six_decibels() -> None:
    weights = [
        np.array([r.weight_sqnr_db for r in measure_sqnr(*quantize_digits(ptq(bits=bits))) if r.weight_sqnr_db])
        for bits in (6, 7, 8)
    ]
    for less, more in pairwise(weights):
        assert (more - less).mean() == pytest.approx(6.02, abs=0.5)


def test_the_twin_is_the_float_model_and_knows_nothing_of_what_happens_to_the_other() -> None:
    model, twin = quantize_digits(ptq())
    expected = predict(trained_model(), images_of(TEST))
    assert torch.allclose(predict(twin, images_of(TEST)), expected, atol=1e-4)
    assert not list(quantizers(twin))
    assert not torch.equal(predict(model, images_of(TEST)), expected)


def test_one_layer_alone_is_a_model_whose_other_layers_were_left_in_float() -> None:
    for spec in (ptq(), ptq(bn_fold="none", scheme="asymmetric")):
        model, twin = quantize_digits(spec)
        before = predict(twin, images_of(TEST))
        found = dict(predict_each_layer(model, twin, lambda: images_of(TEST)))
        assert list(found) == quantized_layers(model)
        for layer, logits_NK in found.items():
            alone = (("*", LayerOverride(quantize=False)), (layer, LayerOverride(quantize=True)))
            expected, _ = quantize_digits(spec.model_copy(update={"overrides": alone}))
            assert quantized_layers(expected) == [layer]
            assert torch.equal(logits_NK, predict(expected, images_of(TEST)))
            assert not torch.equal(logits_NK, before)
        assert torch.equal(predict(twin, images_of(TEST)), before)


@pytest.mark.parametrize("settings", [{}, {"bn_fold": "fold"}, {"bn_fold": "fold_calibrated", "scales": "learned"}])
def test_after_qat_the_twin_has_the_trained_weights_in_float(settings: dict) -> None:
    spec = QatSpec(method="qat", epochs=1, lr=0.001, weight_bits=4, act_bits=16, **settings)
    model = prepare(trained_model(), spec, EXAMPLE).model
    calibrate(model, images_of(TRAIN))
    fit(model, TrainSpec(epochs=1, lr=0.001), train=TRAIN, val=VAL, seed=0, log=lambda _: None)
    for quantizer in quantizers(model):
        quantizer.enabled = False
    in_float = predict(model, images_of(VAL))
    for quantizer in quantizers(model):
        quantizer.enabled = True
    twin = without_quantizers(model)
    freeze(model)
    assert torch.equal(predict(twin, images_of(VAL)), in_float)
    reports = [report for report in measure_sqnr(model, twin) if report.status == "quantized"]
    assert all(10 < (report.weight_sqnr_db or 0) < 40 for report in reports)
    drift = [
        (logits_NK - in_float).abs().max() for _, logits_NK in predict_each_layer(model, twin, lambda: images_of(VAL))
    ]
    assert len(drift) == len(reports)
    assert all(0 < value < 20 for value in drift)


class Shared(nn.Module):
    """One layer called twice, and a sum of two feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.add, self.fc = nn.Conv2d(2, 2, 3, padding=1), Add(), nn.Linear(32, 3)

    def forward(self, x):
        return self.fc(self.add(x, self.conv(self.conv(x))).flatten(1))


def test_a_layer_called_twice_and_a_sum_are_measured_too() -> None:
    torch.manual_seed(0)
    images = [torch.randn(20, 2, 4, 4)]
    model, twin = quantize(Shared(), ptq(bits=8, quantize_adds=True), images)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    reports = {report.layer: report for report in measure_sqnr(model, twin, images)}
    assert list(reports) == ["conv", "add", "fc"]
    assert reports["add"].weight_sqnr_db is None
    assert all(20 < (report.sqnr_db or 0) < 60 for report in reports.values())
    assert [layer for layer, _ in predict_each_layer(model, twin, lambda: images)] == ["conv", "add", "fc"]
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_a_network_that_is_a_single_layer_is_measured() -> None:
    images = [torch.randn(8, 4)]
    model, twin = quantize(nn.Linear(4, 3), ptq(), images)
    ((layer, logits_NK),) = predict_each_layer(model, twin, lambda: images)
    assert layer == "(model)"
    assert torch.equal(logits_NK, predict(model, images))


def reason_of(reports: list[LayerReport]) -> str | None:
    return next(report.reason for report in reports if report.status == "quantized")


def test_what_has_no_ratio_has_a_reason() -> None:
    images = [torch.randn(8, 4)]
    model = nn.Linear(4, 3, bias=False)
    nn.init.zeros_(model.weight)
    pair = quantize(model, ptq(), images)
    assert reason_of(measure_sqnr(*pair)) == "weight_sqnr_db: quantization changes nothing; sqnr_db: not asked for"
    nothing = "quantization changes nothing"
    assert reason_of(measure_sqnr(*pair, images)) == f"weight_sqnr_db: {nothing}; sqnr_db: {nothing}"
    assert str(reason_of(measure_sqnr(*pair, []))).endswith("sqnr_db: no image reached this layer")


def test_modes_and_weights_are_left_as_they_were() -> None:
    model, twin = quantize_digits(ptq())
    twin.train()
    again = without_quantizers(twin)
    measure_sqnr(model, twin, images_of(VAL))
    list(predict_each_layer(model, twin, lambda: images_of(VAL)))
    assert same_state(twin, again)
    assert all(module.training for module in twin.modules())
