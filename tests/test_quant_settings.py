"""Settings by layer, additions and concatenations, and which settings are one experiment."""

import ast
import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from quant_digits import EXAMPLE, TRAIN, trained_model
from torch import Tensor, nn

from quantfair import quant
from quantfair.quant import (
    Add,
    Concat,
    ModelSpec,
    PtqSpec,
    QatSpec,
    build_model,
    calibrate,
    describe_layers,
    freeze,
    prepare,
)
from quantfair.quant.layers.modules import QuantAdd, QuantConcat, quantizers
from quantfair.quant.layers.report import LayerReport
from quantfair.quant.layers.settings import settings_by_layer
from quantfair.quant.quantizer.fake_quantize import FakeQuantize
from quantfair.quant.quantizer.qparams import QuantizerSpec

LAYERS = ["features.block1.conv", "features.block2.conv", "features.block3.conv", "classifier"]


def ptq(**settings) -> PtqSpec:
    return PtqSpec.model_validate({"method": "ptq", **settings})


def qat(**settings) -> QatSpec:
    return QatSpec.model_validate({"method": "qat", "epochs": 1, "lr": 0.1, **settings})


def reports_of(spec, model: nn.Module | None = None, example=EXAMPLE) -> dict[str, LayerReport]:
    return {report.layer: report for report in prepare(model or trained_model(), spec, example).layers}


def bits_of(spec, model: nn.Module | None = None, example=EXAMPLE) -> list[int | None]:
    return [report.weight_bits for report in reports_of(spec, model, example).values()]


# --- first and last ---


def test_first_last_bits_are_those_of_the_first_and_the_last_layer():
    assert bits_of(ptq(weight_bits=4, act_bits=4, first_last_bits=8)) == [8, 4, 4, 8]
    assert bits_of(ptq(weight_bits=4, first_last_bits=2)) == [2, 4, 4, 2]
    assert [report.act_bits for report in reports_of(ptq(act_bits=4, first_last_bits=6)).values()] == [6, 4, 4, 6]


def test_the_last_layer_of_every_head_is_a_last_layer():
    spec = ModelSpec.model_validate({"name": "trident", "width": 2, "heads": "all"})
    model = build_model(spec, in_channels=1, n_classes=2, seed=0, task="gender")
    reports = reports_of(ptq(weight_bits=4, first_last_bits=8), model, torch.randn(2, 1, 48, 48))
    assert {name for name, report in reports.items() if report.weight_bits == 8} == {
        "CNN.CNN.0", "ageNN.fc4", "genNN.fc4", "ethNN.fc4",
    }  # fmt: skip
    assert len(reports) == 6 + 3 * 6


def test_first_and_last_go_by_the_calls_and_not_by_the_names():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.middle, self.first = (nn.Conv2d(1, 1, 1) for _ in range(3))

        def forward(self, images):
            return self.last(self.middle(self.first(images))).flatten(1)  # no layer makes an output: the last called

    reports = reports_of(ptq(weight_bits=4, first_last_bits=8), Backwards())
    assert {name: report.weight_bits for name, report in reports.items()} == {"last": 8, "middle": 4, "first": 8}


def test_a_single_layer_is_first_and_last():
    assert bits_of(ptq(weight_bits=4, first_last_bits=8), nn.Conv2d(1, 2, 3)) == [8]


# --- overrides ---


def test_overrides_change_the_layers_that_fit_and_the_last_pattern_wins():
    overrides = {"features.*": {"bits": 4}, "features.block2.*": {"weight_bits": 3, "scheme": "asymmetric"}}
    reports = reports_of(ptq(overrides=overrides))
    assert [reports[name].weight_bits for name in LAYERS] == [4, 3, 4, 8]
    assert [reports[name].act_bits for name in LAYERS] == [4, 4, 4, 8], "what a later pattern leaves out stays"
    assert [reports[name].scheme for name in LAYERS] == ["symmetric", "asymmetric", "symmetric", "symmetric"]
    reverse = dict(reversed(overrides.items()))
    assert [reports_of(ptq(overrides=reverse))[name].weight_bits for name in LAYERS] == [4, 4, 4, 8]


