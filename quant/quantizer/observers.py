"""Observers: what was seen goes in, the range that a grid should cover comes out.

                of a calibration                                          in training (`follow`)
    minmax      smallest and largest value                                activations: the same; weights: of this step
    ema         moving average of each batch's minimum and maximum        goes on; weights: over the steps
    percentile  two-sided quantile of all values; exact for weights       weights: of this step
    mse, kl     the searched range of `quant/quantizer/range_search.py`             not offered

A range is a pair of tensors of the shape of the quantizer's scale: () per tensor, otherwise one value per channel, kept
broadcastable against the tensor, such as (O, 1, 1, 1) for a weight_OIHW.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantfair.quant.quantizer.histogram import Histogram
from quantfair.quant.quantizer.qparams import QuantizerSpec
from quantfair.quant.quantizer.range_search import search_histogram, search_weight
from quantfair.quant.specs.methods import SEARCHING

EMA_MOMENTUM = 0.1  # the share of the newest batch; the first batch is copied

Range = tuple[Tensor, Tensor]


@dataclass
class ActivationStats:
    """What calibration saw at one place: the extremes of every batch, by its index, and one histogram of everything."""

    extremes_B: dict[int, tuple[float, float]] = field(default_factory=dict)
    histogram: Histogram = field(default_factory=Histogram)

    def add(self, x: Tensor, batch: int, low: float, high: float) -> None:
        """Take in finite values of one batch, whose extremes are `low` and `high`; a layer may be called again."""
        before = self.extremes_B.get(batch, (low, high))
        self.extremes_B[batch] = min(low, before[0]), max(high, before[1])
        self.histogram.add(x, max(-low, high))

    def merge(self, other: "ActivationStats") -> None:
        """Take in what `other` saw of other batches."""
        self.extremes_B |= other.extremes_B
        self.histogram.merge(other.histogram)

    def smallest(self) -> float:
        """The smallest value of all: it decides whether the grid can be unsigned, whatever range is chosen."""
        return min(low for low, _ in self.extremes_B.values())


def extremes(x: Tensor, axis: int | None) -> Range:
    """Return the smallest and largest values of `x`, per index of `axis` or over everything.

    amin and amax, since torch.aminmax along a dimension is 10 to 20 times slower (torch 2.14.1, CPU, 4.2M values).
    """
    if axis is None:
        return x.amin(), x.amax()
    others = [dim for dim in range(x.ndim) if dim != axis]
    return x.amin(others, keepdim=True), x.amax(others, keepdim=True)


def activation_range(seen: ActivationStats, spec: QuantizerSpec, *, unsigned: bool) -> Range:
    """Return the range for activations; `unsigned` matters to observers that compare grids."""
    lows_B, highs_B = torch.tensor([seen.extremes_B[batch] for batch in sorted(seen.extremes_B)]).unbind(1)
    low, high = lows_B.amin(), highs_B.amax()
    if spec.observer == "ema":
        return _average(lows_B), _average(highs_B)
    if spec.observer == "percentile":
        quantiles = seen.histogram.quantile(1 - spec.percentile), seen.histogram.quantile(spec.percentile)
        return tuple(torch.tensor(value).clamp(low, high) for value in quantiles)  # pyright: ignore
    if spec.observer in SEARCHING:
        return search_histogram(seen.histogram, low, high, spec, unsigned=unsigned)
    return low, high


def weight_range(weight: Tensor, spec: QuantizerSpec) -> Range:
    """Return the range for a weight as it is now."""
    low, high = extremes(weight, spec.axis)
    if spec.observer == "percentile":
        rows = weight.reshape(1, -1) if spec.axis is None else weight.movedim(spec.axis, 0).flatten(1)
        quantiles = -upper_quantile(-rows, spec.percentile), upper_quantile(rows, spec.percentile)
        return quantiles[0].reshape(low.shape), quantiles[1].reshape(high.shape)
    if spec.observer in SEARCHING:
        return search_weight(weight, low, high, spec)
    return low, high


def follow(before: Range, x: Tensor, spec: QuantizerSpec) -> Range:
    """Return the range after one more step of training, in which the quantizer met `x`."""
    low, high = weight_range(x, spec) if spec.role == "weight" else extremes(x, None)
    if spec.observer == "ema":
        return torch.lerp(before[0], low, EMA_MOMENTUM), torch.lerp(before[1], high, EMA_MOMENTUM)
    if spec.role == "weight":
        return low, high
    return torch.minimum(before[0], low), torch.maximum(before[1], high)


def _average(values_B: Tensor) -> Tensor:
    """Return the moving average that starts with a copy of the first value."""
    average = values_B[0]
    for value in values_B[1:]:
        average = torch.lerp(average, value, EMA_MOMENTUM)
    return average


def upper_quantile(rows: Tensor, q: float) -> Tensor:
    """Return the quantile `q` of each row, as numpy.quantile defines it, by sorting only the part above it."""
    from_top = (1 - q) * (rows.shape[1] - 1)
    first = int(from_top)
    top = rows.topk(min(first + 2, rows.shape[1]), dim=1).values
    return torch.lerp(top[:, first], top[:, -1], from_top - first)
