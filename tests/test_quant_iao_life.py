"""Preset iao on real digits: prepare, calibrate, train, save, freeze, report; what it refuses and what stays float."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from quant_digits import EXAMPLE, TEST, TRAIN, VAL, same_state, trained_model, untrained_model
from torch import Tensor, nn

from quantfair.quant import (
    Concat,
    NonFiniteError,
    PtqSpec,
    QatSpec,
    TrainSpec,
    calibrate,
    collect,
    count_bytes,
    describe_layers,
    fit,
    freeze,
    load_quantizer_state,
    load_weights,
    predict,
    prepare,
    quantizer_state_to_bytes,
    weights_to_bytes,
)
from quantfair.quant.iao.layers import IaoConv2d
from quantfair.quant.iao.quantizer import IaoQuantizer
from quantfair.quant.layers.modules import quantizers

PTQ = PtqSpec(method="ptq", preset="iao", act_observer="percentile", percentile=0.9999)
QAT = QatSpec(method="qat", preset="iao", epochs=2, lr=0.001)


def images_of(batches):
    return (images_NCHW for images_NCHW, _ in batches.epoch(None))


def accuracy(model: nn.Module) -> float:
    return float((predict(model, images_of(TEST)).argmax(1) == TEST.labels_N).double().mean())


def changed(spec, **settings):
    return type(spec).model_validate({**spec.model_dump(), **settings})


def prepared(spec, model: nn.Module | None = None) -> nn.Module:
    return prepare(model or trained_model(), spec, EXAMPLE).model


def calibrated(spec) -> nn.Module:
    calibrate(model := prepared(spec), images_of(TRAIN))
    return model


def train(model: nn.Module, spec: QatSpec):
    recipe = TrainSpec(epochs=1, lr=0.1).with_recipe(spec)
    return fit(model, recipe, train=TRAIN, val=VAL, seed=0, log=lambda _: None)


@pytest.mark.parametrize("bn_fold", ["none", "fold"])
@pytest.mark.parametrize(
    ("act_observer", "scheme"), [("percentile", "symmetric"), ("ema", "asymmetric"), ("minmax", "symmetric")]
)
def test_ptq_at_8_bits_keeps_the_accuracy_and_batch_norm(act_observer, scheme, bn_fold):
    model = calibrated(changed(PTQ, act_observer=act_observer, scheme=scheme, bn_fold=bn_fold))
    state, before = model.state_dict(), trained_model().state_dict()
    for key in ("running_mean", "running_var"):
        name = f"features.block1.{'bn' if bn_fold == 'none' else 'conv.batchnorm'}.{key}"
        assert torch.equal(state[name], before[f"features.block1.bn.{key}"])
    freeze(model)
    assert accuracy(model) > accuracy(trained_model()) - 0.01


def test_ptq_observes_the_quantized_network():
    coarse, fine = (calibrated(changed(PTQ, weight_bits=bits, act_bits=bits)) for bits in (2, 16))
    first, last = "features.block1.conv.act_quantizer.max_val", "classifier.act_quantizer.max_val"
    assert torch.equal(coarse.state_dict()[first], fine.state_dict()[first])
    assert not torch.equal(coarse.state_dict()[last], fine.state_dict()[last])


def test_calibrating_again_starts_afresh():
    model = calibrated(PTQ)
    once = copy.deepcopy(model)
    calibrate(model, images_of(TRAIN))
    assert same_state(model, once)
    assert {quantizer.mode for quantizer in quantizers(model)} == {"fixed"}
    assert model.training == trained_model().training


OTHERS = [("ema", "ema"), ("percentile", "minmax")]


@pytest.mark.parametrize(
    ("act_observer", "weight_observer"),
    [("ema", "minmax"), ("percentile", "ema"), *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)],
)
@pytest.mark.parametrize("bn_fold", ["none", "fold", "fold_calibrated"])
def test_qat_trains_without_calibration_and_evaluates_alike_when_frozen(bn_fold, act_observer, weight_observer):
    spec = changed(QAT, bn_fold=bn_fold, act_observer=act_observer, weight_observer=weight_observer)
    model = prepared(spec)
    calibrate(model, iter([]))  # not read: the first step sets the ranges
    train(model, spec)
    evaluated = predict(model, images_of(TEST))
    freeze(model)
    assert torch.equal(predict(model, images_of(TEST)), evaluated)
    assert accuracy(model) > 0.9


def test_qat_from_scratch_learns_the_digits():
    spec = changed(QAT, init="scratch", bn_fold="fold_calibrated", epochs=8, lr=0.003, weight_bits=4, act_bits=4)
    train(model := prepared(spec, untrained_model()), spec)
    freeze(model)
    assert accuracy(model) > 0.9


def test_quantizers_frozen_from_the_start_are_calibrated_and_stay():
    spec = changed(QAT, freeze_observers_after=0, freeze_bn_after=0, bn_fold="fold")
    with pytest.raises(ValueError, match="has no activation range yet; call `calibrate` first"):
        train(prepared(spec), spec)
    model = calibrated(spec)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train(model, spec)
    stay = [key for key in before if "quantizer" in key or "running" in key]
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in stay)
    assert not torch.equal(before["classifier.weight"], model.state_dict()["classifier.weight"])


def step(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for start in steps:
        optimizer.zero_grad()
        rows = slice(64 * start, 64 * start + 64)
        F.cross_entropy(model.train()(TRAIN.images_NCHW[rows]), TRAIN.labels_N[rows]).backward()
        optimizer.step()


@pytest.mark.parametrize("init", ["fp32", "scratch"])
@pytest.mark.parametrize("bn_fold", ["none", "fold", "fold_calibrated"])
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_save_load_and_continue_equals_an_uninterrupted_run(scheme, bn_fold, init):
    spec = changed(QAT, scheme=scheme, bn_fold=bn_fold, init=init, weight_bits=4, act_bits=4)
    whole, first, second = (prepared(spec) for _ in range(3))
    for model in (whole, first):
        step(model, torch.optim.SGD(model.parameters(), lr=0.01), range(3))
    load_weights(second, weights_to_bytes(first))
    for model in (whole, second):
        step(model, torch.optim.SGD(model.parameters(), lr=0.01), range(3, 6))
    assert same_state(whole, second)
    assert torch.equal(predict(whole, images_of(TEST)), predict(second, images_of(TEST)))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("spec", [PTQ, changed(QAT, bn_fold="fold")], ids=["ptq", "qat"])
def test_a_prepared_model_pickles_and_deep_copies(spec, copied):
    model = calibrated(spec)
    step(model, torch.optim.SGD(model.parameters(), lr=0.01), range(1))
    twin = copied(model)
    assert same_state(model, twin)
    assert torch.equal(predict(model, images_of(TEST)), predict(twin, images_of(TEST)))


def test_grids_alone_restore_a_ptq_model():
    model, restored = calibrated(PTQ), prepared(PTQ)
    freeze(model)
    load_quantizer_state(restored, quantizer_state_to_bytes(model))
    freeze(restored)
    assert torch.equal(predict(model, images_of(TEST)), predict(restored, images_of(TEST)))


@pytest.mark.parametrize("bn_fold", ["none", "fold"])
def test_the_report_and_the_size_of_a_frozen_model(bn_fold):
    model = calibrated(changed(PTQ, weight_bits=4, act_bits=4, bn_fold=bn_fold))
    freeze(model)
    reports = {report.layer: report for report in describe_layers(model)}
    convolution, pooling = reports["features.block1.conv"], reports["features.pool1"]
    assert (convolution.kind, convolution.weight_bits, convolution.act_grid) == ("Conv2d", 4, "signed -8..7")
    assert (pooling.kind, pooling.status, pooling.act_bits) == ("MaxPool2d", "quantized", 4)
    if bn_fold == "fold":
        assert convolution.folded_batchnorm == "features.block1.bn"
        n_quantizers = 4 + 3  # activations of three convolutions and a linear layer, and of three poolings
        n_channels = 16 + 32 + 64 + 10  # each has a scale and a bias
        n_packed = (16 * 9 + 32 * 16 * 9 + 64 * 32 * 9 + 10 * 64) // 2
        assert count_bytes(model) == 4 * (n_quantizers + 2 * n_channels) + n_packed
    else:
        assert reports["features.block1.bn"].reason == "not folded: `bn_fold` is none"


class _Mixed(nn.Module):
    """Layers that the preset quantizes, some with unusual arguments, and some that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.circular = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")
        self.pool = nn.MaxPool2d(2, dilation=2, ceil_mode=True)
        self.mean = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
        self.leaky, self.sigmoid, self.concat = nn.LeakyReLU(0.3), nn.Sigmoid(), Concat()
        self.up = nn.ConvTranspose2d(4, 2, 2)
        self.line = nn.Conv1d(2, 2, 1)
        self.linear, self.bn = nn.Linear(2, 3), nn.BatchNorm1d(3)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x = self.mean(self.leaky(self.pool(self.circular(images_NCHW))))
        x = self.line(self.up(self.concat(x, self.sigmoid(x))).flatten(2))
        return self.bn(self.linear(x.mean(2)))