def test_overrides_win_over_first_last_bits():
    spec = ptq(weight_bits=4, act_bits=4, first_last_bits=8, overrides={"classifier": {"weight_bits": 6}})
    reports = reports_of(spec)
    assert [reports[name].weight_bits for name in LAYERS] == [8, 4, 4, 6]
    assert [reports[name].act_bits for name in LAYERS] == [8, 4, 4, 8]


def test_a_layer_may_stay_float_with_its_reason_and_its_fold():
    spec = ptq(overrides={"*block2*": {"quantize": False}})
    model = prepare(trained_model(), spec, EXAMPLE).model
    calibrate(model, [EXAMPLE])
    report = {report.layer: report for report in describe_layers(model)}["features.block2.conv"]
    assert report.status == "float"
    assert report.reason == "`overrides` leaves '*block2*' in float"
    assert report.folded_batchnorm == "features.block2.bn"
    assert len(list(quantizers(model))) == 6
    freeze(model)
    with torch.no_grad():
        assert model.eval()(EXAMPLE).isfinite().all()


def test_a_later_pattern_takes_a_layer_back():
    spec = ptq(overrides={"*": {"quantize": False}, "classifier": {"bits": 4}})
    assert bits_of(spec) == [None, None, None, 4]


def test_overrides_of_every_kind_reach_their_quantizers():
    one = {"act_observer": "kl", "weight_observer": "mse", "granularity": "per_tensor"}
    model = prepare(trained_model(), ptq(overrides={"classifier": one}), EXAMPLE).model
    specs = {(q.layer, q.spec.role): q.spec for q in quantizers(model)}
    assert specs["classifier", "activation"].observer == "kl"
    assert specs["classifier", "weight"].observer == "mse"
    assert specs["classifier", "weight"].axis is None
    assert specs["features.block1.conv", "weight"].observer == "minmax"


def test_an_override_that_fits_no_layer_lists_the_layers():
    with pytest.raises(ValueError, match=r"`overrides`: no layer fits 'head'; the model's layers are features.block1"):
        prepare(trained_model(), ptq(overrides={"classifier": {}, "head": {"bits": 4}}), EXAMPLE)


def test_patterns_are_those_of_fnmatch_and_mind_the_case():
    spec = ptq(overrides={"features.block?.conv": {"bits": 4}})
    channel_axes = dict.fromkeys(LAYERS, 0)
    assert [one.weight.bits for one in settings_by_layer(spec, channel_axes).values()] == [4, 4, 4, 8]
    with pytest.raises(ValueError, match="no layer fits 'Classifier'"):
        settings_by_layer(ptq(overrides={"Classifier": {}}), channel_axes)


def test_settings_become_the_specs_of_quantizers_in_one_file_alone():
    room = Path(quant.__file__).parent
    makers = {"of_weight", "of_activation"}
    callers = set()
    for path in room.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            # A subclass of `QuantizerSpec` asks the class above it.
            if node.func.attr in makers and ast.unparse(node.func.value) != "super()":
                callers.add(path.relative_to(room).as_posix())
    assert callers == {"layers/settings.py"}


@pytest.mark.parametrize(
    "settings", [{}, {"first_last_bits": 4}, {"act_bits": 32}, {"preset": "iao", "act_observer": "ema"}], ids=str
)
def test_the_specs_of_each_layer_are_made_once(monkeypatch, settings):
    made = []
    for name in ("of_weight", "of_activation"):
        make = getattr(QuantizerSpec, name).__func__
        spy = classmethod(lambda cls, *args, make=make, name=name: made.append(name) or make(cls, *args))
        monkeypatch.setattr(QuantizerSpec, name, spy)
    prepare(trained_model(), ptq(quantize_adds=True, **settings), EXAMPLE)
    n_layers = len(LAYERS)
    # The input of each layer, and once that of all joins.
    n_inputs = 0 if settings.get("act_bits") == 32 else n_layers + 1
    assert (made.count("of_weight"), made.count("of_activation")) == (n_layers, n_inputs)


