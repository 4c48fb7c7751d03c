import copy

import pytest
import torch
import torchvision
from torch import nn

from quantfair.quant import PtqSpec, describe_layers, prepare
from quantfair.quant.layers.bn_fold import find_bn_pairs, fold_batchnorm
from quantfair.quant.layers.modules import QUANTIZED, swap

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def with_lived_in_batchnorm(model: nn.Module) -> nn.Module:
    """Random statistics and parameters, the first gamma zero, in eval mode."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.3, generator=generator)
                nn.init.normal_(module.bias, 0, 0.3, generator=generator)
                with torch.no_grad():
                    module.weight[0] = 0
    return model.eval()


def swapped(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if type(module) in QUANTIZED:
            swap(module)
    return model


@torch.no_grad()
def check_folding(model: nn.Module, pairs: list[tuple[str, str]], images=IMAGES, atol=1e-5) -> nn.Module:
    """Assert that exactly `pairs` are found and that folding them changes no output by more than `atol`."""
    model = with_lived_in_batchnorm(model)
    folded = swapped(model)
    assert find_bn_pairs(folded, images) == pairs
    fold_batchnorm(folded, images)
    for _, batchnorm in pairs:
        assert isinstance(folded.get_submodule(batchnorm), nn.Identity)
    expected, actual = model(images), folded(images)
    for one, other in zip(*((x if isinstance(x, tuple) else (x,)) for x in (actual, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=atol)
    return folded


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(3, 8, 3, bias=False),
        nn.Conv2d(3, 6, 3, groups=3, stride=2),
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular", dilation=2),
        nn.ConvTranspose2d(3, 8, 2, stride=2),
        nn.ConvTranspose2d(3, 6, 3, stride=2, groups=3, output_padding=1, bias=False),
    ],
    ids=["conv", "no bias", "grouped", "circular", "transposed", "grouped transposed"],
)
@pytest.mark.parametrize("affine", [True, False])
def test_folding_keeps_the_output(layer, affine):
    batchnorm = nn.BatchNorm2d(layer.out_channels, affine=affine, eps=1e-3)
    check_folding(nn.Sequential(layer, batchnorm), [("0", "1")])


def test_folding_a_transposed_convolution_whose_groups_are_wider_than_one():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 12, 2, groups=4), nn.BatchNorm2d(12))
    check_folding(model, [("1", "2")])


@pytest.mark.parametrize(("conv", "norm", "ndim"), [(nn.Conv1d, nn.BatchNorm1d, 1), (nn.Conv3d, nn.BatchNorm3d, 3)])
def test_folding_in_one_and_three_dimensions(conv, norm, ndim):
    images = torch.randn(2, 3, *[6] * ndim)
    check_folding(nn.Sequential(conv(3, 5, 3), norm(5)), [("0", "1")], images)


def test_folding_a_linear_layer():
    check_folding(nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.ReLU()), [("0", "1")], torch.randn(6, 7))


def test_a_linear_layer_whose_channels_are_not_those_of_batchnorm_is_refused():
    # Linear makes (N, 5, 5): its features are the last axis, batch norm's channels the second.
    check_folding(nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5)), [], torch.randn(6, 5, 7))


def test_resnet18_has_twenty_pairs():
    folded = check_folding(torchvision.models.resnet18(), RESNET18_PAIRS, torch.randn(2, 3, 64, 64), atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


RESNET18_PAIRS = [("conv1", "bn1")]
for stage in (1, 2, 3, 4):
    for block in (0, 1):
        name = f"layer{stage}.{block}"
        RESNET18_PAIRS += [(f"{name}.conv1", f"{name}.bn1"), (f"{name}.conv2", f"{name}.bn2")]
        if block == 0 and stage > 1:
            RESNET18_PAIRS.append((f"{name}.downsample.0", f"{name}.downsample.1"))


class Net(nn.Module):
    """Two convolutions and two batch norms, wired by `wire(net, images)`."""

    def __init__(self, wire):
        super().__init__()
        self.wire = wire
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.up, self.up_bn = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), nn.BatchNorm2d(4)

    def forward(self, images):
        return self.wire(self, images)


def two_consumers(net, images):
    y = net.conv(images)
    if images.sum() < 1e9:  # control flow on data: fatal for a tracer
        return net.up_bn(net.up(net.bn(y) + y))
    return y


def returned(net, images):
    y = net.conv(images)
    return net.bn(y), y


def called_twice(net, images):
    return net.bn(net.conv(images)) + net.conv(images + 1)


def shared_batchnorm(net, images):
    y = net.bn(net.conv(images))
    return net.bn(net.up(y))


def relu_between(net, images):
    return net.bn(net.conv(images).relu_())


def data_is_read(net, images):
    y = net.conv(images)
    return net.bn(y) + y.data


def shape_is_read(net, images):
    y = net.conv(images)
    return net.bn(y) * y.shape[1] * y.dim() * y.size(0)


@pytest.mark.parametrize(
    ("wire", "pairs"),
    [
        (two_consumers, [("up", "up_bn")]),
        (returned, []),
        (called_twice, []),
        (shared_batchnorm, []),
        (relu_between, []),
        (data_is_read, []),
        (shape_is_read, [("conv", "bn")]),
        (lambda net, images: net.up_bn(net.up(net.bn(net.conv(images)))), [("conv", "bn"), ("up", "up_bn")]),
    ],
    ids=[
        "two consumers",
        "returned",
        "called twice",
        "shared bn",
        "relu between",
        "data is read",
        "shape is read",
        "plain",
    ],
)
def test_only_safe_pairs_are_folded(wire, pairs):
    check_folding(Net(wire), pairs)


def test_batchnorm_without_running_statistics_is_refused():
    check_folding(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), [])


class BatchNormAct(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(input).relu()


def test_a_subclass_of_batchnorm_that_may_do_more_is_refused():
    check_folding(nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct(4)), [])


def test_a_layer_that_shares_its_weight_is_refused():
    net = Net(lambda net, images: net.bn(net.conv(images)) + net.twin(images))
    net.twin = nn.Conv2d(3, 4, 1)
    net.twin.weight = net.conv.weight
    check_folding(net, [])


def test_a_pair_registered_under_two_names_is_folded_under_both():
    net = Net(lambda net, images: net.bn(net.conv(images)))
    net.same_bn, net.same_conv = net.bn, net.conv
    folded = check_folding(net, [("conv", "bn")])
    assert isinstance(folded.get_submodule("same_bn"), nn.Identity)
    assert folded.get_submodule("same_conv") is folded.get_submodule("conv")


def test_searching_leaves_the_model_as_it_was():
    model = swapped(Net(two_consumers)).train()
    model.get_submodule("bn").eval()
    before = copy.deepcopy(model.state_dict())
    find_bn_pairs(model, IMAGES)
    assert model.training
    assert not model.get_submodule("bn").training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("bn_fold", "reason"), [("fold", "its input has other uses"), ("none", "`bn_fold` is none")])
def test_a_batchnorm_left_alone_is_reported_with_the_reason(bn_fold, reason):
    prepared = prepare(Net(two_consumers).eval(), PtqSpec(method="ptq", bn_fold=bn_fold), IMAGES).model
    reports = {report.layer: report for report in describe_layers(prepared)}
    assert reports["bn"].status == "float"
    assert reason in (reports["bn"].reason or "")
    assert reports["up"].folded_batchnorm == ("up_bn" if bn_fold == "fold" else None)
    assert ("up_bn" in reports) == (bn_fold == "none")
