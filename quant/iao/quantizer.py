"""Preset `iao`: the arithmetic of the original scripts, whose quantizer is micronet's "IAO", and its one quantizer.

    u = x / scale + zero_point      level = clamp(round(u), quant_min, quant_max)      y = (level - zero_point) * scale

What makes it differ from `quant/quantizer/fake_quantize.py`:
- rounding is half away from zero, and comes after the zero point (which is minus the original's);
- a symmetric scale is peak / ((quant_max - quant_min) / 2), which is peak / 127.5 for 8-bit activations;
- activations are signed, also behind a ReLU, where half of the levels are then never used;
- an asymmetric range is not extended to 0, and an asymmetric weight has one level less;
- the range of weights never shrinks in training, and a percentile is that of |x| in one batch, averaged over batches;
- the gradient is also 0 outside the observed range. At a tie with the end of the grid it is 1, as on the torch of 2021
  that the original was written for: its clamp gives 1, 0.5 or 0 there, depending on the version of torch.

Mended: whether an observer has seen a batch is part of the state (its range is nan until then), as is all that the
gradient needs. The observers of an addition rest in eval mode. The percentile of a single value is that value.
"""

from dataclasses import replace
from typing import Any, Final, Self

import torch
from torch import Tensor

from quantfair.quant.quantizer.fake_quantize import FakeQuantize
from quantfair.quant.quantizer.observers import EMA_MOMENTUM, Range, extremes
from quantfair.quant.quantizer.qparams import QuantizerSpec
from quantfair.quant.specs.methods import IAO_HAS, QuantSettings

SMALLEST_SCALE: Final = torch.finfo(torch.float32).eps


class IaoQuantizerSpec(QuantizerSpec):
    """What one quantizer is asked for, on the original's grids: activations are always signed."""

    @classmethod
    def of_activation(cls, settings: QuantSettings) -> Self:
        """Return the activation half of `settings`."""
        return replace(super().of_activation(settings), may_be_unsigned=False)

    def grid(self, *, unsigned: bool) -> tuple[int, int]:
        """Return (quant_min, quant_max): that of `QuantizerSpec`, but for asymmetric weights."""
        if self.role == "weight" and not self.symmetric:
            return 0, 2**self.bits - 2
        return super().grid(unsigned=False)


def round_half_away(x: Tensor) -> Tensor:
    """Round ties away from zero. The largest float32 below 0.5 becomes 1, since adding 0.5 to it gives 1."""
    return x.abs().add_(0.5).floor_().copysign_(x)


