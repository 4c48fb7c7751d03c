import copy
import pickle
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from quant_digits import EXAMPLE, TEST, TRAIN, same_state, trained_model
from torch import nn

from quantfair import quant
from quantfair.quant import (
    Fp32FtSpec,
    NonFiniteError,
    PtqSpec,
    QatSpec,
    calibrate,
    count_bytes,
    describe_layers,
    freeze,
    load_quantizer_state,
    load_weights,
    predict,
    prepare,
    quantizer_state_to_bytes,
    weights_to_bytes,
)
from quantfair.quant.layers.modules import QuantLayer, quant_layers, quantizers
from quantfair.quant.quantizer.fake_quantize import FakeQuantize

PTQ = PtqSpec(method="ptq")
CONTROL = Fp32FtSpec(method="fp32_ft", epochs=1, lr=0.001)


def ptq(*, bits=8, **settings) -> PtqSpec:
    return PtqSpec(method="ptq", weight_bits=bits, act_bits=bits, **settings)


def qat(**settings) -> QatSpec:
    return QatSpec(method="qat", epochs=1, lr=0.001, **settings)


def calibrated(spec: PtqSpec | QatSpec, model: nn.Module | None = None, *, on=TRAIN) -> nn.Module:
    prepared = prepare(model or trained_model(), spec, EXAMPLE).model
    calibrate(prepared, images_of(on))
    return prepared


def images_of(batches):
    return (images_NCHW for images_NCHW, _ in batches.epoch(None))


def logits_of(model):
    return predict(model, images_of(TEST))


def test_every_name_of_the_door_leads_somewhere():
    for name in quant.__all__:
        assert getattr(quant, name) is not None
    assert callable(quant.predict)
    with pytest.raises(AttributeError, match="module 'quant' has no attribute 'nothing'"):
        _ = quant.nothing  # pyright: ignore


# --- what quantization does to real digits ---


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize(("bits", "agreement"), [(16, 0.999), (8, 0.99), (4, 0.9)])
def test_ptq_predicts_like_fp32(bits, agreement, granularity, scheme):
    model = calibrated(ptq(bits=bits, granularity=granularity, scheme=scheme))
    freeze(model)
    expected, actual = logits_of(trained_model()), logits_of(model)
    assert (expected.argmax(1) == TEST.labels_N).double().mean() > 0.96
    assert (actual.argmax(1) == expected.argmax(1)).double().mean() >= agreement
    assert not torch.equal(actual, expected)


def test_squared_error_falls_by_about_four_for_each_bit():
    expected = logits_of(trained_model())
    # Calibrated on what is measured, so that rounding is the only error: no value is cut off.
    models = [calibrated(ptq(bits=bits), on=TEST) for bits in (4, 6, 8, 10, 12, 14)]
    errors = [(logits_of(model) - expected).square().mean().item() for model in models]
    for coarse, fine in pairwise(errors):
        assert 8 < coarse / fine < 32


def test_frozen_weights_lie_on_the_grid_of_their_layer():
    model = calibrated(ptq(bits=3))
    folded = {name: layer.weight.clone() for name, layer in quant_layers(model)}
    freeze(model)
    for name, layer in quant_layers(model):
        assert isinstance(layer.weight_quantizer, FakeQuantize)
        peak = folded[name].flatten(1).abs().amax(1)
        levels = layer.weight.flatten(1) / (peak / 3)[:, None]
        torch.testing.assert_close(levels, levels.round(), atol=1e-5, rtol=0)
        assert levels.round().abs().amax() == 3
        torch.testing.assert_close(layer.weight_quantizer.scale.flatten(), peak / 3)


def remember_in(seen: list[torch.Tensor]) -> Callable[[nn.Module, tuple[torch.Tensor]], None]:
    return lambda _module, args: seen.append(args[0].detach())


