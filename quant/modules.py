"""Convolutions and linear layers that quantize their input and their weight; the bias stays float.

A layer is swapped in place by assigning its `__class__`: no constructor arguments to copy, fp32 state-dict keys stay,
`isinstance(layer, nn.Conv2d)` stays true, and static classes pickle (classes built at run time do not). A swapped layer
starts with identities in place of quantizers, which computes exactly what the float layer computes.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from quant.fake_quant import FakeQuantize


class QuantLayer(nn.Module):
    """What all swapped layers share. `channel_axis` is the axis of the weight that counts output channels."""

    channel_axis: ClassVar[int] = 0
    act_quantizer: FakeQuantize | nn.Identity
    weight_quantizer: FakeQuantize | nn.Identity
    weight: Tensor
    bias: Tensor | None
    folded_batchnorm: str | None = None


class _QuantConv(QuantLayer):
    def forward(self, input: Tensor) -> Tensor:
        """Convolve the quantized input with the quantized weight."""
        return self._conv_forward(self.act_quantizer(input), self.weight_quantizer(self.weight), self.bias)  # pyright: ignore


class QuantConv1d(_QuantConv, nn.Conv1d):
    """nn.Conv1d with quantizers."""


class QuantConv2d(_QuantConv, nn.Conv2d):
    """nn.Conv2d with quantizers."""


class QuantConv3d(_QuantConv, nn.Conv3d):
    """nn.Conv3d with quantizers."""


class QuantConvTranspose2d(QuantLayer, nn.ConvTranspose2d):
    """nn.ConvTranspose2d with quantizers. Its weight is (in, out / groups, H, W): groups share the channels' scales."""

    channel_axis = 1

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve the quantized input with the quantized weight."""
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation  # pyright: ignore
        )  # fmt: skip
        weight = self.weight_quantizer(self.weight)
        return F.conv_transpose2d(
            self.act_quantizer(input), weight, self.bias, self.stride, self.padding,  # pyright: ignore
            output_padding, self.groups, self.dilation,
        )  # fmt: skip


class QuantLinear(QuantLayer, nn.Linear):
    """nn.Linear with quantizers."""

    def forward(self, input: Tensor) -> Tensor:
        """Multiply the quantized input by the quantized weight."""
        return F.linear(self.act_quantizer(input), self.weight_quantizer(self.weight), self.bias)


QUANTIZED: dict[type[nn.Module], type[QuantLayer]] = {
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.Conv3d: QuantConv3d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.Linear: QuantLinear,
}


def swap(layer: nn.Module) -> None:
    """Turn a float layer, of a type in `QUANTIZED`, into its quantized form, with identities for quantizers."""
    layer.__class__ = QUANTIZED[type(layer)]
    layer.act_quantizer = nn.Identity()
    layer.weight_quantizer = nn.Identity()


def quant_layers(model: nn.Module) -> Iterator[tuple[str, QuantLayer]]:
    """Yield (name, layer) for every swapped layer."""
    for name, module in model.named_modules():
        if isinstance(module, QuantLayer):
            yield name or "(model)", module


def quantizers(model: nn.Module) -> Iterator[FakeQuantize]:
    """Yield every quantizer of `model`."""
    return (module for module in model.modules() if isinstance(module, FakeQuantize))
