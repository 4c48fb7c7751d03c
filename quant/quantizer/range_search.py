"""Observers that compare candidate ranges: 1/64, 2/64 ... 64/64 of the observed range, on the grid that is asked for.

mse   least squared rounding and clipping error: of a histogram's bins, or of the weights themselves
kl    least divergence of the quantized distribution from the observed one (Migacz, 8-bit Inference with TensorRT, GTC
      2017), with bins grouped by the level that the grid in question gives them
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from quantfair.quant.quantizer.histogram import Histogram
from quantfair.quant.quantizer.qparams import QuantizerSpec, choose_qparams

N_CANDIDATES = 64


def search_least_squares(
    histogram: Histogram, low: Tensor, high: Tensor, spec: QuantizerSpec, *, unsigned: bool
) -> tuple[Tensor, Tensor]:
    """Return the range inside (low, high), scalars, of the least squared error of the values in `histogram`."""
    centers, counts = histogram.centers()

    def errors(scale: Tensor, zero_point: Tensor) -> Tensor:
        levels = _levels(centers, scale, zero_point, spec, unsigned)
        return _squared_error(centers, counts, levels, scale, zero_point)

    return _search(low, high, spec, unsigned=unsigned, errors=errors)


def search_least_divergence(
    histogram: Histogram, low: Tensor, high: Tensor, spec: QuantizerSpec, *, unsigned: bool
) -> tuple[Tensor, Tensor]:
    """Return the range inside (low, high), scalars, of the least divergence from the values in `histogram`."""
    centers, counts = histogram.centers()
    counts = _without_zeros(centers, counts, histogram.width)

    def errors(scale: Tensor, zero_point: Tensor) -> Tensor:
        levels = _levels(centers, scale, zero_point, spec, unsigned)
        return _kl_divergence(centers, counts, levels, scale, zero_point)

    return _search(low, high, spec, unsigned=unsigned, errors=errors)


def search_weight(weight: Tensor, low: Tensor, high: Tensor, spec: QuantizerSpec) -> tuple[Tensor, Tensor]:
    """Return the range of the least squared error of each channel of `weight`; low and high broadcast against it."""
    others = [dim for dim in range(weight.ndim) if low.ndim == 0 or low.shape[dim] == 1]

    def errors(scale: Tensor, zero_point: Tensor) -> Tensor:
        levels = _levels(weight, scale, zero_point, spec, unsigned=False)
        return _to_real(levels, scale, zero_point).sub_(weight).square_().sum(others).reshape(low.shape)

    return _search(low, high, spec, unsigned=False, errors=errors)


def _search(
    low: Tensor, high: Tensor, spec: QuantizerSpec, *, unsigned: bool, errors: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    best, best_error = torch.ones_like(low), torch.full_like(low, torch.inf, dtype=torch.float64)
    for share, scale, zero_point in _candidates(low, high, spec, unsigned):
        error = errors(scale, zero_point).double()
        better = error < best_error
        best, best_error = torch.where(better, share, best), torch.where(better, error, best_error)
    return low * best, high * best


def _candidates(
    low: Tensor, high: Tensor, spec: QuantizerSpec, unsigned: bool
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Yield (share, scale, zero_point), the whole range first: of equals it wins."""
    quant_min, quant_max = spec.grid(unsigned=unsigned)
    for step in range(N_CANDIDATES, 0, -1):
        share = step / N_CANDIDATES
        grid = {"quant_min": quant_min, "quant_max": quant_max, "symmetric": spec.symmetric}
        yield share, *choose_qparams(low * share, high * share, **grid)


def _levels(x: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantizerSpec, unsigned: bool) -> Tensor:
    return (x / scale).round_().add_(zero_point).clamp_(*spec.grid(unsigned=unsigned))


def _to_real(levels: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return levels.sub_(zero_point).mul_(scale)


def _squared_error(centers: Tensor, counts: Tensor, levels: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return (counts * _to_real(levels, scale, zero_point).sub_(centers).square_()).sum()


def _without_zeros(centers: Tensor, counts: Tensor, width: float) -> Tensor:
    """Give the bin of 0 no more than the next one has: the zeros of a ReLU are exact on every grid, and their spike
    would count for the narrowest (NVIDIA's pytorch-quantization does the same).
    """  # fmt: skip
    at = int((centers < 0).sum())  # the first bin from 0 up
    if at + 1 < len(centers) and centers[at] < width:
        counts = counts.clone()
        counts[at] = torch.minimum(counts[at], counts[at + 1])
    return counts


def _kl_divergence(centers: Tensor, counts: Tensor, levels: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """KL(P || Q): P has what is cut off in its outermost bins, Q spreads every level's inside mass over its bins.

    Q is not normalized to 1: of data with few distinct values a range of one bin would else be a perfect match.
    """
    inside = (centers / scale - (levels - zero_point)).abs() <= 0.5  # the others are cut off
    if not inside.any():
        return torch.tensor(torch.inf)
    first, last = int(inside.nonzero()[0]), int(inside.nonzero()[-1])
    p = counts[first : last + 1].clone()
    p[0] += counts[:first].sum()
    p[-1] += counts[last + 1 :].sum()
    groups = (levels[first : last + 1] - levels[first]).long()
    mass = torch.zeros(int(groups[-1]) + 1, dtype=torch.float64)
    n_bins = mass.clone()
    mass.index_add_(0, groups, counts[first : last + 1])
    n_bins.index_add_(0, groups, torch.ones_like(p))
    q = (mass / n_bins)[groups]
    return (p * (p / q).log()).sum() / p.sum()