def test_activation_scales_are_those_of_the_float_model():
    model = calibrated(PTQ)
    inputs: dict[str, list[torch.Tensor]] = {}
    reference = prepare(trained_model(), CONTROL, EXAMPLE).model.eval()
    for name, layer in quant_layers(reference):
        inputs[name] = []
        layer.register_forward_pre_hook(remember_in(inputs[name]))
    for images_NCHW in images_of(TRAIN):
        reference(images_NCHW)
    for name, layer in quant_layers(model):
        assert isinstance(layer.act_quantizer, FakeQuantize)
        seen = torch.cat(inputs[name])
        expected = seen.abs().max() / 127 if seen.min() < 0 else seen.max() / 255
        torch.testing.assert_close(layer.act_quantizer.scale, expected, rtol=1e-5, atol=0)


# --- the life of a model ---


@pytest.mark.parametrize("spec", [PTQ, ptq(bn_fold="none"), qat(), CONTROL])
def test_prepare_and_calibrate_leave_the_callers_model_alone(spec):
    model = trained_model()
    before, kinds = copy.deepcopy(model), [type(module) for module in model.modules()]
    prepared = prepare(model, spec, EXAMPLE).model
    calibrate(prepared, images_of(TRAIN))
    freeze(prepared)
    assert same_state(model, before)
    assert [type(module) for module in model.modules()] == kinds
    assert not any(module._forward_pre_hooks for module in [*model.modules(), *prepared.modules()])


def test_swapped_layers_keep_their_type_and_their_keys():
    model = prepare(trained_model(), qat(), EXAMPLE).model
    assert isinstance(model.get_submodule("classifier"), nn.Linear)
    own = {key for key in model.state_dict() if "quantizer" not in key}
    assert own == trained_model().state_dict().keys()


def test_the_control_has_the_state_dict_of_the_float_model_and_can_be_quantized():
    control = prepare(trained_model(), CONTROL, EXAMPLE).model
    assert same_state(control, trained_model())
    assert torch.equal(logits_of(control), logits_of(trained_model()))
    calibrate(control, [])  # has nothing to calibrate
    assert torch.equal(logits_of(calibrated(PTQ, control)), logits_of(calibrated(PTQ)))


def test_layers_in_three_kinds_run_quantized():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 6, 3, groups=1, padding=1, padding_mode="reflect")
            self.grouped = nn.Conv2d(6, 6, 3, groups=3)
            self.up = nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2)

        def forward(self, images):
            y = self.grouped(self.conv(images))
            return self.up(y, output_size=[14, 14]).mean((2, 3))

    model = Net()
    for granularity in ("per_channel", "per_tensor"):
        quantized = calibrated(ptq(bits=12, granularity=granularity), model)
        torch.testing.assert_close(logits_of(quantized), logits_of(model), atol=5e-3, rtol=0)
        assert not torch.equal(logits_of(quantized), logits_of(model))
    up = calibrated(PTQ, model).get_submodule("up")
    assert isinstance(up, QuantLayer)
    assert isinstance(up.weight_quantizer, FakeQuantize)
    assert up.weight_quantizer.scale.shape == (1, 2, 1, 1)  # (in, out / groups, H, W): one per channel of a group


@pytest.mark.parametrize("root", [nn.Conv2d(1, 5, 8), nn.Sequential(nn.Flatten(), nn.Linear(64, 5))])
def test_a_root_and_a_layer_under_two_names_are_quantized_once(root):
    if isinstance(root, nn.Sequential):
        root.add_module("same", nn.Identity())
        root.get_submodule("same").linear = root[1]
    model = calibrated(PTQ, root)
    assert len(list(quant_layers(model))) == 1
    assert len(list(quantizers(model))) == 2
    (report,) = describe_layers(model)
    assert report.layer in ("(model)", "1")
    before = model(EXAMPLE)
    freeze(model)
    assert torch.equal(model(EXAMPLE), before)


def test_a_module_called_twice_is_calibrated_on_both_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, images):
            return self.conv(images) + self.conv(images * 10)

    conv = calibrated(PTQ, Twice()).get_submodule("conv")
    assert isinstance(conv.act_quantizer, FakeQuantize)
    assert conv.act_quantizer.max_val == TRAIN.images_NCHW.max() * 10


def test_freezing_leaves_a_shared_parameter_of_a_float_layer_alone():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.linear = nn.Embedding(9, 64), nn.Linear(64, 9)
            self.linear.weight = self.embedding.weight

        def forward(self, images):
            return self.linear(images.flatten(1)) @ self.embedding.weight

    model = calibrated(ptq(bits=2), Tied())
    before = model.get_parameter("embedding.weight").clone()
    freeze(model)
    assert torch.equal(model.get_parameter("embedding.weight"), before)
    assert not torch.equal(model.get_parameter("linear.weight"), before)


