"""Observers: tensors go in, the range that a grid should cover comes out.

    activations   minmax      smallest and largest value since the last reset
                  ema         moving average of each batch's minimum and maximum
                  percentile  two-sided quantile of everything since the last reset, from a histogram
    weights       minmax      smallest and largest value of the tensor as it is now
                  ema         moving average over the training steps
                  percentile  two-sided quantile of the tensor as it is now, exact

All state is in buffers. `min_val` and `max_val` have the shape of the quantizer's scale: () per tensor, otherwise one
value per channel, kept broadcastable against the tensor, such as (O, 1, 1, 1) for a weight_OIHW.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from quant.qparams import TensorSpec

EMA_MOMENTUM = 0.1  # the share of the newest batch; the first batch is copied


def extremes(x: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest values of `x`, per index of `axis` or over everything.

    amin and amax, since torch.aminmax along a dimension is 10 to 20 times slower (torch 2.14.1, CPU, 4.2M values).
    """
    if axis is None:
        return x.amin(), x.amax()
    others = [dim for dim in range(x.ndim) if dim != axis]
    return x.amin(others, keepdim=True), x.amax(others, keepdim=True)


class Observer(nn.Module):
    """The state that every observer has. `observe` takes a tensor and its extremes, which the caller has checked."""

    has_memory: ClassVar[bool] = True  # whether the range depends on more than the last tensor
    min_val: Tensor
    max_val: Tensor
    n_observed: Tensor

    def __init__(self, spec: TensorSpec, shape: tuple[int, ...]):
        super().__init__()
        self.spec = spec
        self.register_buffer("min_val", torch.full(shape, torch.inf))
        self.register_buffer("max_val", torch.full(shape, -torch.inf))
        self.register_buffer("n_observed", torch.zeros((), dtype=torch.int64))

    def reset(self) -> None:
        """Forget everything seen."""
        self.min_val.fill_(torch.inf)
        self.max_val.fill_(-torch.inf)
        self.n_observed.zero_()

    def observe(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        """Take one more tensor into account. `low` and `high` are `extremes(x, axis)`."""
        raise NotImplementedError

    def range(self) -> tuple[Tensor, Tensor]:
        """Return the (minimum, maximum) that the grid should cover."""
        return self.min_val, self.max_val


class RunningMinMax(Observer):
    """The extremes of everything observed."""

    def observe(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        """Widen the range."""
        self.min_val.copy_(torch.minimum(self.min_val, low))
        self.max_val.copy_(torch.maximum(self.max_val, high))
        self.n_observed += 1


class CurrentMinMax(Observer):
    """The extremes of the last tensor."""

    has_memory = False

    def observe(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        """Replace the range."""
        self.min_val.copy_(low)
        self.max_val.copy_(high)
        self.n_observed += 1


class EmaMinMax(Observer):
    """A moving average of the extremes."""

    def observe(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        """Move a tenth of the way to the new extremes; copy the first ones."""
        is_first = self.n_observed == 0
        self.min_val.copy_(torch.where(is_first, low, torch.lerp(self.min_val, low, EMA_MOMENTUM)))
        self.max_val.copy_(torch.where(is_first, high, torch.lerp(self.max_val, high, EMA_MOMENTUM)))
        self.n_observed += 1


class CurrentQuantile(Observer):
    """The exact two-sided quantile of the last tensor, as numpy.quantile defines it."""

    has_memory = False

    def observe(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        """Replace the range."""
        axis = self.spec.axis
        rows = x.reshape(1, -1) if axis is None else x.movedim(axis, 0).flatten(1)
        self.min_val.copy_(-upper_quantile(-rows, self.spec.percentile).reshape(low.shape))
        self.max_val.copy_(upper_quantile(rows, self.spec.percentile).reshape(low.shape))
        self.n_observed += 1


class Histogram(Observer):
    """The two-sided quantile of everything observed, from a histogram over [-width * BINS / 2, width * BINS / 2).

    The bin width is a power of two that doubles, merging neighbours exactly, until the largest value fits. So a bin is
    at most 1 / 2048 of the largest magnitude, and a quantile at most one bin from numpy.quantile of all the data.
    """

    BINS = 8192
    counts: Tensor
    width: Tensor

    def __init__(self, spec: TensorSpec, shape: tuple[int, ...]):
        super().__init__(spec, shape)
        assert spec.axis is None, "a histogram covers a whole tensor"
        self.register_buffer("counts", torch.zeros(self.BINS, dtype=torch.int64))
        self.register_buffer("width", torch.full((), torch.finfo(torch.float32).tiny))

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        self.counts.zero_()
        self.width.fill_(torch.finfo(torch.float32).tiny)

    def observe(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        """Add the values of `x` to the histogram. They must be finite."""
        self.min_val.copy_(torch.minimum(self.min_val, low))
        self.max_val.copy_(torch.maximum(self.max_val, high))
        self.n_observed += 1
        self._widen_to(max(-float(low), float(high)))
        bins = (x.flatten() / self.width).floor_().add_(self.BINS // 2).long()
        self.counts += torch.bincount(bins, minlength=self.BINS)

    def _widen_to(self, peak: float) -> None:
        quarter = self.BINS // 4
        while peak >= float(self.width) * self.BINS / 2:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts.zero_()
            self.counts[quarter : 3 * quarter] = merged
            self.width *= 2

    def range(self) -> tuple[Tensor, Tensor]:
        """Return the quantiles at 1 - percentile and percentile."""
        return self._quantile(1 - self.spec.percentile), self._quantile(self.spec.percentile)

    def _quantile(self, q: float) -> Tensor:
        """Interpolate between the two nearest ranks, each placed evenly inside its bin."""
        ends = self.counts.cumsum(0)
        last = int(ends[-1]) - 1
        position = q * last
        ranks = torch.tensor([int(position), min(int(position) + 1, last)], device=ends.device)
        bins = torch.searchsorted(ends, ranks, right=True)
        inside = (ranks - (ends - self.counts)[bins] + 0.5) / self.counts[bins]
        values = (bins - self.BINS // 2 + inside) * self.width
        lower, upper = values.clamp(self.min_val, self.max_val).float()
        return torch.lerp(lower, upper, position - int(position))


def upper_quantile(rows: Tensor, q: float) -> Tensor:
    """Return the quantile `q` of each row, linearly interpolated, by sorting only the part of the row above it."""
    from_top = (1 - q) * (rows.shape[1] - 1)
    first = int(from_top)
    top = rows.topk(min(first + 2, rows.shape[1]), dim=1).values
    return torch.lerp(top[:, first], top[:, -1], from_top - first)


OBSERVERS: dict[tuple[str, str], type[Observer]] = {
    ("activation", "minmax"): RunningMinMax,
    ("activation", "ema"): EmaMinMax,
    ("activation", "percentile"): Histogram,
    ("weight", "minmax"): CurrentMinMax,
    ("weight", "ema"): EmaMinMax,
    ("weight", "percentile"): CurrentQuantile,
}
