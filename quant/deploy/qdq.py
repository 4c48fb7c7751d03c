"""The quantizers of a frozen model as ONNX knows them: QuantizeLinear and DequantizeLinear, opset 21.

A copy of the model gets, in place of its fake quantizers, two operators of torch's that the exporter translates:

activations   quantfair::quantize_dequantize -> [Clip ->] QuantizeLinear -> DequantizeLinear
weights       quantfair::dequantize          -> DequantizeLinear of an integer initializer

Weights are the integers where they lie on their grid: nothing is quantized again. The smallest type of ONNX that holds
a grid stores it; QuantizeLinear saturates at the ends of its type, so a grid that is narrower (2, 3, 5 ... bits) has a
Clip before it. A zero point of 0 is left out where the type has 4 bits: ONNX Runtime 1.32 drops a Relu before a
QuantizeLinear of int4 that has one (ReluQuantRewrite). Activations with another zero point are never stored
in 4 bits: it cannot load a Clip before such a QuantizeLinear, nor a layer of 8-bit weights with one on either side.

A batch norm behind a quantized layer goes into scale and bias of the layer. That moves no weight on its grid either:
    level * scale * f = level * (scale * f);   where f < 0, the mirrored level times scale * abs(f)
"""

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quantfair.quant.layers.bn_fold import find_bn_pairs
from quantfair.quant.layers.modules import QuantConvTranspose2d, QuantLayer, quant_layers
from quantfair.quant.quantizer.fake_quantize import FakeQuantize

STORAGE_BITS: Final = (4, 8, 16)  # widths of integers that ONNX has at opset 21


class Storage(NamedTuple):
    """The integer type of ONNX that stores a grid, such as INT4 or UINT8."""

    bits: int
    signed: bool

    @staticmethod
    def of(quantizer: FakeQuantize) -> "Storage":
        """The smallest type that holds the grid."""
        bits = next(width for width in STORAGE_BITS if quantizer.spec.bits <= width)
        return Storage(bits, signed=quantizer.quant_min < 0)

    @property
    def name(self) -> str:
        """As in onnx.TensorProto."""
        return f"{'' if self.signed else 'U'}INT{self.bits}"

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.signed else (0, 2**self.bits - 1)


@torch.library.custom_op("quantfair::quantize_dequantize", mutates_args=())
def quantize_dequantize(
    x: Tensor, scale: Tensor, zero_point: int, quant_min: int, quant_max: int, storage: str
) -> Tensor:
    """Round `x` to a grid of one scale, with ONNX's arithmetic."""
    levels = torch.clamp(torch.round(x / scale), quant_min - zero_point, quant_max - zero_point)
    return levels * scale


@quantize_dequantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: int, quant_min: int, quant_max: int, storage: str) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("quantfair::dequantize", mutates_args=())
def dequantize(levels: Tensor, scale: Tensor, zero_point: Tensor, axis: int, storage: str) -> Tensor:
    """Return what integers mean. One scale and zero point for each place along `axis`, or one of each for all (-1)."""
    if axis >= 0:
        shape = [-1 if dim == axis else 1 for dim in range(levels.ndim)]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    return (levels - zero_point).float() * scale


@dequantize.register_fake
def _(levels: Tensor, scale: Tensor, zero_point: Tensor, axis: int, storage: str) -> Tensor:
    return torch.empty_like(levels, dtype=torch.float32)