def test_what_the_original_leaves_float_is_reported_with_its_reason():
    model, layers = prepare(_Mixed(), changed(PTQ, bn_fold="fold"), EXAMPLE)
    reports = {report.layer: report for report in layers}
    assert reports["line"].reason == "preset iao leaves Conv1d in float"
    assert reports["concat"].reason == "preset iao leaves Concat in float"
    assert reports["bn"].reason is not None
    assert "not the output of a single call of one Conv2d" in reports["bn"].reason
    quantized = {name: report.granularity for name, report in reports.items() if report.status == "quantized"}
    whole_input = dict.fromkeys(("pool", "mean", "leaky", "sigmoid"))
    assert quantized == whole_input | {"circular": "per_channel", "up": "per_tensor", "linear": "per_channel"}
    assert not isinstance(model.get_submodule("circular"), IaoConv2d)


def test_no_constructor_argument_is_lost():
    model = prepared(changed(PTQ, weight_bits=16, act_bits=16, act_observer="minmax"), float_model := _Mixed())
    calibrate(model, [EXAMPLE])
    expected = predict(float_model, [EXAMPLE])
    torch.testing.assert_close(predict(model, [EXAMPLE]), expected, rtol=0, atol=2e-4)


def test_a_convolution_without_batch_norm_is_quantized_and_relu_keeps_the_pair_apart():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3))
    layers = prepare(model, changed(QAT, bn_fold="fold"), EXAMPLE).layers
    assert [(layer.layer, layer.status) for layer in layers] == [("0", "quantized"), ("2", "float"), ("3", "quantized")]


