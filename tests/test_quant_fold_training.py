"""QAT folded with batch norm against references written from the formulas, with autograd through the statistics.

f = gamma / sqrt(var + eps)        weight' = weight * f        bias' = (bias - mean) * f + beta
"""

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
import torchvision
from quant_digits import EXAMPLE, TEST, TRAIN, VAL, trained_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quantfair.quant import (
    ModelSpec,
    QatSpec,
    TrainSpec,
    build_model,
    calibrate,
    describe_layers,
    fit,
    freeze,
    load_weights,
    predict,
    prepare,
    weights_to_bytes,
)
from quantfair.quant.layers.modules import QuantLayer, quant_layers, quantizers
from quantfair.quant.quantizer.fake_quantize import fake_quantize

FOLDS = ["fold", "fold_calibrated"]
GRANULARITIES = ["per_tensor", "per_channel"]
SCALES = ["observed", "learned"]


def qat(**settings) -> QatSpec:
    return QatSpec.model_validate({"method": "qat", "epochs": 1, "lr": 0.003, "act_observer": "minmax", **settings})


def live_in(model: nn.Module, *, gamma: str = "any") -> nn.Module:
    """Random statistics and factors; `gamma`: "any" (positive), "one zero", "all zero" or "negative" (every other)."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BatchNorm) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                    module.bias.normal_(0, 0.3, generator=generator)
                    if gamma == "one zero":
                        module.weight[0] = 0
                    elif gamma == "all zero":
                        module.weight.zero_()
                    elif gamma == "negative":
                        module.weight[::2] *= -1
    return model


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def calibrated(model: nn.Module, spec: QatSpec, images: Tensor) -> nn.Module:
    prepared = prepare(model, spec, images).model
    calibrate(prepared, [images])
    return prepared


def only_layer(model: nn.Module) -> QuantLayer:
    ((_, layer),) = quant_layers(model)
    return layer


LAYERS = {
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), nn.BatchNorm1d, (6, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d, (6, 3, 7, 7)),
    "no bias": (lambda: nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d, (6, 3, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(3, 4, 2), nn.BatchNorm3d, (4, 3, 4, 4, 4)),
    "grouped": (lambda: nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d, (6, 4, 7, 7)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 2, stride=2), nn.BatchNorm2d, (6, 3, 4, 4)),
    "grouped transposed": (lambda: nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), nn.BatchNorm2d, (6, 4, 4, 4)),
    "linear": (lambda: nn.Linear(5, 4), nn.BatchNorm1d, (12, 5)),
}


def layer_and_norm(kind: str, *, gamma="any", **norm) -> tuple[nn.Module, Tensor]:
    make, batchnorm, shape = LAYERS[kind]
    torch.manual_seed(0)
    return live_in(nn.Sequential(make(), batchnorm(4, **norm)), gamma=gamma), random(*shape)


# --- deployment ---


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bn_fold", FOLDS)
@pytest.mark.parametrize("kind", LAYERS)
def test_folded_and_unfolded_are_the_same_in_eval_up_to_rounding(kind, bn_fold, affine):
    model, images = layer_and_norm(kind, affine=affine, eps=1e-3)
    folded = calibrated(model, qat(bn_fold=bn_fold, weight_bits=16, act_bits=16), images).eval()
    assert only_layer(folded).batchnorm is not None
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model.eval()(images), atol=2e-3, rtol=0)
        layer = only_layer(folded)
        layer.weight_quantizer.mode = layer.act_quantizer.mode = "frozen"  # pyright: ignore  # lets everything pass
        torch.testing.assert_close(folded(images), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("bn_fold", FOLDS)
def test_after_training_freeze_changes_no_logit_bit(bn_fold, granularity, scales):
    spec = qat(bn_fold=bn_fold, granularity=granularity, scales=scales, weight_bits=4, act_bits=4)
    model = calibrated(trained_model(), spec, TRAIN.images_NCHW)
    train(model, spec)
    before = predict(model, images_of(TEST))
    freeze(model)
    assert not any(isinstance(module, BatchNorm) for module in model.modules())
    assert torch.equal(predict(model, images_of(TEST)), before)
    assert (before.argmax(1) == TEST.labels_N).double().mean() > 0.9


def images_of(batches) -> Iterator[Tensor]:
    return (images_NCHW for images_NCHW, _ in batches.epoch(None))


def train(model: nn.Module, spec: QatSpec, **changes) -> None:
    base = TrainSpec.model_validate({"epochs": 1, "lr": 0.1, **changes})
    fit(model, base.with_recipe(spec), train=TRAIN, val=VAL, seed=0, log=lambda _: None)


# --- training, one step ---


def levels_of(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Quantized with a straight-through gradient, by the detach trick."""
    inside = ((x / scale).round() >= low) & ((x / scale).round() <= high)
    rounded = ((x / scale).round().clamp(low, high) * scale).detach()
    return torch.where(inside, x + (rounded - x).detach(), rounded)


