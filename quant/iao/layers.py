"""Preset `iao` put into a model: what the original quantizes there, and its folded convolution.

Quantized: input and weight of Conv2d, ConvTranspose2d (weight per tensor) and Linear; the input of LeakyReLU, Sigmoid,
MaxPool2d, AvgPool2d and AdaptiveAvgPool2d; both inputs of `Add` on one grid. First and last layers like all others.

Mended: a class is swapped, so no constructor argument is lost. Only a batch norm right behind its convolution is
folded, and a convolution without one is quantized all the same.
"""

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quantfair.quant.iao.quantizer import IaoPairQuantizer, IaoQuantizer, IaoQuantizerSpec
from quantfair.quant.layers.bn_fold import attach_batchnorm
from quantfair.quant.layers.modes import device_of
from quantfair.quant.layers.modules import (
    Add,
    Concat,
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose2d,
    QuantInput,
    QuantLayer,
    quantizers,
)
from quantfair.quant.layers.settings import input_spec, settings_by_layer
from quantfair.quant.quantizer.qparams import QuantizerSpec
from quantfair.quant.specs.methods import PtqSpec, QatSpec


class IaoConv2d(QuantConv2d):
    """A convolution trained folded with its batch norm, as the original does.

    A first convolution of the unquantized input gives the statistics of the batch, with the unbiased variance where
    torch's batch norm has the biased one. bn_fold = "fold" quantizes the weight folded with *them*, although evaluation
    folds with the running statistics: where the two differ much, evaluation cuts weights off at a range that training
    has learned for others. Prefer "fold_calibrated", which folds with the running statistics and corrects the output.
    """

    refreshes_range_after_epoch = False  # the deployed weight is not what training observes

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute convolution and batch norm of the quantized input and the quantized folded weight."""
        batchnorm = self.batchnorm
        if batchnorm is None:
            return super().forward(input)
        if not batchnorm.training:
            weight, bias_O = self.folded()
            return self.compute(self.act_quantizer(input), self.weight_quantizer(weight), bias_O)
        variance_O, mean_O = self._statistics(input)
        _move_statistics(batchnorm, mean_O, variance_O)
        bias_O, folded_with_O = self._folded_bias(mean_O, variance_O), variance_O
        if not self.folds_batch:
            assert batchnorm.running_var is not None
            folded_with_O = batchnorm.running_var
        input = self.act_quantizer(input)
        output = self.compute(input, self.weight_quantizer(self._folded_weight(folded_with_O)), None)
        if not self.folds_batch:
            correction_O = (folded_with_O + batchnorm.eps).sqrt() / (variance_O + batchnorm.eps).sqrt()
            output = output * correction_O.reshape(-1, 1, 1)
        return output + bias_O.reshape(-1, 1, 1)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of both in one, in float32 throughout, as the original computes them."""
        assert self.batchnorm is not None
        mean_O, variance_O = self.batchnorm.running_mean, self.batchnorm.running_var
        assert mean_O is not None
        assert variance_O is not None
        return self._folded_weight(variance_O), self._folded_bias(mean_O, variance_O)

    def _statistics(self, input: Tensor) -> tuple[Tensor, Tensor]:
        output = self.compute(input, self.weight, self.bias).float()
        if output.numel() == output.shape[1]:
            raise ValueError(
                f"batch norm needs more than one value per channel to train, got an output of {tuple(output.shape)}; "
                "give each batch at least two images"
            )
        return torch.var_mean(output, (0, 2, 3))

    def _factor(self, variance_O: Tensor) -> Tensor:
        assert self.batchnorm is not None
        inverse_O = 1.0 if self.batchnorm.weight is None else self.batchnorm.weight
        return inverse_O / (variance_O + self.batchnorm.eps).sqrt()

    def _folded_weight(self, variance_O: Tensor) -> Tensor:
        return self.weight * self.broadcast_over_channels(self._factor(variance_O))

    def _folded_bias(self, mean_O: Tensor, variance_O: Tensor) -> Tensor:
        assert self.batchnorm is not None
        shift_O = -mean_O if self.bias is None else self.bias - mean_O
        bias_O = shift_O * self._factor(variance_O)
        return bias_O if self.batchnorm.bias is None else self.batchnorm.bias + bias_O


@torch.no_grad()
def _move_statistics(batchnorm: BatchNorm, mean_O: Tensor, variance_O: Tensor) -> None:
    """Move the running statistics; a batch norm that has counted no batch yet takes over those of its first."""
    n_batches = batchnorm.num_batches_tracked
    assert n_batches is not None
    momentum = 1 / (int(n_batches) + 1) if batchnorm.momentum is None else batchnorm.momentum
    for running_O, new_O in ((batchnorm.running_mean, mean_O), (batchnorm.running_var, variance_O)):
        assert running_O is not None
        running_O.copy_(torch.where(n_batches == 0, new_O, (1 - momentum) * running_O + momentum * new_O))
    n_batches.add_(1)