def test_a_model_with_nothing_for_the_preset_is_an_error():
    model = nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 2, 3))
    with pytest.raises(ValueError, match="Sequential has nothing that preset iao quantizes; set preset to none"):
        prepare(model, PTQ, EXAMPLE)


def test_a_shared_calibration_is_refused():
    calibration = collect(copy.deepcopy(trained_model()), images_of(TRAIN))
    with pytest.raises(ValueError, match=r"preset iao observes the quantized network.*give `calibrate` the batches"):
        calibrate(prepared(PTQ), calibration)


def test_calibration_names_what_is_wrong_with_its_batches():
    with pytest.raises(ValueError, match="`batches` holds no image to calibrate on; give it at least one"):
        calibrate(prepared(PTQ), [])
    with pytest.raises(ValueError, match="calibration batch 1 holds no image; leave it out"):
        calibrate(prepared(PTQ), [EXAMPLE, EXAMPLE[:0]])
    with pytest.raises(NonFiniteError, match=r"layer 'features.block1.conv' met a non-finite activation"):
        calibrate(prepared(PTQ), [EXAMPLE, EXAMPLE * torch.inf])
    broken: Any = copy.deepcopy(trained_model())
    with torch.no_grad():
        broken.classifier.weight[0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"layer 'classifier' met a non-finite weight"):
        calibrate(prepared(PTQ, broken), [EXAMPLE])
    frozen = calibrated(PTQ)
    freeze(frozen)
    with pytest.raises(ValueError, match="the model is frozen; calibrate it before `freeze`"):
        calibrate(frozen, [EXAMPLE])


