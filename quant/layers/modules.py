"""Layers that quantize their input and their weight (the bias stays float), and additions and concatenations that can.

A layer is swapped in place by assigning its `__class__`: no constructor arguments to copy, fp32 state-dict keys stay,
`isinstance(layer, nn.Conv2d)` stays true, and static classes pickle (classes built at run time do not). A swapped layer
starts with identities in place of quantizers, which computes exactly what the float layer computes.

A layer that QAT trains folded with its batch norm is deployed with the running statistics, which eval mode and frozen
batch norms (`freeze_bn_after`) use, too. While batch statistics are used, there are two forms:

fold_calibrated   The weight is quantized as it will be deployed, folded with the running statistics, and unfolded
                  again for *one* convolution. Batch norm then normalizes its output: so the output is corrected to
                  the batch statistics of the quantized layer.
fold              The weight is folded with the batch's statistics, which takes a convolution with the float weight
                  first. Where the grid of each channel follows its weights, quantizing commutes with the factor of
                  the fold: the statistics that fold the weight make no difference to it. There this form takes the
                  one convolution, too, and so corrects to the statistics of the quantized layer, not of the float one.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quantfair.quant.layers.bn_arithmetic import fold_bias, fold_factor, running_mean_and_variance
from quantfair.quant.quantizer.fake_quantize import FakeQuantize
from quantfair.quant.quantizer.observers import forgets_weights

# Times a weight of 0.01 this factor is still far above the smallest scale of 16 bits, 2 ** -126.
_SMALLEST_FACTOR: Final = 2.0**-100


class QuantLayer(nn.Module):
    """What all swapped layers share. `channel_axis` is the axis of the weight that counts output channels.

    `batchnorm` is there where QAT trains the layer folded with it. `learns_rounding` and
    `corrects_bias` say what `quant/ptq/corrections.py` does to it, and `note` why something asked for is left out.
    """

    channel_axis: ClassVar[int] = 0
    act_quantizer: FakeQuantize | nn.Identity
    weight_quantizer: FakeQuantize | nn.Identity
    weight: Tensor
    bias: Tensor | None
    batchnorm: BatchNorm | None
    folds_batch: bool = False
    refreshes_range_after_epoch: ClassVar[bool] = (
        True  # whether evaluation takes the range of the weights as the last step left them
    )
    folded_batchnorm: str | None = None
    float_reason: str | None = None
    learns_rounding: bool = False
    corrects_bias: bool = False
    note: str | None = None

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the layer of the quantized input and the quantized weight."""
        args = (*args, *kwargs.values())  # the one that there is: `output_size` of a transposed convolution
        input = self.act_quantizer(input)
        if self.batchnorm is not None:
            return self._compute_folded(self.batchnorm, input, *args)
        return self.compute(input, self.weight_quantizer(self.weight), self.bias, *args)

    def compute(self, input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """Compute the layer with this weight and this bias."""
        raise NotImplementedError

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the layer and its batch norm (running statistics) in one, as float32."""
        assert self.batchnorm is not None
        mean_O, variance_O = running_mean_and_variance(self.batchnorm)
        return self._fold(self.batchnorm, mean_O, variance_O)

    def starting_weight(self) -> Tensor:
        """Return the folded weight whose range sets a grid that stays as it is.

        A channel of gamma 0 counts as one of gamma 1: without a range it would be cut off for good as soon as its
        gamma grows.
        """
        assert self.batchnorm is not None
        weight, _ = self.folded()
        if not self.batchnorm.affine:
            return weight
        _, variance_O = running_mean_and_variance(self.batchnorm)
        factor_O = (variance_O + self.batchnorm.eps).rsqrt()
        normalized = self.weight * self.broadcast_over_channels(factor_O)
        return torch.where(self.broadcast_over_channels(self.batchnorm.weight == 0), normalized.float(), weight)

    def _compute_folded(self, batchnorm: BatchNorm, input: Tensor, *args: Any) -> Tensor:
        """Compute layer and batch norm of a quantized input: the forward pass of a layer that is trained folded."""
        quantizer = self.weight_quantizer
        if not (isinstance(quantizer, FakeQuantize) and quantizer.enabled):
            return batchnorm(self.compute(input, self.weight, self.bias, *args))
        if not batchnorm.training:
            weight, bias = self.folded()
            return self.compute(input, quantizer(weight), bias, *args)
        if self.folds_batch and not _commutes_with_fold(quantizer):
            return self._fold_batch(batchnorm, input, *args)
        return batchnorm(self.compute(input, self._quantize_folded(batchnorm), self.bias, *args))

    def _quantize_folded(self, batchnorm: BatchNorm) -> Tensor:
        """Quantize the weight folded with the running statistics, and return it unfolded.

        A channel whose gamma is 0, or so small that its folded weights are below every grid, stays float. Its output
        counts only for the statistics of batch norm and for the gradient of gamma, without which gamma never grows.
        """
        with torch.no_grad():
            _, variance_O = running_mean_and_variance(batchnorm)
            factor_O = fold_factor(batchnorm, variance_O).float().expand(batchnorm.num_features)
            is_zero_O = factor_O.abs() < _SMALLEST_FACTOR
            divisor = self.broadcast_over_channels(factor_O.masked_fill(is_zero_O, 1))
        quantized = self.weight_quantizer(self.weight * self.broadcast_over_channels(factor_O)) / divisor
        return torch.where(self.broadcast_over_channels(is_zero_O), self.weight, quantized)

    def _fold_batch(self, batchnorm: BatchNorm, input: Tensor, *args: Any) -> Tensor:
        """Fold with the statistics of this batch, for which the float weight is computed first."""
        output = self.compute(input, self.weight, self.bias, *args)
        with torch.no_grad():
            batchnorm(output)  # moves the running statistics
        others = [dim for dim in range(output.ndim) if dim != 1]
        variance_O, mean_O = torch.var_mean(output.float(), others, correction=0)
        weight, bias = self._fold(batchnorm, mean_O.double(), variance_O.double())
        return self.compute(input, self.weight_quantizer(weight), bias, *args)

    def _fold(self, batchnorm: BatchNorm, mean_O: Tensor, variance_O: Tensor) -> tuple[Tensor, Tensor]:
        factor_O = fold_factor(batchnorm, variance_O)
        bias_O = fold_bias(self.bias, batchnorm, mean_O=mean_O, factor_O=factor_O)
        weight = self.weight * self.broadcast_over_channels(factor_O)
        return weight.float(), bias_O.float().to(self.weight.device)

    def broadcast_over_channels(self, values_O: Tensor) -> Tensor:
        """Shape one value per output channel, or one for all, to multiply the weight."""
        return values_O.reshape(-1, *[1] * (self.weight.ndim - 1))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        state_dict, prefix = args[:2]
        is_finished = f"{prefix}bias" in state_dict and f"{prefix}batchnorm.running_mean" not in state_dict
        if self.batchnorm is not None and is_finished:  # the state of a frozen model: batch norm is in weight and bias
            self.bias = nn.Parameter(self.weight.new_zeros(self.batchnorm.num_features))
            self.batchnorm = None
        super()._load_from_state_dict(*args, **kwargs)


class _QuantConv(QuantLayer):
    def compute(self, input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """Convolve."""
        return self._conv_forward(input, weight, bias)  # pyright: ignore


class QuantConv1d(_QuantConv, nn.Conv1d):
    """nn.Conv1d with quantizers."""


class QuantConv2d(_QuantConv, nn.Conv2d):
    """nn.Conv2d with quantizers."""


class QuantConv3d(_QuantConv, nn.Conv3d):
    """nn.Conv3d with quantizers."""


class QuantConvTranspose2d(QuantLayer, nn.ConvTranspose2d):  # pyright: ignore[reportIncompatibleMethodOverride]
    """nn.ConvTranspose2d with quantizers. Its weight is (in, out / groups, H, W): groups share the channels' scales."""

    channel_axis = 1

    def compute(self, input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """Convolve, to the output size in `args` where the stride leaves a choice."""
        output_size = args[0] if args else None
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation  # pyright: ignore
        )  # fmt: skip
        return F.conv_transpose2d(
            input, weight, bias, self.stride, self.padding,  # pyright: ignore
            output_padding, self.groups, self.dilation,
        )  # fmt: skip

    def broadcast_over_channels(self, values_O: Tensor) -> Tensor:
        """Shape the values by the weight: each group of inputs has its own outputs."""
        if values_O.numel() == 1:
            return values_O.reshape(1, 1, 1, 1)
        per_group = values_O.reshape(self.groups, -1)
        per_input = per_group.repeat_interleave(self.in_channels // self.groups, dim=0)
        return per_input.reshape(*self.weight.shape[:2], 1, 1)


class QuantLinear(QuantLayer, nn.Linear):
    """nn.Linear with quantizers."""

    def compute(self, input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """Multiply."""
        return F.linear(input, weight, bias)


class Add(nn.Module):
    """a + b as a module, so that `quantize_adds` can see it: the end of a residual block."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the sum."""
        return a + b


class Concat(nn.Module):
    """torch.cat along the channels as a module, so that `quantize_adds` can see it."""

    def forward(self, *parts: Tensor) -> Tensor:
        """Return the parts side by side along dimension 1."""
        return torch.cat(parts, dim=1)


class QuantInput(nn.Module):
    """What the quantized forms of modules without weights share: only their input is quantized."""

    act_quantizer: FakeQuantize


class QuantAdd(QuantInput, Add):
    """An addition whose inputs are quantized, both on one grid."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the sum of the quantized inputs."""
        return self.act_quantizer(a) + self.act_quantizer(b)


class QuantConcat(QuantInput, Concat):
    """A concatenation whose inputs are quantized, all on one grid."""

    def forward(self, *parts: Tensor) -> Tensor:
        """Return the quantized parts side by side."""
        return torch.cat([self.act_quantizer(part) for part in parts], dim=1)


QUANTIZED: Final[dict[type[nn.Module], type[QuantLayer]]] = {
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.Conv3d: QuantConv3d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.Linear: QuantLinear,
}
JOINS: Final[dict[type[nn.Module], type[QuantAdd | QuantConcat]]] = {Add: QuantAdd, Concat: QuantConcat}
SITES: Final = (*QUANTIZED, Add, Concat)  # what calibration looks at; the quantized forms are subclasses


def swap(layer: nn.Module) -> None:
    """Turn a float layer, of a type in `QUANTIZED`, into its quantized form, with identities for quantizers."""
    layer.__class__ = QUANTIZED[type(layer)]
    layer.act_quantizer = nn.Identity()
    layer.weight_quantizer = nn.Identity()
    layer.batchnorm = None  # pyright: ignore[reportArgumentType]


def quant_layers(model: nn.Module) -> Iterator[tuple[str, QuantLayer]]:
    """Yield (name, layer) for every swapped layer."""
    for name, module in model.named_modules():
        if isinstance(module, QuantLayer):
            yield name or "(model)", module


def quantizers(model: nn.Module) -> Iterator[FakeQuantize]:
    """Yield every quantizer of `model`."""
    return (module for module in model.modules() if isinstance(module, FakeQuantize))


def _commutes_with_fold(quantizer: FakeQuantize) -> bool:
    """Return whether the grid of each channel follows its weights, without memory."""
    return quantizer.mode == "follow" and quantizer.spec.axis is not None and forgets_weights(quantizer.spec)


def deployed_weight(layer: QuantLayer) -> Tensor:
    """The float weight that is quantized when `layer` is deployed: folded where a batch norm goes into it."""
    return layer.weight if layer.batchnorm is None else layer.folded()[0]