class IaoAdd(QuantInput, Add):
    """An addition with an observer for each input and one grid for both."""

    act_quantizer: IaoPairQuantizer  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the sum of the quantized inputs."""
        self.act_quantizer.follow_both(a, b)
        return self.act_quantizer(a) + self.act_quantizer(b)


class _OneInput(QuantInput):
    def forward(self, input: Tensor) -> Any:
        """Compute the float module of the quantized input."""
        return super().forward(self.act_quantizer(input))  # pyright: ignore


class IaoLeakyReLU(_OneInput, nn.LeakyReLU):
    """nn.LeakyReLU of a quantized input."""


class IaoSigmoid(_OneInput, nn.Sigmoid):
    """nn.Sigmoid of a quantized input."""


class IaoMaxPool2d(_OneInput, nn.MaxPool2d):
    """nn.MaxPool2d of a quantized input."""


class IaoAvgPool2d(_OneInput, nn.AvgPool2d):
    """nn.AvgPool2d of a quantized input."""


class IaoAdaptiveAvgPool2d(_OneInput, nn.AdaptiveAvgPool2d):
    """nn.AdaptiveAvgPool2d of a quantized input."""


ONE_INPUT: Final[dict[type[nn.Module], type[QuantInput]]] = {
    nn.LeakyReLU: IaoLeakyReLU,
    nn.Sigmoid: IaoSigmoid,
    nn.MaxPool2d: IaoMaxPool2d,
    nn.AvgPool2d: IaoAvgPool2d,
    nn.AdaptiveAvgPool2d: IaoAdaptiveAvgPool2d,
}
LEFT_FLOAT: Final = (QuantConv1d, QuantConv3d, Concat)


def install_iao(model: nn.Module, spec: PtqSpec | QatSpec, called: Iterable[nn.Module], example_NCHW: Tensor) -> None:
    """Quantize a swapped `model` in place as the original would: those of its modules that were `called`.

    Raises ValueError where only layers are left that the preset does not quantize.
    """
    if spec.bn_fold != "none":
        _fold(model, spec, example_NCHW)
    called = list(called)
    device = device_of(model)
    names = {module: name or "(model)" for name, module in model.named_modules()}
    channel_axes = {names[module]: _channel_axis(module) for module in called if isinstance(module, QuantLayer)}
    asked = settings_by_layer(spec, channel_axes, kind=IaoQuantizerSpec)
    of_input = input_spec(spec, IaoQuantizerSpec)
    assert of_input is not None, "the preset has no float activations"
    for module in called:
        if isinstance(module, LEFT_FLOAT):
            kind = type(module).__name__.removeprefix("Quant")
            module.float_reason = f"preset iao leaves {kind} in float"  # pyright: ignore
        elif isinstance(module, QuantLayer):
            settings = asked[names[module]]
            assert settings.activation is not None, "the preset has no float activations"
            module.weight_quantizer = _weight_quantizer(module, names[module], settings.weight).to(device)
            module.act_quantizer = IaoQuantizer(settings.activation, layer=names[module]).to(device)
        elif type(module) in ONE_INPUT:
            module.__class__ = ONE_INPUT[type(module)]
            module.act_quantizer = IaoQuantizer(of_input, layer=names[module]).to(device)
        elif type(module) is Add:
            module.__class__ = IaoAdd
            module.act_quantizer = IaoPairQuantizer(of_input, layer=names[module]).to(device)
    if next(quantizers(model), None) is None:
        raise ValueError(f"{type(model).__name__} has nothing that preset iao quantizes; set preset to none")


def _fold(model: nn.Module, spec: PtqSpec | QatSpec, example_NCHW: Tensor) -> None:
    attach_batchnorm(model, example_NCHW, folds_batch=spec.bn_fold == "fold", kind=QuantConv2d)
    for module in model.modules():
        if isinstance(module, QuantConv2d) and module.batchnorm is not None:
            module.__class__ = IaoConv2d
            from_scratch = isinstance(spec, QatSpec) and spec.init == "scratch"
            assert module.batchnorm.num_batches_tracked is not None
            module.batchnorm.num_batches_tracked.fill_(0 if from_scratch else 1)


def _channel_axis(layer: QuantLayer) -> int | None:
    """Return the axis that counts the channels of a weight; the original has one grid for a transposed convolution."""
    return None if isinstance(layer, QuantConvTranspose2d) else layer.channel_axis


def _weight_quantizer(layer: QuantLayer, name: str, asked: QuantizerSpec) -> IaoQuantizer:
    shape = () if asked.axis is None else layer.broadcast_over_channels(torch.empty(len(layer.weight))).shape
    return IaoQuantizer(asked, layer=name, shape=tuple(shape))
