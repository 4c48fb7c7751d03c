"""A layer as a matrix product: what enters at each output position times the weight, for every kind of layer.

Letters: M output positions over all images, G groups, O outputs of a group, I inputs of one output.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantfair.quant.layers.modules import QuantConvTranspose2d, QuantLayer, QuantLinear


def flatten_weight(layer: QuantLayer, weight: Tensor) -> Tensor:
    """Return matrix_GOI of a `weight` of the shape of the layer's."""
    if isinstance(layer, QuantConvTranspose2d):  # its weight is (in, out of a group, H, W), and it mirrors the kernel
        return weight.flip(2, 3).unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(2)
    return weight.flatten(1).unflatten(0, (_groups(layer), -1))


def weight_of_matrix(layer: QuantLayer, matrix_GOI: Tensor) -> Tensor:
    """Return the weight whose matrix is `matrix_GOI`."""
    if isinstance(layer, QuantConvTranspose2d):
        per_group = matrix_GOI.reshape(layer.groups, layer.weight.shape[1], -1, *layer.weight.shape[2:])
        return per_group.transpose(1, 2).reshape(layer.weight.shape).flip(2, 3)
    return matrix_GOI.reshape(layer.weight.shape)


def count_inputs(layer: QuantLayer) -> int:
    """Return I, the inputs of one output."""
    return flatten_weight(layer, layer.weight).shape[2]


def unfold_inputs(layer: QuantLayer, x: Tensor, most: int | None = None) -> Tensor:
    """Return rows_MGI: what enters `layer` with input `x` at every output position, or at `most`, evenly spread.

    Only the chosen positions are copied out of the windows, which are a view: memory follows `most`.
    """
    is_linear = isinstance(layer, QuantLinear)
    windows = x.flatten(0, -2) if is_linear else _windows(layer, x)
    places = windows.shape[: 1 if is_linear else x.ndim - 1]
    n = places.numel()
    chosen_M = torch.arange(n, device=x.device)
    if most is not None and n > most:
        chosen_M = chosen_M[:most] * n // most
    rows = windows[torch.unravel_index(chosen_M, places)]
    return rows.flatten(1).unflatten(1, (_groups(layer), -1))


def _groups(layer: QuantLayer) -> int:
    return 1 if isinstance(layer, QuantLinear) else int(layer.groups)  # pyright: ignore


def _windows(layer: Any, x: Tensor) -> Tensor:
    """Return a view (N, output positions, C, kernel) of the padded input of a convolution."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    stride, padding = layer.stride, layer._reversed_padding_repeated_twice
    if isinstance(layer, QuantConvTranspose2d):
        x, stride, padding = _spread(layer, x), (1, 1), _transposed_padding(layer)
    x = F.pad(x, padding, mode=mode)
    for dim, (kernel, step, dilation) in enumerate(zip(layer.kernel_size, stride, layer.dilation, strict=True), 2):
        x = x.unfold(dim, dilation * (kernel - 1) + 1, step)[..., ::dilation]
    return x.movedim(1, len(layer.kernel_size) + 1)


def _spread(layer: Any, x: Tensor) -> Tensor:
    """Put zeros between the pixels: what a transposed convolution of that stride does."""
    (step_y, step_x), (height, width) = layer.stride, x.shape[2:]
    spread = x.new_zeros(*x.shape[:2], (height - 1) * step_y + 1, (width - 1) * step_x + 1)
    spread[:, :, ::step_y, ::step_x] = x
    return spread


def _transposed_padding(layer: Any) -> Sequence[int]:
    """Return the padding, last dimension first, with which a plain convolution computes a transposed one."""
    padding: list[int] = []
    for dim in (1, 0):
        border = layer.dilation[dim] * (layer.kernel_size[dim] - 1) - layer.padding[dim]
        padding += [border, border + layer.output_padding[dim]]
    return padding