# --- what is one experiment ---


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        (ptq(first_last_bits=8), ptq()),
        (ptq(weight_bits=12, act_bits=12, first_last_bits=12, act_observer="kl"), ptq(weight_bits=12, act_bits=12)),
        (ptq(weight_observer="ema"), ptq()),
        (ptq(percentile=0.9), ptq()),
        (qat(scales="learned", freeze_observers_after=1), qat(scales="learned")),
        (qat(scales="learned", weight_observer="ema"), qat(scales="learned")),
        (qat(freeze_observers_after=0, weight_observer="ema"), qat(freeze_observers_after=0)),
        (
            qat(scales="learned", weight_bits=4, weight_observer="percentile", percentile=0.9),
            qat(scales="learned", weight_bits=4),
        ),
        (qat(scales="learned", act_bits=4, act_observer="kl"), qat(scales="learned", act_bits=4)),
        (qat(bn_fold="fold_calibrated"), qat(bn_fold="fold")),
        (
            qat(bn_fold="fold_calibrated", granularity="per_tensor", freeze_bn_after=0),
            qat(bn_fold="fold", granularity="per_tensor", freeze_bn_after=0),
        ),
    ],
    ids=str,
)
def test_settings_without_effect_change_no_id(spec, same):
    assert spec != same
    assert spec.normalized() == same.normalized()
    assert spec.normalized().normalized() == spec.normalized()


@pytest.mark.parametrize(
    "spec",
    [
        ptq(weight_bits=4, first_last_bits=8),
        ptq(weight_bits=12, act_bits=12, first_last_bits=8, act_observer="kl"),
        ptq(weight_bits=12, act_bits=12, act_observer="kl", overrides={"fc": {"bits": 8}}),
        ptq(scheme="asymmetric", act_signed="always", overrides={"fc": {"scheme": "symmetric"}}),
        ptq(percentile=0.9, overrides={"fc": {"act_observer": "percentile"}}),
        qat(weight_observer="ema"),
        qat(scales="learned", act_bits=4, first_last_bits=8, act_observer="kl"),
        qat(scales="learned", act_bits=5, act_observer="kl"),
        qat(bn_fold="fold_calibrated", granularity="per_tensor", freeze_bn_after=1),
    ],
    ids=str,
)
def test_settings_with_an_effect_are_kept(spec):
    assert spec.normalized() == spec


# --- joins ---


class Block(nn.Module):
    def __init__(self, *, kind: str):
        super().__init__()
        self.conv, self.other = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)
        self.join = Add() if kind == "add" else Concat()
        self.last = nn.Conv2d(2 if kind == "add" else 4, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.join(self.conv(images), 3 * self.other(images)))


