"""act_bits = 32 quantizes the weights alone: the network is the float one with its weights put on their grids."""

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from quant_digits import EXAMPLE, TEST, TRAIN, VAL, trained_model
from torch import nn

from quantfair.quant import (
    PtqSpec,
    QatSpec,
    TrainSpec,
    calibrate,
    count_bytes,
    describe_layers,
    fit,
    freeze,
    frozen_to_bytes,
    load_frozen,
    load_quantizer_state,
    predict,
    predict_each_layer,
    prepare,
    quantizer_state_to_bytes,
    without_quantizers,
)

IMAGES = [TEST.images_NCHW]


def quantized(**settings: Any) -> nn.Module:
    model = prepare(trained_model(), PtqSpec(method="ptq", act_bits=32, **settings), EXAMPLE).model
    calibrate(model, [TRAIN.images_NCHW])
    freeze(model)
    return model


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_it_is_the_float_network_with_weights_on_atens_grids(bits: int) -> None:
    expected = copy.deepcopy(trained_model())
    limit = 2 ** (bits - 1) - 1
    for layer in expected.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layer.weight.detach()
            scale_O = weight.abs().flatten(1).amax(1) / limit
            zeros = torch.zeros(len(weight), dtype=torch.int32)
            layer.weight.data = torch.fake_quantize_per_channel_affine(weight, scale_O, zeros, 0, -limit, limit)
    found = quantized(weight_bits=bits, bn_fold="none")
    assert torch.allclose(predict(found, IMAGES), predict(expected, IMAGES), atol=1e-4)


@pytest.mark.parametrize(
    "settings", [{}, {"scales": "learned"}, {"bn_fold": "fold"}, {"scheme": "asymmetric"}], ids=str
)
def test_it_is_trained_kept_and_restored(settings: dict[str, Any]) -> None:
    spec = QatSpec(method="qat", epochs=1, lr=0.001, weight_bits=4, act_bits=32, **settings)
    model = prepare(trained_model(), spec, EXAMPLE).model
    calibrate(model, [TRAIN.images_NCHW])
    fit(model, TrainSpec(epochs=1, lr=0.001), train=TRAIN, val=VAL, seed=0, log=lambda _: None)
    freeze(model)
    restored = prepare(trained_model(), spec, EXAMPLE).model
    load_frozen(restored, frozen_to_bytes(model))
    assert torch.equal(predict(model, IMAGES), predict(restored, IMAGES))
    assert (predict(model, IMAGES).argmax(1) == TEST.labels_N).float().mean() > 0.8


def test_a_trial_keeps_grids_alone_and_is_restored_from_them() -> None:
    model, again = (
        quantized(weight_bits=4),
        prepare(trained_model(), PtqSpec(method="ptq", weight_bits=4, act_bits=32), EXAMPLE).model,
    )
    load_quantizer_state(again, quantizer_state_to_bytes(model))
    freeze(again)
    assert torch.equal(predict(model, IMAGES), predict(again, IMAGES))


def test_rounding_and_biases_are_corrected_without_a_grid_of_activations() -> None:
    plain, learned = (quantized(weight_bits=2, rounding=rounding) for rounding in ("nearest", "adaround"))
    expected = predict(trained_model(), IMAGES)
    errors = [float((predict(model, IMAGES) - expected).square().mean()) for model in (plain, learned)]
    assert errors[1] < errors[0]
    quantized(weight_bits=4, bias_correction=True)


def test_layers_say_so_and_bytes_count_no_scale_of_activations() -> None:
    reports = [report for report in describe_layers(quantized(weight_bits=4)) if report.status == "quantized"]
    assert {(report.weight_bits, report.act_bits, report.act_grid) for report in reports} == {(4, 32, "float")}
    both = prepare(trained_model(), PtqSpec(method="ptq", weight_bits=4), EXAMPLE).model
    assert count_bytes(both) - count_bytes(quantized(weight_bits=4)) == 4 * len(reports)


def test_each_layer_can_be_quantized_alone() -> None:
    spec = PtqSpec(method="ptq", weight_bits=4, act_bits=32)
    model = prepare(trained_model(), spec, EXAMPLE).model
    twin = without_quantizers(model)
    calibrate(model, [TRAIN.images_NCHW])
    freeze(model)
    assert len(list(predict_each_layer(model, twin, lambda: iter(IMAGES)))) == 4


def test_settings_of_activations_have_no_effect_and_no_part_in_the_identity() -> None:
    plain = PtqSpec(method="ptq", weight_bits=4, act_bits=32)
    idle = {"act_observer": "percentile", "percentile": 0.99, "act_signed": "always", "quantize_adds": True}
    assert PtqSpec(method="ptq", weight_bits=4, act_bits=32, **idle).normalized() == plain.normalized()
    qat = QatSpec(method="qat", epochs=1, lr=0.1, act_bits=32, act_observer="minmax").normalized()
    assert qat == QatSpec(method="qat", epochs=1, lr=0.1, act_bits=32).normalized()
    assert qat.act_observer == "ema"


def test_ends_and_overrides_keep_activations_float_unless_they_say_otherwise() -> None:
    model = prepare(
        trained_model(), PtqSpec(method="ptq", weight_bits=4, act_bits=32, first_last_bits=8), EXAMPLE
    ).model
    found = [(r.weight_bits, r.act_bits) for r in describe_layers(model) if r.status == "quantized"]
    assert found == [(8, 32), (4, 32), (4, 32), (8, 32)]
    overrides = {"classifier": {"act_bits": 32}}
    model = prepare(trained_model(), PtqSpec(method="ptq", overrides=overrides), EXAMPLE).model  # pyright: ignore
    found = [(r.weight_bits, r.act_bits) for r in describe_layers(model) if r.status == "quantized"]
    assert found == [(8, 8), (8, 8), (8, 8), (8, 32)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"act_bits": 17}, "must be a whole number in 2..16, or 32 for activations"),
        ({"act_bits": 33}, "less than or equal to 32"),
        ({"weight_bits": 32}, "less than or equal to 16"),
        ({"act_bits": 32, "preset": "iao"}, 'is 32, which preset = "iao" has not'),
    ],
)
def test_other_widths_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PtqSpec(method="ptq", **settings)