@pytest.mark.parametrize("spec", [ptq(bits=4), ptq(bits=4, scheme="asymmetric"), qat()])
def test_freeze_quantizes_weights_once_and_changes_no_prediction(spec, monkeypatch):
    model = calibrated(spec)
    n_calls: Counter[str] = Counter()
    quantize = FakeQuantize.quantize

    def count(self, x):
        n_calls[self.spec.role] += 1
        return quantize(self, x)

    monkeypatch.setattr(FakeQuantize, "quantize", count)
    n_layers, n_batches = len(list(quant_layers(model))), len(TEST)
    before = logits_of(model)
    assert n_calls["weight"] == n_layers * n_batches
    n_calls.clear()
    freeze(model)
    assert n_calls["weight"] == n_layers
    assert torch.equal(logits_of(model), before)
    freeze(model)
    assert n_calls["weight"] == n_layers
    assert n_calls["activation"] == n_layers * n_batches
    assert torch.equal(logits_of(model), before)


def test_a_frozen_qat_model_no_longer_follows_its_inputs():
    model = calibrated(qat())
    freeze(model)
    before = [quantizer.scale.clone() for quantizer in quantizers(model)]
    model.train()(1000 * EXAMPLE)
    assert all(torch.equal(q.scale, scale) for q, scale in zip(quantizers(model), before, strict=True))


def test_calibrating_again_starts_afresh():
    model = prepare(trained_model(), PTQ, EXAMPLE).model
    calibrate(model, [1000 * EXAMPLE])
    calibrate(model, images_of(TRAIN))
    assert same_state(model, calibrated(PTQ))


def test_modes_of_modules_survive_calibration_and_prediction():
    model = calibrated(qat()).train()
    model.get_submodule("features.block1.bn").eval()
    before = {name: module.training for name, module in model.named_modules()}
    calibrate(model, [EXAMPLE])
    logits_of(model)
    assert {name: module.training for name, module in model.named_modules()} == before


# --- saving and loading ---


