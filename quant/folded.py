"""A layer and its batch norm as one: the arithmetic of the fold, and of training folded.

    f = gamma / sqrt(var + eps)        weight' = weight * f        bias' = (bias - mean) * f + beta

(Jacob et al. 2018, section 3.2). Nothing is divided by gamma, so gamma = 0 is an ordinary value. In eval mode, and
where batch norm keeps its running statistics (`freeze_bn_after`), f, mean and var are those: what is deployed.
While batch statistics are used, there are two forms.

fold_calibrated   The weight is quantized as it will be deployed, folded with the running statistics, and unfolded
                  again for *one* convolution, whose output batch norm then normalizes: corrected to batch statistics,
                  those of the quantized layer.
fold              The weight is folded with the batch's statistics, which takes a convolution with the float weight
                  first. Where the grid of each channel follows its weights, quantizing commutes with f: the statistics
                  that fold the weight make no difference to it. There this takes the one convolution too, and so
                  corrects to the statistics of the quantized layer, not of the float one.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quantfair.quant.fake_quant import FakeQuantize

if TYPE_CHECKING:
    from quantfair.quant.modules import QuantLayer

_SMALLEST_FACTOR = 2.0**-100  # times a weight of 0.01 it is still far above the smallest scale of 16 bits, 2 ** -126


def fold_parameters(layer: "QuantLayer", batchnorm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the float32 weight and bias of layer and batch norm (running statistics) in one, through float64."""
    mean, variance = _float64(batchnorm.running_mean, 0), _float64(batchnorm.running_var, 1)
    return _fold(layer, batchnorm, mean, variance)


def starting_weight(layer: "QuantLayer", batchnorm: BatchNorm) -> Tensor:
    """Return the folded weight whose range a grid starts from that does not follow it: a channel of gamma 0 counts as
    one of gamma 1, since without a range it would be cut off for good as soon as gamma grows.
    """  # fmt: skip
    weight, _ = fold_parameters(layer, batchnorm)
    if not batchnorm.affine:
        return weight
    normalized = layer.weight * layer.along_channels((_float64(batchnorm.running_var, 1) + batchnorm.eps).rsqrt())
    return torch.where(layer.along_channels(batchnorm.weight == 0), normalized.float(), weight)


def compute_folded(layer: "QuantLayer", input: Tensor, *args: Any) -> Tensor:
    """Compute layer and batch norm of a quantized input: the forward pass of a layer that is trained folded."""
    batchnorm = layer.batchnorm
    assert batchnorm is not None
    quantizer = layer.weight_quantizer
    if not (isinstance(quantizer, FakeQuantize) and quantizer.enabled):
        return batchnorm(layer.compute(input, layer.weight, layer.bias, *args))
    if not batchnorm.training:
        weight, bias = fold_parameters(layer, batchnorm)
        return layer.compute(input, quantizer(weight), bias, *args)
    if layer.folds_batch and not _commutes(quantizer):
        return _fold_batch(layer, batchnorm, input, *args)
    return batchnorm(layer.compute(input, _quantize_folded(layer, batchnorm), layer.bias, *args))


def _commutes(quantizer: FakeQuantize) -> bool:
    """Whether the grid of each channel follows its weights, without memory."""
    return quantizer.mode == "follow" and quantizer.spec.axis is not None and quantizer.spec.observer != "ema"


def _quantize_folded(layer: "QuantLayer", batchnorm: BatchNorm) -> Tensor:
    """Quantize the weight folded with the running statistics; return it unfolded. A channel of gamma 0 (or next to it:
    its folded weights are below every grid) stays float: its output counts only for batch norm's statistics and for the
    gradient of gamma, without which gamma could never grow.
    """  # fmt: skip
    with torch.no_grad():
        variance = _float64(batchnorm.running_var, 1)
        factor_O = (_float64(batchnorm.weight, 1) / (variance + batchnorm.eps).sqrt()).float()
        factor_O = factor_O.expand(batchnorm.num_features)
        is_zero_O = factor_O.abs() < _SMALLEST_FACTOR
        factor = layer.along_channels(factor_O.masked_fill(is_zero_O, 1))
    quantized = layer.weight_quantizer(layer.weight * layer.along_channels(factor_O)) / factor
    return torch.where(layer.along_channels(is_zero_O), layer.weight, quantized)


def _fold_batch(layer: "QuantLayer", batchnorm: BatchNorm, input: Tensor, *args: Any) -> Tensor:
    output = layer.compute(input, layer.weight, layer.bias, *args)
    with torch.no_grad():
        batchnorm(output)  # moves the running statistics
    others = [dim for dim in range(output.ndim) if dim != 1]
    variance, mean = torch.var_mean(output.float(), others, correction=0)
    weight, bias = _fold(layer, batchnorm, mean.double(), variance.double())
    return layer.compute(input, layer.weight_quantizer(weight), bias, *args)


def _fold(layer: "QuantLayer", batchnorm: BatchNorm, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    factor = _float64(batchnorm.weight, 1) / (variance + batchnorm.eps).sqrt()
    bias = (_float64(layer.bias, 0) - mean) * factor + _float64(batchnorm.bias, 0)
    return (layer.weight * layer.along_channels(factor)).float(), bias.float().to(layer.weight.device)


def _float64(tensor: Tensor | None, default: float) -> Tensor:
    return torch.tensor(default, dtype=torch.float64) if tensor is None else tensor.double()