def test_a_quantizer_that_no_batch_reaches_is_named():
    model: Any = prepared(PTQ)
    model.features.extra = nn.Identity()
    model.features.extra.unreached = IaoQuantizer(model.classifier.act_quantizer.spec, layer="extra")
    with pytest.raises(ValueError, match="layer 'extra' saw no data"):
        calibrate(model, [EXAMPLE])


def test_one_value_per_channel_cannot_be_normalized():
    model = nn.Sequential(nn.Conv2d(1, 2, 8), nn.BatchNorm2d(2))
    fused = prepare(model, changed(QAT, bn_fold="fold"), EXAMPLE).model.train()
    with pytest.raises(ValueError, match=r"more than one value per channel to train, got an output of \(1, 2, 1, 1\)"):
        fused(EXAMPLE[:1])


def test_batch_norm_without_momentum_averages_all_batches():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, momentum=None, affine=False))
    fused: Any = prepare(model, changed(QAT, bn_fold="fold", init="scratch"), EXAMPLE).model.train()
    means = [
        fused[0].compute(rows, fused[0].weight, fused[0].bias).mean((0, 2, 3))
        for rows in TRAIN.images_NCHW[:9].split(3)
    ]
    for rows in TRAIN.images_NCHW[:9].split(3):
        fused(rows)
    torch.testing.assert_close(fused[0].batchnorm.running_mean, torch.stack(means).mean(0))


@pytest.mark.parametrize(
    ("spec", "field", "value", "message"),
    [
        (PTQ, "weight_observer", "mse", "is 'mse', which preset = \"iao\" has not: take minmax or ema, or set preset"),
        (PTQ, "act_observer", "kl", "is 'kl', which preset = \"iao\" has not: take ema or percentile or minmax"),
        (PTQ, "rounding", "adaround", "is 'adaround', which preset = \"iao\" has not: remove it, or set preset"),
        (PTQ, "bias_correction", True, 'is set, which preset = "iao" has not: remove it'),
        (PTQ, "first_last_bits", 8, 'is set, which preset = "iao" has not: remove it'),
        (PTQ, "overrides", {"classifier": {"bits": 8}}, 'is set, which preset = "iao" has not: remove it'),
        (QAT, "scales", "learned", "is 'learned', which preset = \"iao\" has not: remove it"),
        (PTQ, "scheme", "asymmetric", "is 'percentile', whose range starts at 0 in preset 'iao'"),
    ],
)
def test_settings_that_the_original_lacks_are_refused(spec, field, value, message):
    with pytest.raises(ValidationError, match=message):
        changed(spec, **{field: value})


def test_settings_without_effect_do_not_tell_experiments_apart():
    one = changed(QAT, act_signed="always", quantize_adds=True, calib_images=7, percentile=0.9).normalized()
    assert one == QAT.normalized()
    assert one.calib_images == 1024
    frozen = changed(QAT, freeze_observers_after=0, calib_images=7).normalized()
    assert frozen.calib_images == 7
    assert changed(PTQ, calib_images=7).normalized().calib_images == 7


def test_both_folds_are_different_experiments():
    assert changed(QAT, bn_fold="fold_calibrated").normalized().bn_fold == "fold_calibrated"


def test_the_preset_none_is_left_out_of_the_identity():
    assert "preset" not in PtqSpec(method="ptq").model_dump(exclude_defaults=True)
