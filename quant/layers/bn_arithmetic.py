"""The fold of a batch norm into the layer before it, as arithmetic on tensors; which layer that is, is not known here.

    f = gamma / sqrt(var + eps)        weight' = weight * f        bias' = (bias - mean) * f + beta

(Jacob et al. 2018, section 3.2). Nothing is divided by gamma, so gamma = 0 is an ordinary value. All of it is float64,
so that a fold rounds once. O counts output channels; a batch norm without gamma and beta gives scalars.
"""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm


def running_mean_and_variance(batchnorm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the running statistics, or 0 and 1 where batch norm keeps none."""
    mean_O = float64(batchnorm.running_mean, 0)
    variance_O = float64(batchnorm.running_var, 1)
    return mean_O, variance_O


def fold_factor(batchnorm: BatchNorm, variance_O: Tensor) -> Tensor:
    """Return f, by which the weight of each output channel is multiplied."""
    return float64(batchnorm.weight, 1) / (variance_O + batchnorm.eps).sqrt()


def fold_bias(bias_O: Tensor | None, batchnorm: BatchNorm, *, mean_O: Tensor, factor_O: Tensor) -> Tensor:
    """Return the bias of layer and batch norm in one."""
    return (float64(bias_O, 0) - mean_O) * factor_O + float64(batchnorm.bias, 0)


def float64(tensor: Tensor | None, default: float) -> Tensor:
    """Return the tensor in float64, or a scalar where there is none."""
    return torch.tensor(default, dtype=torch.float64) if tensor is None else tensor.double()
