"""Layers that quantize their input and their weight (the bias stays float), and additions and concatenations that can.

A layer is swapped in place by assigning its `__class__`: no constructor arguments to copy, fp32 state-dict keys stay,
`isinstance(layer, nn.Conv2d)` stays true, and static classes pickle (classes built at run time do not). A swapped layer
starts with identities in place of quantizers, which computes exactly what the float layer computes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quantfair.quant.fake_quant import FakeQuantize
from quantfair.quant.folded import compute_folded, fold_parameters


class QuantLayer(nn.Module):
    """What all swapped layers share. `channel_axis` is the axis of the weight that counts output channels.

    `batchnorm` is there where QAT trains the layer folded with it (`quant/folded.py`). `learns_rounding` and
    `corrects_bias` say what `quant/corrections.py` does to it, and `note` why something asked for is left out.
    """

    channel_axis: ClassVar[int] = 0
    act_quantizer: FakeQuantize | nn.Identity
    weight_quantizer: FakeQuantize | nn.Identity
    weight: Tensor
    bias: Tensor | None
    batchnorm: BatchNorm | None
    folds_batch: bool = False
    catches_up: ClassVar[bool] = True  # whether evaluation takes the range of the weights as the last step left them
    folded_batchnorm: str | None = None
    float_because: str | None = None
    learns_rounding: bool = False
    corrects_bias: bool = False
    note: str | None = None

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the layer of the quantized input and the quantized weight."""
        args = (*args, *kwargs.values())  # the one that there is: `output_size` of a transposed convolution
        input = self.act_quantizer(input)
        if self.batchnorm is not None:
            return compute_folded(self, input, *args)
        return self.compute(input, self.weight_quantizer(self.weight), self.bias, *args)

    def compute(self, input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """Compute the layer with this weight and this bias."""
        raise NotImplementedError

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the layer and its batch norm (running statistics) in one."""
        assert self.batchnorm is not None
        return fold_parameters(self, self.batchnorm)

    def along_channels(self, values_O: Tensor) -> Tensor:
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

    def along_channels(self, values_O: Tensor) -> Tensor:
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


@contextmanager
def bypassed(model: nn.Module) -> Iterator[None]:
    """Let everything pass every quantizer of `model` unchanged, for a while."""
    before = {quantizer: quantizer.enabled for quantizer in quantizers(model)}
    try:
        for quantizer in before:
            quantizer.enabled = False
        yield
    finally:
        for quantizer, enabled in before.items():
            quantizer.enabled = enabled