def fold_reference(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, quantize) -> Tensor:
    """`fold`: statistics of the float convolution, with gradients; the quantized folded weight; one folded bias."""
    y = F.conv2d(x, conv.weight, conv.bias, padding=conv.padding)  # pyright: ignore
    mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
    f = norm.weight / (variance + norm.eps).sqrt()
    assert conv.bias is not None
    bias = (conv.bias - mean) * f + norm.bias
    return F.conv2d(x, quantize(conv.weight * f.reshape(-1, 1, 1, 1)), bias, padding=conv.padding)  # pyright: ignore


def calibrated_reference(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, quantize) -> Tensor:
    """`fold_calibrated`: the weight folded with running statistics, quantized, unfolded; batch norm of the output."""
    f = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().reshape(-1, 1, 1, 1)  # pyright: ignore
    return norm(F.conv2d(x, quantize(conv.weight * f) / f, conv.bias, padding=conv.padding))  # pyright: ignore


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("gamma", ["any", "negative"])
@pytest.mark.parametrize(
    ("bn_fold", "reference"), [("fold", fold_reference), ("fold_calibrated", calibrated_reference)]
)
def test_a_training_step_per_tensor_is_that_of_the_formulas(bn_fold, reference, gamma, bits):
    model, images = layer_and_norm("conv2d", gamma=gamma)
    folded = calibrated(model, qat(bn_fold=bn_fold, granularity="per_tensor", weight_bits=bits), images).train()
    model.train()
    conv, norm = copy.deepcopy(model[0]), copy.deepcopy(model[1])  # pyright: ignore
    quantizer = only_layer(folded).act_quantizer
    x = fake_quantize(images, quantizer.scale, None, -128, 127)  # pyright: ignore
    highest = 2 ** (bits - 1) - 1
    seen: list[Tensor] = []

    def quantize(weight: Tensor) -> Tensor:
        seen.append(weight.detach().abs().max() / highest)
        return levels_of(weight, seen[-1], -highest, highest)

    expected, actual = reference(conv, norm, x, quantize), folded(images)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(only_layer(folded).weight_quantizer.scale, seen[-1])
    weights = random(*actual.shape, seed=5)
    for output in (actual, expected):
        (output * weights).sum().backward()
    layer = only_layer(folded)
    assert layer.batchnorm is not None
    for one, other in zip(
        (*layer_parameters(layer), *layer.batchnorm.parameters()), (*conv.parameters(), *norm.parameters()), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-3)


def layer_parameters(layer: QuantLayer) -> list[nn.Parameter]:
    assert layer.bias is not None
    return [layer.weight, layer.bias]  # pyright: ignore


@pytest.mark.parametrize("momentum", [0.1, None])
def test_fold_moves_the_running_statistics_as_torchs_batch_norm_of_the_float_layer(momentum):
    model, images = layer_and_norm("conv2d", momentum=momentum)
    folded = calibrated(model, qat(bn_fold="fold", granularity="per_tensor", weight_bits=3), images).train()
    plain = copy.deepcopy(model).train()
    quantizer = only_layer(folded).act_quantizer
    for seed in range(3):
        x = images + random(*images.shape, seed=seed) / 10
        folded(x)
        plain(fake_quantize(x, quantizer.scale, None, -128, 127))  # pyright: ignore
    norm = only_layer(folded).batchnorm
    assert norm is not None
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(norm, name), getattr(plain[1], name), rtol=1e-4, atol=1e-5)  # pyright: ignore
    assert norm.num_batches_tracked == 3