@pytest.mark.parametrize("spec", [ptq(bits=4), ptq(bits=4, scheme="asymmetric", act_observer="percentile"), qat()])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_loaded_model_predicts_the_same_bits(spec, is_frozen):
    model = calibrated(spec)
    if is_frozen:
        freeze(model)
    expected = logits_of(model)
    restored = prepare(trained_model(), spec, EXAMPLE).model
    load_weights(restored, weights_to_bytes(model))
    for twin in (restored, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same_state(twin, model)
        assert torch.equal(logits_of(twin), expected)
        freeze(twin)
        assert torch.equal(logits_of(twin), expected)


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_grids_alone_restore_a_ptq_model_from_its_float_model(is_frozen, scheme):
    model = calibrated(ptq(bits=4, scheme=scheme))
    expected = logits_of(model)
    if is_frozen:
        freeze(model)
    data = quantizer_state_to_bytes(model)
    restored = prepare(trained_model(), ptq(bits=4, scheme=scheme), EXAMPLE).model
    load_quantizer_state(restored, data)
    assert torch.equal(logits_of(restored), expected)
    assert len(data) < len(weights_to_bytes(model)) / 4


def test_a_restored_qat_model_goes_on_as_the_original():
    model = calibrated(qat())
    restored = prepare(trained_model(), qat(), EXAMPLE).model
    load_weights(restored, weights_to_bytes(model))
    for twin in (model, restored):
        twin.train()
        twin(2 * TRAIN.images_NCHW[:64])
    assert same_state(model, restored)
    assert not same_state(model, calibrated(qat()))


def test_grids_of_another_model_are_refused():
    data = quantizer_state_to_bytes(calibrated(PTQ, nn.Conv2d(1, 5, 8)))
    with pytest.raises(ValueError, match=r"grids belong to another model: 'act_quantizer.scale' is only on one side"):
        load_quantizer_state(prepare(trained_model(), PTQ, EXAMPLE).model, data)


def test_weights_of_another_model_are_refused():
    with pytest.raises(RuntimeError, match=r"Missing key.*features.block1.conv.weight"):
        load_weights(trained_model(), weights_to_bytes(nn.Linear(2, 2)))


# --- reports ---


def test_layers_are_described_with_their_grids():
    reports = {report.layer: report for report in describe_layers(calibrated(ptq(bits=4)))}
    assert list(reports) == ["features.block1.conv", "features.block2.conv", "features.block3.conv", "classifier"]
    first, last = reports["features.block1.conv"], reports["classifier"]
    assert first[:6] == ("features.block1.conv", "Conv2d", "quantized", None, 144, 4)
    assert first[6:] == (4, "symmetric", "per_channel", "signed -8..7", "features.block1.bn", None, None)
    assert (last.kind, last.act_grid, last.folded_batchnorm) == ("Linear", "unsigned 0..15", None)


def test_signed_and_asymmetric_grids_are_described():
    always = describe_layers(calibrated(ptq(act_signed="always", granularity="per_tensor")))
    assert {(report.act_grid, report.granularity) for report in always} == {("signed -128..127", "per_tensor")}
    asymmetric = describe_layers(calibrated(ptq(scheme="asymmetric")))
    low, high = TRAIN.images_NCHW.min(), TRAIN.images_NCHW.max()
    zero_point = round(-255 * float(low / (high - low)))
    assert asymmetric[0].act_grid == f"asymmetric 0..255, zero point {zero_point}"
    assert asymmetric[0].scheme == "asymmetric"
    assert describe_layers(prepare(trained_model(), PTQ, EXAMPLE).model)[0].act_grid == "not calibrated"


@pytest.mark.parametrize(
    ("make", "reason_of_conv", "reason_of_bn"),
    [
        (trained_model, "this is the float model", "this is the float model"),
        (
            lambda: prepare(trained_model(), CONTROL, EXAMPLE).model,
            "the quantizers are bypassed: this model is a control",
            "fp32_ft trains batch norm unfolded",
        ),
        (lambda: calibrated(qat()), None, "not folded: `bn_fold` is none"),
    ],
    ids=["fp32", "control", "qat"],
)
def test_float_layers_are_described_with_the_reason(make, reason_of_conv, reason_of_bn):
    reports = {report.layer: report for report in describe_layers(make())}
    assert reports["features.block1.conv"].reason == reason_of_conv
    assert reports["features.block1.conv"].kind == "Conv2d"
    assert reports["features.block1.bn"].reason == reason_of_bn
    assert reports["features.block1.bn"].status == "float"


class SpecialConv(nn.Conv2d):
    pass


class Mixed(nn.Module):
    """Layers that cannot be quantized beside one that can."""

    def __init__(self):
        super().__init__()
        self.conv, self.special, self.unused = nn.Conv2d(1, 4, 1), SpecialConv(4, 4, 1), nn.Linear(3, 3)
        self.spectral = nn.utils.spectral_norm(nn.Conv2d(4, 4, 1))
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, images):
        steps_NTC = self.special(self.spectral(self.conv(images))).flatten(2).transpose(1, 2)
        steps_NTC = self.norm(steps_NTC)
        steps_NTC = self.attention(steps_NTC, steps_NTC, steps_NTC, need_weights=False)[0]
        return self.lstm(steps_NTC)[0][:, -1]


def test_what_cannot_be_quantized_stays_float_and_is_reported():
    model = calibrated(PTQ, Mixed())
    freeze(model)
    assert logits_of(model).shape == (len(TEST.labels_N), 5)
    reasons = {report.layer: report.reason for report in describe_layers(model)}
    assert reasons == {
        "conv": None,
        "special": "a subclass of Conv2d, whose forward may differ",
        "spectral": "its weight is computed from other parameters",
        "unused": "not called as a module when the model ran on the example",
        "norm": "LayerNorm has no quantized form",
        "attention": "MultiheadAttention has no quantized form",
        "attention.out_proj": "a subclass of Linear, whose forward may differ",
        "lstm": "LSTM has no quantized form",
    }