def remember(outputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs[name] = output.detach()

    return hook


@pytest.mark.parametrize("method", ["ptq", "qat"])
@pytest.mark.parametrize("kind", ["add", "concat"])
def test_all_inputs_of_a_join_are_quantized_on_one_grid(kind, method):
    fields = {"act_bits": 3, "quantize_adds": True, "act_observer": "minmax", "act_signed": "always"}
    spec = ptq(**fields) if method == "ptq" else qat(**fields)
    model = prepare(Block(kind=kind), spec, EXAMPLE).model
    calibrate(model, [EXAMPLE])
    join = model.get_submodule("join")
    assert isinstance(join, QuantAdd | QuantConcat)
    assert isinstance(join, Add | Concat)
    images: dict[str, Tensor] = {}
    for name in ("conv", "other"):
        layer = model.get_submodule(name)
        layer.act_quantizer.enabled = layer.weight_quantizer.enabled = False  # pyright: ignore
        layer.register_forward_hook(remember(images, name))
    join.register_forward_hook(remember(images, "join"))
    with torch.no_grad():
        model.eval()(EXAMPLE)
    parts = [images["conv"], 3 * images["other"]]
    peak = max(float(part.abs().max()) for part in parts)
    scale = peak / 3
    assert join.act_quantizer.scale.item() == pytest.approx(scale, rel=1e-5)
    by_hand = [((part / scale).round().clamp(-4, 3) * scale) for part in parts]
    expected = by_hand[0] + by_hand[1] if kind == "add" else torch.cat(by_hand, dim=1)
    torch.testing.assert_close(images["join"], expected)
    if method == "qat":
        before = join.act_quantizer.scale.clone()
        model.train()(10 * EXAMPLE)
        assert join.act_quantizer.scale > 2 * before  # the biases do not grow


def test_joins_are_reported_quantized_and_float():
    on, off = (reports_of(ptq(quantize_adds=flag, act_bits=4), Block(kind="concat")) for flag in (True, False))
    assert on["join"][:4] == ("join", "Concat", "quantized", None)
    assert on["join"].act_bits == 4
    assert off["join"][:4] == ("join", "Concat", "float", "`quantize_adds` is false")


def test_a_join_that_is_not_called_or_is_a_subclass_says_why():
    class LoudAdd(Add):
        pass

    model = Block(kind="add")
    model.unused, model.loud = Add(), LoudAdd()
    reports = reports_of(ptq(quantize_adds=True), model)
    assert reports["unused"].reason == "not called as a module when the model ran on the example"
    assert reports["loud"].reason == "a subclass of Add, whose forward may differ"


CODE = {
    "plus": (lambda a, b: a + b, "add"),
    "in place": (lambda a, b: a.clone().add_(b), "add"),
    "function": (lambda a, b: torch.add(a, b), "add"),
    "keywords": (lambda a, b: torch.add(input=a, other=b), "add"),
    "cat": (lambda a, b: torch.cat([a, b], 1), "cat"),
    "cat by keyword": (lambda a, b: torch.cat(tensors=(a, b), dim=1), "cat"),
    "concatenate": (lambda a, b: torch.concatenate([a, b], 1), "cat"),
}


class InCode(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.conv, self.join = nn.Conv2d(1, 2, 1), join

    def forward(self, images):
        return self.join(self.conv(images), self.conv(images + 1))


@pytest.mark.parametrize("name", CODE)
def test_joins_in_code_are_reported(name):
    join, operation = CODE[name]
    reports = prepare(nn.Sequential(InCode(join)), ptq(quantize_adds=True), EXAMPLE).layers
    assert [(report.layer, report.kind, report.status) for report in reports[1:]] == [
        (f"0: {operation}", operation, "float")
    ]
    assert "an operation in code, which `quantize_adds` cannot see: make it a module" in str(reports[1].reason)


def test_joins_of_scalars_vectors_and_hooks_do_no_harm():
    model = nn.Sequential(InCode(lambda a, b: a + 1))
    assert len(prepare(model, ptq(quantize_adds=True), EXAMPLE).layers) == 1
    model.register_forward_pre_hook(lambda _module, inputs: inputs[0] + inputs[0])
    reports = prepare(model, ptq(quantize_adds=True), EXAMPLE).layers
    assert [report.layer for report in reports] == ["0.conv", "(model): add"]


def test_the_additions_of_torchvisions_resnet18_are_reported():
    model = torchvision.models.resnet18(num_classes=4).eval()
    prepared = prepare(model, ptq(quantize_adds=True), torch.randn(1, 3, 32, 32))
    blocks = [f"layer{stage}.{block}: add" for stage, block in itertools.product((1, 2, 3, 4), (0, 1))]
    assert [report.layer for report in prepared.layers[-8:]] == blocks
    assert describe_layers(copy.deepcopy(prepared.model)) == prepared.layers


def test_an_exception_in_the_model_leaves_no_hook_and_no_mode():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, images):
            raise RuntimeError("out of luck")

    model = Breaks()
    with pytest.raises(RuntimeError, match="out of luck"):
        prepare(model, ptq(quantize_adds=True), EXAMPLE)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert len(prepare(Block(kind="add"), ptq(quantize_adds=True), EXAMPLE).layers) == 4


def test_learned_scales_of_joins_are_trained():
    model = prepare(Block(kind="add"), qat(scales="learned", quantize_adds=True), EXAMPLE).model
    calibrate(model, [TRAIN.images_NCHW[:64]])
    model.train()(TRAIN.images_NCHW[:64]).square().sum().backward()
    quantizer = model.get_submodule("join.act_quantizer")
    assert isinstance(quantizer, FakeQuantize)
    assert quantizer.scale.grad is not None
    assert quantizer.scale.grad != 0