def test_fold_calibrated_moves_the_running_statistics_by_the_quantized_layer():
    model, images = layer_and_norm("conv2d")
    folded = calibrated(model, qat(bn_fold="fold_calibrated", granularity="per_tensor", weight_bits=2), images).train()
    plain = copy.deepcopy(model).train()
    folded(images)
    plain(images)
    norm = only_layer(folded).batchnorm
    assert norm is not None
    assert not torch.allclose(norm.running_var, plain[1].running_var, rtol=1e-3)  # pyright: ignore


@pytest.mark.parametrize("observer", ["minmax", "percentile"])
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_per_channel_both_folds_train_the_same(scheme, observer):
    spec = qat(bn_fold="fold", weight_observer=observer, percentile=0.99, scheme=scheme, weight_bits=4)
    models = []
    for bn_fold in FOLDS:
        model = calibrated(trained_model(), spec.model_copy(update={"bn_fold": bn_fold}), TRAIN.images_NCHW)
        train(model, spec)
        models.append(model)
    for one, other in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(one, other)
    assert spec.model_copy(update={"bn_fold": "fold_calibrated"}).normalized() == spec.normalized()


@pytest.mark.parametrize(
    "settings",
    [
        {"granularity": "per_tensor"},
        {"weight_observer": "ema"},
        {"freeze_observers_after": 1},
        {"scales": "learned"},
        {"overrides": {"classifier": {"granularity": "per_tensor"}}},
    ],
    ids=str,
)
def test_folds_that_differ_keep_their_names_and_train_differently(settings):
    one, other = (qat(bn_fold=bn_fold, weight_bits=3, **settings).normalized() for bn_fold in FOLDS)
    assert (one.bn_fold, other.bn_fold) == ("fold", "fold_calibrated")
    if "overrides" in settings:
        return  # `classifier` is not folded here
    models = []
    for spec in (one, other):
        models.append(calibrated(trained_model(), spec, TRAIN.images_NCHW))
        train(models[-1], spec.model_copy(update={"epochs": 2}))
    assert not all(
        torch.equal(first, second)
        for first, second in zip(*(model.state_dict().values() for model in models), strict=True)
    )


# --- gamma = 0 ---


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("bn_fold", FOLDS)
@pytest.mark.parametrize("gamma", ["one zero", "all zero", "negative", "tiny"])
def test_zero_gamma_stays_finite_and_recovers(gamma, bn_fold, granularity, scales):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    live_in(model, gamma=gamma)
    with torch.no_grad():
        model[1].bias.abs_()  # pyright: ignore  # so that the ReLU lets gradients pass
        if gamma == "tiny":
            model[1].weight.fill_(1e-40)  # pyright: ignore
    spec = qat(bn_fold=bn_fold, granularity=granularity, scales=scales, weight_bits=4)
    folded = calibrated(model, spec, TRAIN.images_NCHW[:256]).train()
    gammas = folded[0].batchnorm.weight  # pyright: ignore
    before = gammas.detach().clone()
    optimizer = torch.optim.SGD(folded.parameters(), lr=0.05)
    for _ in range(5):
        for images_NCHW, labels_N in itertools.islice(TRAIN.epoch(None), 4):
            loss = F.cross_entropy(folded(images_NCHW), labels_N)
            optimizer.zero_grad()
            loss.backward()
            assert loss.isfinite()
            for name, parameter in folded.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
            optimizer.step()
    assert (gammas != before).any(), "a gamma of 0 still has a gradient"
    freeze(folded.eval())
    assert folded(TEST.images_NCHW).isfinite().all()