def test_bytes_are_those_of_packed_weights_and_float_rest():
    linear = nn.Linear(64, 5)
    model = nn.Sequential(nn.Flatten(), linear, nn.BatchNorm1d(5))
    assert count_bytes(model) == 4 * (320 + 5 + 4 * 5)
    folded = calibrated(ptq(bits=3), model)
    assert count_bytes(folded) == 320 * 3 // 8 + 4 * (5 + 5 + 1)  # weights; bias, 5 weight scales, activation scale
    asymmetric = calibrated(ptq(bits=3, scheme="asymmetric", granularity="per_tensor"), model)
    assert count_bytes(asymmetric) == 320 * 3 // 8 + 4 * (5 + 2 + 2)
    assert count_bytes(calibrated(qat(), model)) == 320 + 4 * (5 + 5 + 1 + 4 * 5)
    odd = calibrated(ptq(bits=3, granularity="per_tensor"), nn.Conv2d(1, 1, 5, bias=False))
    assert count_bytes(odd) == 10 + 4 * 2  # 75 bits
    freeze(folded)
    assert count_bytes(folded) == 320 * 3 // 8 + 4 * 11


# --- bad requests ---


def test_prepare_refuses_a_model_without_layers():
    with pytest.raises(
        ValueError, match=r"Sequential has nothing to quantize: it calls no Conv1d, Conv2d, .*Linear on"
    ):
        prepare(nn.Sequential(nn.ReLU()), PTQ, EXAMPLE)


def test_prepare_refuses_a_quantized_model():
    with pytest.raises(ValueError, match="the model is quantized already; `prepare` takes the float model"):
        prepare(calibrated(PTQ), PTQ, EXAMPLE)


def test_prepare_refuses_other_precisions():
    with pytest.raises(ValueError, match=r"must be float32, but 'weight' is torch.float64; call `model.float\(\)`"):
        prepare(nn.Conv2d(1, 5, 8).double(), PTQ, EXAMPLE.double())


def test_calibrate_refuses_an_empty_pass():
    with pytest.raises(ValueError, match=r"`batches` holds no image to calibrate on; give it at least one"):
        calibrate(prepare(trained_model(), PTQ, EXAMPLE).model, [])


def test_calibrate_refuses_a_frozen_model():
    model = calibrated(PTQ)
    freeze(model)
    with pytest.raises(ValueError, match="the model is frozen; calibrate it before `freeze`"):
        calibrate(model, [EXAMPLE])


@pytest.mark.parametrize("use", [freeze, logits_of])
def test_an_uncalibrated_model_is_refused(use):
    with pytest.raises(ValueError, match=r"layer 'features.block1.conv' has no activation range yet; call `calibrate`"):
        use(prepare(trained_model(), PTQ, EXAMPLE).model)


@pytest.mark.parametrize("observer", ["minmax", "ema", "percentile"])
def test_calibrate_names_the_layer_that_meets_nan(observer):
    model = prepare(trained_model(), ptq(act_observer=observer), EXAMPLE).model
    images_NCHW = EXAMPLE.clone()
    images_NCHW[0, 0, 3, 3] = torch.nan
    with pytest.raises(NonFiniteError, match=r"layer 'features.block1.conv' met a non-finite activation"):
        calibrate(model, [images_NCHW])
    calibrate(model, images_of(TRAIN))  # and can be used again
    assert same_state(model, calibrated(ptq(act_observer=observer)))


def test_calibrate_names_the_layer_whose_weight_is_not_finite():
    broken = copy.deepcopy(trained_model())
    with torch.no_grad():
        broken.get_parameter("features.block2.conv.weight")[0] = torch.inf
    with pytest.raises(NonFiniteError, match=r"layer 'features.block2.conv' met a non-finite weight"):
        calibrated(PTQ, broken)


def test_prepare_names_a_spec_of_the_wrong_kind():
    with pytest.raises(ValueError, match="`spec` must be a PtqSpec, QatSpec or Fp32FtSpec, got 'ptq'"):
        prepare(trained_model(), "ptq", EXAMPLE)  # pyright: ignore[reportArgumentType]


def test_freezing_an_untrained_iao_model_says_that_training_sets_its_ranges():
    model = prepare(trained_model(), qat(preset="iao"), EXAMPLE).model
    with pytest.raises(ValueError, match="its first training batch sets it: train the model first"):
        freeze(model)
