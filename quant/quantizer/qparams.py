"""From an observed range to a grid of integers: the only place for quant_min, quant_max, scale and zero_point.

A real value x stands on the grid as the integer clamp(round(x / scale) + zero_point, quant_min, quant_max), rounded
half to even as ONNX QuantizeLinear defines it, and means (integer - zero_point) * scale. All of it is float32, in which
integers up to 2^24 are exact.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import torch
from torch import Tensor

from quantfair.quant.specs.methods import (
    MOST_BITS_STARTED_BY_MSE,
    MOST_SEARCHED_BITS,
    SEARCHING,
    QatSpec,
    QuantSettings,
)

# The smallest normal float32. A larger floor (torch.ao uses 1.2e-7) would already distort 16-bit weights of a channel
# whose peak is below 0.004; a smaller one would be denormal, which accelerators flush to zero.
SMALLEST_SCALE: Final = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class QuantizerSpec:
    """What one quantizer is asked for. `axis` is the channel axis, None for one grid over the whole tensor.

    `follows`: the range follows the values in training, until epoch `follows_until` where that is a number.
    """

    role: Literal["weight", "activation"]
    bits: int
    symmetric: bool
    observer: str
    percentile: float
    axis: int | None = None
    may_be_unsigned: bool = False
    follows: bool = False
    follows_until: int | None = None
    has_learned_scale: bool = False

    @classmethod
    def of_weight(cls, settings: QuantSettings, channel_axis: int | None) -> Self:
        """Return the weight half of `settings`, for a layer whose output channels lie on `channel_axis`.

        Without that axis the weight has one grid, whatever the granularity.
        """
        return cls(
            role="weight",
            bits=settings.weight_bits,
            symmetric=settings.scheme == "symmetric",
            observer=_observer(settings, settings.weight_observer, settings.weight_bits),
            percentile=settings.percentile,
            axis=channel_axis if settings.granularity == "per_channel" else None,
            **_training(settings),
        )

    @classmethod
    def of_activation(cls, settings: QuantSettings) -> Self:
        """Return the activation half of `settings`: always one grid for the whole tensor."""
        symmetric = settings.scheme == "symmetric"
        return cls(
            role="activation",
            bits=settings.act_bits,
            symmetric=symmetric,
            observer=_observer(settings, settings.act_observer, settings.act_bits),
            percentile=settings.percentile,
            may_be_unsigned=symmetric and settings.act_signed == "auto",
            **_training(settings),
        )

    def grid(self, *, unsigned: bool) -> tuple[int, int]:
        """Return (quant_min, quant_max); `unsigned` only matters for symmetric activations.

        Symmetric weights leave out the lowest integer, so that the grid is its own mirror image and int8 kernels
        cannot overflow (TensorRT and ONNX Runtime expect it).
        """
        if not self.symmetric or unsigned:
            return 0, 2**self.bits - 1
        highest = 2 ** (self.bits - 1) - 1
        return (-highest, highest) if self.role == "weight" else (-highest - 1, highest)


def _observer(settings: QuantSettings, observer: str, bits: int) -> str:
    """The observer that counts: no search above 10 bits, and a learned scale of few bits starts from one (LSQ+)."""
    if isinstance(settings, QatSpec) and settings.scales == "learned" and bits <= MOST_BITS_STARTED_BY_MSE:
        return "mse"
    return "minmax" if observer in SEARCHING and bits > MOST_SEARCHED_BITS else observer


def _training(settings: QuantSettings) -> dict[str, Any]:
    if not isinstance(settings, QatSpec):
        return {}
    if settings.scales == "learned":
        return {"has_learned_scale": True}
    return {"follows": settings.freeze_observers_after != 0, "follows_until": settings.freeze_observers_after}


def choose_qparams(
    min_val: Tensor, max_val: Tensor, *, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Return (scale, zero_point), float32, of the shape of `min_val`, for values between `min_val` and `max_val`.

    Symmetric: scale = peak / quant_max, where the peak of an unsigned grid (quant_min = 0) is the maximum alone.
    Asymmetric: the range is extended to contain 0, so that zero padding is exact (Jacob et al. 2018, section 2.1;
    Krishnamoorthi 2018, section 2.1).
    """
    if symmetric:
        peak = max_val if quant_min == 0 else torch.maximum(-min_val, max_val)
        scale = (peak / quant_max).clamp(min=SMALLEST_SCALE)
        return scale, torch.zeros_like(scale)
    min_val, max_val = min_val.clamp(max=0), max_val.clamp(min=0)
    scale = ((max_val - min_val) / (quant_max - quant_min)).clamp(min=SMALLEST_SCALE)
    return scale, (quant_min - min_val / scale).round().clamp(quant_min, quant_max)