@pytest.mark.parametrize("settings", [{"scales": "learned"}, {"freeze_observers_after": 0}, {}], ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_layer_whose_gammas_are_all_zero_learns(granularity, settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    live_in(model, gamma="all zero")
    with torch.no_grad():
        model[1].bias.abs_()  # pyright: ignore
    spec = qat(bn_fold="fold", granularity=granularity, weight_bits=4, epochs=4, lr=0.01, **settings)
    folded = calibrated(model, spec, TRAIN.images_NCHW)
    train(folded, spec)
    assert (predict(folded, images_of(TEST)).argmax(1) == TEST.labels_N).double().mean() > 0.5


@pytest.mark.parametrize("bn_fold", FOLDS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_channel_of_gamma_zero_outputs_beta(granularity, bn_fold):
    model, images = layer_and_norm("conv2d", gamma="one zero")
    folded = calibrated(model, qat(bn_fold=bn_fold, granularity=granularity), images)
    for mode in (True, False):
        output = folded.train(mode)(images)
        torch.testing.assert_close(output[:, 0], model[1].bias[0].expand_as(output[:, 0]))  # pyright: ignore
        assert output[:, 1].std() > 0.1


# --- batch norm in eval ---


@pytest.mark.parametrize("bn_fold", ["none", *FOLDS])
@pytest.mark.parametrize("after", [0, 1])
def test_batch_norm_is_frozen_after_its_epoch_and_its_factors_still_train(after, bn_fold):
    spec = qat(bn_fold=bn_fold, granularity="per_tensor", freeze_bn_after=after, epochs=1)
    model, longer = (calibrated(trained_model(), spec, TRAIN.images_NCHW) for _ in range(2))
    start = norms_of(model)
    train(model, spec.model_copy(update={"schedule": "constant"}))
    train(longer, spec.model_copy(update={"schedule": "constant", "epochs": 3}))
    one, three = norms_of(model), norms_of(longer)
    assert len(three) == 3 * 5
    for name in three:
        moves_first = not torch.equal(one[name], start[name])
        moves_later = not torch.equal(three[name], one[name])
        is_statistic = "running" in name or "tracked" in name
        assert moves_first == (not is_statistic or after == 1), name
        assert moves_later == (not is_statistic), name


def norms_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items() if ".bn." in key or "batchnorm." in key}


def test_the_control_freezes_batch_norm_as_qat_does():
    control = qat(freeze_bn_after=0).control()
    assert control.freeze_bn_after == 0
    model = prepare(trained_model(), control, EXAMPLE).model
    start = norms_of(model)
    fit(model, TrainSpec(epochs=1, lr=0.1).with_recipe(control), train=TRAIN, val=VAL, seed=0, log=lambda _: None)
    for name, value in norms_of(model).items():
        assert torch.equal(value, start[name]) == ("running" in name or "tracked" in name), name


def test_with_batch_norm_frozen_from_the_start_both_folds_are_one():
    spec = qat(bn_fold="fold", granularity="per_tensor", weight_bits=3, freeze_bn_after=0)
    other = spec.model_copy(update={"bn_fold": "fold_calibrated"})
    models = []
    for one in (spec, other):
        models.append(calibrated(trained_model(), one, TRAIN.images_NCHW))
        train(models[-1], one)
    for first, second in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(first, second)
    assert other.normalized() == spec.normalized() == spec


# --- which layers ---


class Wired(nn.Module):
    def __init__(self, wire):
        super().__init__()
        self.wire = wire
        self.conv, self.bn = nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)
        self.other, self.other_bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, images):
        return self.wire(self, images)


def two_consumers(net: Wired, images: Tensor) -> Tensor:
    y = net.conv(images)
    return net.other_bn(net.other(net.bn(y) + y))


def two_heads(net: Wired, images: Tensor) -> tuple[Tensor, Tensor]:
    y = net.bn(net.conv(images))
    return net.other_bn(net.other(y)), y


@pytest.mark.parametrize(
    ("wire", "folded"),
    [
        (two_consumers, {"other": "other_bn"}),
        (two_heads, {"conv": "bn", "other": "other_bn"}),
        (lambda net, x: net.bn(input=net.conv(input=x)), {"conv": "bn"}),
    ],
    ids=["two consumers", "two heads", "keywords"],
)
def test_only_safe_pairs_are_trained_folded_and_the_report_says_so(wire, folded):
    prepared = prepare(live_in(Wired(wire)), qat(bn_fold="fold"), EXAMPLE)
    assert {layer.layer: layer.folded_batchnorm for layer in prepared.layers if layer.folded_batchnorm} == folded
    left = {layer.layer: layer.reason for layer in prepared.layers if layer.kind == "BatchNorm2d"}
    assert left.keys().isdisjoint(folded.values())
    assert not any("batchnorm" in name for name in left), "what is folded is told with its layer"
    if wire is two_consumers:
        assert "its input has other uses" in str(left["bn"])
    calibrate(prepared.model, [EXAMPLE])
    assert {layer.layer for layer in describe_layers(prepared.model)} == {layer.layer for layer in prepared.layers}
    outputs = prepared.model.train()(EXAMPLE)
    assert all(output.isfinite().all() for output in (outputs if isinstance(outputs, tuple) else (outputs,)))