class ActivationQDQ(nn.Module):
    """Quantizes and dequantizes what passes through it, on the grid of a frozen quantizer."""

    scale: Tensor

    def __init__(self, quantizer: FakeQuantize):
        super().__init__()
        self.register_buffer("scale", quantizer.scale.detach().clone())
        self.zero_point = int(quantizer.zero_point)
        storage = Storage.of(quantizer)
        storage = storage if self.zero_point == 0 else storage._replace(bits=max(storage.bits, 8))
        self.bounds, self.storage = (quantizer.quant_min, quantizer.quant_max), storage.name

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` on the grid."""
        return quantize_dequantize(x, self.scale, self.zero_point, *self.bounds, self.storage)


class WeightDQ(nn.Module):
    """Takes the place of a frozen weight quantizer: gives the weight from its integers, whatever it is passed."""

    levels: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, levels: Tensor, scale_C: Tensor, zero_point_C: Tensor, *, axis: int, storage: str):
        super().__init__()
        self.register_buffer("levels", levels.to(torch.int32))
        self.register_buffer("scale", scale_C if axis >= 0 else scale_C.reshape(()))
        zero_point_C = zero_point_C.to(torch.int32)
        self.register_buffer("zero_point", zero_point_C if axis >= 0 else zero_point_C.reshape(()))
        self.axis, self.storage = axis, storage

    def forward(self, _weight: Tensor) -> Tensor:
        """Return the weight."""
        return dequantize(self.levels, self.scale, self.zero_point, self.axis, self.storage)


@torch.no_grad()
def install_qdq(model: nn.Module, example_NCHW: Tensor) -> None:
    """Put ONNX's operators in place of the quantizers of a frozen `model`, and batch norms into quantized layers."""
    batchnorms = _take_out_batchnorms(model, example_NCHW)
    for _, layer in quant_layers(model):
        if isinstance(layer.weight_quantizer, FakeQuantize):
            _install_weight(layer, layer.weight_quantizer, batchnorms.get(layer))
    for module in list(model.modules()):
        if isinstance(quantizer := getattr(module, "act_quantizer", None), FakeQuantize):
            module.act_quantizer = ActivationQDQ(quantizer)


def _take_out_batchnorms(model: nn.Module, example_NCHW: Tensor) -> dict[QuantLayer, BatchNorm]:
    """Replace by identities the batch norms that can go into a quantized layer before them; return them."""
    found: dict[QuantLayer, BatchNorm] = {}
    for layer_name, batchnorm_name in find_bn_pairs(model, example_NCHW):
        layer: Any = model.get_submodule(layer_name)
        shares_channels = isinstance(layer, QuantConvTranspose2d) and layer.groups > 1
        if isinstance(layer.weight_quantizer, FakeQuantize) and not shares_channels:
            found[layer] = model.get_submodule(batchnorm_name)  # pyright: ignore[reportArgumentType]
            names = [name for name, m in model.named_modules(remove_duplicate=False) if m is found[layer]]
            for name in names:
                model.set_submodule(name, nn.Identity())
    return found


def _install_weight(layer: QuantLayer, quantizer: FakeQuantize, batchnorm: BatchNorm | None) -> None:
    axis = layer.channel_axis if quantizer.spec.axis is not None or batchnorm is not None else -1
    n_channels = layer.weight.shape[axis] if axis >= 0 else 1
    levels = quantizer.to_levels(layer.weight) + quantizer.quant_min
    scale_C = quantizer.scale.detach().flatten().expand(n_channels).clone()
    zero_point_C = quantizer.zero_point.flatten().expand(n_channels).clone()
    if batchnorm is not None:
        factor_C, bias_C = _describe_batchnorm(layer, batchnorm)
        along = [-1 if dim == axis else 1 for dim in range(levels.ndim)]
        mirror = quantizer.quant_min + quantizer.quant_max
        levels = torch.where((factor_C < 0).reshape(along), mirror - levels, levels)
        zero_point_C = torch.where(factor_C < 0, mirror - zero_point_C, zero_point_C)
        # A factor of 0 would be a scale of 0, which is none: the channel's weights are 0 instead.
        levels = torch.where((factor_C == 0).reshape(along), zero_point_C.reshape(along), levels)
        scale_C = torch.where(factor_C == 0, 1.0, scale_C.double() * factor_C.abs()).float()
        layer.bias = nn.Parameter(bias_C.float(), requires_grad=False)
    storage = Storage.of(quantizer).name
    layer.weight_quantizer = WeightDQ(levels, scale_C, zero_point_C, axis=axis, storage=storage)  # pyright: ignore


def _describe_batchnorm(layer: QuantLayer, batchnorm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return what batch norm multiplies the layer's output by, and the bias of both: float64, one for each channel."""
    assert batchnorm.running_mean is not None
    assert batchnorm.running_var is not None
    mean_C, variance_C = batchnorm.running_mean.double(), batchnorm.running_var.double()
    factor_C = (variance_C + batchnorm.eps).rsqrt()
    factor_C = factor_C if batchnorm.weight is None else factor_C * batchnorm.weight.double()
    bias_C = (0.0 if layer.bias is None else layer.bias.double()) - mean_C
    return factor_C, bias_C * factor_C + (0.0 if batchnorm.bias is None else batchnorm.bias.double())