def choose_iao_qparams(
    min_val: Tensor, max_val: Tensor, *, quant_min: int, quant_max: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Return (scale, zero_point) for an observed range. The zero point need not lie on the grid."""
    if symmetric:
        peak = torch.maximum(min_val.abs(), max_val.abs())
        scale = (peak / ((quant_max - quant_min) / 2)).clamp(min=SMALLEST_SCALE)
        return scale, torch.zeros_like(scale)
    scale = ((max_val - min_val) / (quant_max - quant_min)).clamp(min=SMALLEST_SCALE)
    return scale, -round_half_away(min_val / scale)


def observe(before: Range, x: Tensor, spec: QuantizerSpec) -> Range:
    """Return the range after one more batch. The first one, when `before` is nan, is copied."""
    see, combine = IAO_OBSERVERS[spec.observer]
    low, high = see(x, spec)
    later_low, later_high = combine(before, (low, high))
    is_first = before[1].isnan()
    return torch.where(is_first, low, later_low), torch.where(is_first, high, later_high)


def _see_extremes(x: Tensor, spec: QuantizerSpec) -> Range:
    return extremes(x, spec.axis)


def _see_percentile(x: Tensor, spec: QuantizerSpec) -> Range:
    high = kth_magnitude(x, spec.percentile)
    return torch.zeros_like(high), high


def _widen(before: Range, now: Range) -> Range:
    return torch.minimum(before[0], now[0]), torch.maximum(before[1], now[1])


def _move_average(before: Range, now: Range) -> Range:
    # Not torch.lerp, which rounds differently.
    low = (1 - EMA_MOMENTUM) * before[0] + EMA_MOMENTUM * now[0]
    high = (1 - EMA_MOMENTUM) * before[1] + EMA_MOMENTUM * now[1]
    return low, high


def kth_magnitude(x: Tensor, percentile: float) -> Tensor:
    """Return the k-th smallest of N magnitudes, k = int(percentile * N): below a million values all but the largest."""
    k = max(1, int(percentile * x.numel()))
    return x.abs().reshape(-1).kthvalue(k).values


# observer -> what is seen of a batch, and what becomes of it and the range before
IAO_OBSERVERS: Final = {
    "minmax": (_see_extremes, _widen),
    "ema": (_see_extremes, _move_average),
    "percentile": (_see_percentile, _move_average),
}
_NAMED: Final = tuple(dict.fromkeys([*IAO_HAS["act_observer"], *IAO_HAS["weight_observer"]]))
if set(IAO_OBSERVERS) != set(_NAMED):
    raise ValueError(f"preset iao has code for {', '.join(IAO_OBSERVERS)}, and IAO_HAS names {', '.join(_NAMED)}")


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, within: Range, bounds: tuple[int, int]
    ) -> Tensor:
        position = x / scale + zero_point
        levels = round_half_away(position)
        clamped = levels.clamp(*bounds)
        mask = (position >= within[0]) & (position <= within[1]) & (levels == clamped)
        ctx.save_for_backward(mask)
        return (clamped - zero_point) * scale

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        return grad_outputs[0] * mask, None, None, None, None


class IaoQuantizer(FakeQuantize):
    """A `FakeQuantize` with the original's arithmetic. Training needs no calibration: its first batch is copied."""

    copies_first_batch = True
    has_onnx_form = False

    def quantize(self, x: Tensor) -> Tensor:
        """Return `x` on the grid."""
        bounds = self.quant_min, self.quant_max
        if torch.is_grad_enabled() and x.requires_grad:
            return _StraightThrough.apply(x, self.scale, self.zero_point, self._observed_positions(), bounds)
        levels = round_half_away(x / self.scale + self.zero_point).clamp_(*bounds)
        return (levels - self.zero_point) * self.scale

    def _observed_positions(self) -> Range:
        """Where the ends of the observed range lie among the levels; symmetric: as far on either side."""
        low, high = (value / self.scale + self.zero_point for value in (self.min_val, self.max_val))
        if not self.spec.symmetric:
            return low, high
        peak = torch.maximum(low.abs(), high.abs())
        return -peak, peak

    @torch.no_grad()
    def follow(self, x: Tensor) -> None:
        """Let the range follow `x`."""
        self.set_range(*observe((self.min_val, self.max_val), x.detach(), self.spec))

    def forget(self) -> None:
        """Start afresh: the next batch is the first one."""
        for buffer in (self.min_val, self.max_val, self.scale):
            buffer.fill_(torch.nan)

    def _choose_qparams(self) -> tuple[Tensor, Tensor]:
        grid = {"quant_min": self.quant_min, "quant_max": self.quant_max, "symmetric": self.spec.symmetric}
        return choose_iao_qparams(self.min_val, self.max_val, **grid)


class IaoPairQuantizer(IaoQuantizer):
    """One grid for the two inputs of an addition, over the union of what the observer of each has seen."""

    lows_2: Tensor
    highs_2: Tensor

    def __init__(self, spec: QuantizerSpec, *, layer: str):
        super().__init__(spec, layer=layer)
        self.register_buffer("lows_2", torch.full((2,), torch.nan))
        self.register_buffer("highs_2", torch.full((2,), torch.nan))

    def follow(self, x: Tensor) -> None:
        """Do nothing: one input alone does not move the range that both share."""

    @torch.no_grad()
    def follow_both(self, *inputs: Tensor) -> None:
        """Let the range follow both inputs, where a quantizer would follow its one."""
        if not (self.enabled and self.mode == "follow" and self.training):
            return
        for index, x in enumerate(inputs):
            before = self.lows_2[index], self.highs_2[index]
            self.lows_2[index], self.highs_2[index] = observe(before, x.detach().float(), self.spec)
        self.set_range(self.lows_2.amin(), self.highs_2.amax())

    def forget(self) -> None:
        """Start afresh, both observers."""
        super().forget()
        self.lows_2.fill_(torch.nan)
        self.highs_2.fill_(torch.nan)