def test_batch_norm_without_running_statistics_stays():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    prepared = prepare(model, qat(bn_fold="fold"), EXAMPLE)
    assert isinstance(prepared.model[1], nn.BatchNorm2d)  # pyright: ignore
    assert only_layer(prepared.model).batchnorm is None


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(
    ("name", "width", "shape", "n_folded"),
    [
        ("nin", 12, (4, 3, 16, 16), 9),
        ("nin_gc", 32, (4, 3, 16, 16), 9),
        ("resnet18", 4, (4, 3, 16, 16), 20),
        ("trident", 2, (4, 1, 48, 48), 0),
    ],
)
def test_every_network_trains_folded_and_freezes_to_the_same_logits(name, width, shape, n_folded, granularity):
    task = "gender" if name == "trident" else None
    spec = ModelSpec(name=name, width=width)
    model = live_in(build_model(spec, in_channels=shape[1], n_classes=2, seed=0, task=task))
    images = random(*shape)
    settings = qat(bn_fold="fold", granularity=granularity, quantize_adds=True)
    folded = calibrated(model, settings, images)
    assert sum(layer.batchnorm is not None for _, layer in quant_layers(folded)) == n_folded
    assert not any(isinstance(model, BatchNorm) for name, model in folded.named_modules() if "batchnorm" not in name)
    optimizer = torch.optim.SGD(folded.parameters(), lr=0.01)
    for _ in range(2):
        F.cross_entropy(folded.train()(images), torch.tensor([0, 1, 0, 1])).backward()
        optimizer.step()
    expected = predict(folded, [images])
    freeze(folded)
    assert torch.equal(predict(folded, [images]), expected)


def test_torchvisions_resnet18_starts_from_scratch_with_zero_gammas():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4, zero_init_residual=True)
    images = random(4, 3, 32, 32)
    for scales in SCALES:
        folded = calibrated(model, qat(bn_fold="fold", scales=scales, weight_bits=4), images).train()
        F.cross_entropy(folded(images), torch.arange(4)).backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in folded.parameters())


def test_the_state_dict_holds_the_batch_norm_inside_its_layer_until_the_freeze():
    model, images = layer_and_norm("no bias")
    folded = calibrated(model, qat(bn_fold="fold"), images)
    plain = {key for key in folded.state_dict() if "quantizer" not in key}
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert plain == {"0.weight", *(f"0.batchnorm.{part}" for part in parts)}
    freeze(folded)
    assert {key for key in folded.state_dict() if "quantizer" not in key} == {"0.weight", "0.bias"}


@pytest.mark.parametrize("kind", ["no bias", "linear"])
def test_a_frozen_model_loads_into_one_prepared_alike(kind):
    model, images = layer_and_norm(kind)
    spec = qat(bn_fold="fold")
    folded = calibrated(model, spec, images)
    freeze(folded)
    restored = prepare(model, spec, images).model
    load_weights(restored, weights_to_bytes(folded))
    assert torch.equal(predict(restored, [images]), predict(folded, [images]))
    assert not any(isinstance(module, BatchNorm) for module in restored.modules())


def test_bf16_trains_folded_with_float32_quantizers():
    seen = set()
    for bn_fold, granularity, scales in itertools.product(FOLDS, GRANULARITIES, SCALES):
        spec = qat(bn_fold=bn_fold, granularity=granularity, scales=scales, weight_bits=4)
        model = calibrated(trained_model(), spec, TRAIN.images_NCHW)
        for quantizer in quantizers(model):
            quantizer.register_forward_hook(lambda _q, inputs, output: seen.add((inputs[0].dtype, output.dtype)))
        train(model, spec, precision="bf16")
        assert all(quantizer.scale.dtype == torch.float32 for quantizer in quantizers(model))
        assert (predict(model, images_of(TEST)).argmax(1) == TEST.labels_N).double().mean() > 0.93
    assert {output for _, output in seen} == {torch.float32}
    assert torch.bfloat16 in {given for given, _ in seen}
