"""Observers: what was seen goes in, the range that a grid should cover comes out.

                of a calibration                                          in training (`follow`)
    minmax      smallest and largest value                                activations: the same; weights: of this step
    ema         moving average of each batch's minimum and maximum        goes on; weights: over the steps
    percentile  two-sided quantile of all values; exact for weights       weights: of this step
    mse, kl     the searched range of `quant/quantizer/range_search.py`             not offered

An observer is one row of `OBSERVERS`, and its name in a Literal of `quant/specs/methods.py`. A name without its row, or
a row that lacks what the specs offer under its name, is an error as soon as this file is imported.

A range is a pair of tensors of the shape of the quantizer's scale: () per tensor, otherwise one value per channel, kept
broadcastable against the tensor, such as (O, 1, 1, 1) for a weight_OIHW.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar, get_args

import torch
from torch import Tensor

from quantfair.quant.quantizer.histogram import Histogram
from quantfair.quant.quantizer.qparams import QuantizerSpec
from quantfair.quant.quantizer.range_search import (
    search_least_divergence,
    search_least_squares,
    search_weight,
)
from quantfair.quant.specs.methods import (
    FOLLOWING_ACTIVATIONS,
    FOLLOWING_WEIGHTS,
    WITHOUT_MEMORY,
    ActObserver,
    WeightObserver,
)

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


@dataclass(frozen=True, kw_only=True)
class Observer:
    """One way to choose a range: what it does for each kind of tensor, or None where it has nothing to offer.

    `of_activation` gets what a calibration saw, and whether the grid will be unsigned, which matters where grids are
    compared. `of_weight` gets the weight as it is. The two others get the range after the step before, the tensor that
    a step of training brings, and return the range from which that step is quantized.
    """

    of_activation: Callable[[ActivationStats, QuantizerSpec, bool], Range] | None = None
    of_weight: Callable[[Tensor, QuantizerSpec], Range] | None = None
    activation_in_training: Callable[[Range, Tensor, QuantizerSpec], Range] | None = None
    weight_in_training: Callable[[Range, Tensor, QuantizerSpec], Range] | None = None


def activation_range(seen: ActivationStats, spec: QuantizerSpec, *, unsigned: bool) -> Range:
    """Return the range for activations; `unsigned` matters to observers that compare grids."""
    choose = _offered(_row(spec).of_activation, spec, "range of activations")
    return choose(seen, spec, unsigned)


def weight_range(weight: Tensor, spec: QuantizerSpec) -> Range:
    """Return the range for a weight as it is now."""
    choose = _offered(_row(spec).of_weight, spec, "range of weights")
    return choose(weight, spec)


def follow(before: Range, x: Tensor, spec: QuantizerSpec) -> Range:
    """Return the range after one more step of training, in which the quantizer met `x`."""
    row = _row(spec)
    follows = row.weight_in_training if spec.role == "weight" else row.activation_in_training
    return _offered(follows, spec, f"range of {spec.role}s that follows training")(before, x, spec)


def forgets_weights(spec: QuantizerSpec) -> bool:
    """Return whether the range of a weight in training is that of the weight as it is, without memory."""
    return _row(spec).weight_in_training is _of_this_step


def _row(spec: QuantizerSpec) -> Observer:
    if spec.observer not in OBSERVERS:
        raise ValueError(f"there is no observer '{spec.observer}'; known are {', '.join(OBSERVERS)}")
    return OBSERVERS[spec.observer]


Ability = TypeVar("Ability")


def _offered(ability: Ability | None, spec: QuantizerSpec, what: str) -> Ability:
    if ability is None:
        raise ValueError(f"the observer '{spec.observer}' offers no {what}; take another one")
    return ability


# ---- minmax and ema ----


def _extremes_of_everything(seen: ActivationStats, _spec: QuantizerSpec, _unsigned: bool) -> Range:
    lows_B, highs_B = _extremes_by_batch(seen)
    return lows_B.amin(), highs_B.amax()


def _average_of_batches(seen: ActivationStats, _spec: QuantizerSpec, _unsigned: bool) -> Range:
    lows_B, highs_B = _extremes_by_batch(seen)
    return _average(lows_B), _average(highs_B)


def _extremes_by_batch(seen: ActivationStats) -> Range:
    """Return the minimum and the maximum of each batch, in the order of the batches."""
    extremes_B2 = torch.tensor([seen.extremes_B[batch] for batch in sorted(seen.extremes_B)])
    lows_B, highs_B = extremes_B2.unbind(1)
    return lows_B, highs_B


def _extremes_of_weight(weight: Tensor, spec: QuantizerSpec) -> Range:
    return extremes(weight, spec.axis)


def _widen(before: Range, x: Tensor, spec: QuantizerSpec) -> Range:
    low, high = extremes(x, spec.axis)
    return torch.minimum(before[0], low), torch.maximum(before[1], high)


def _move_average(before: Range, x: Tensor, spec: QuantizerSpec) -> Range:
    low, high = extremes(x, spec.axis)
    return torch.lerp(before[0], low, EMA_MOMENTUM), torch.lerp(before[1], high, EMA_MOMENTUM)


def _of_this_step(_before: Range, x: Tensor, spec: QuantizerSpec) -> Range:
    return weight_range(x, spec)


def _average(values_B: Tensor) -> Tensor:
    """Return the moving average that starts with a copy of the first value."""
    average = values_B[0]
    for value in values_B[1:]:
        average = torch.lerp(average, value, EMA_MOMENTUM)
    return average


# ---- percentile ----


def _quantiles_of_everything(seen: ActivationStats, spec: QuantizerSpec, unsigned: bool) -> Range:
    # The histogram is coarse: its quantiles may lie beyond what was seen.
    smallest, largest = _extremes_of_everything(seen, spec, unsigned)
    low = torch.tensor(seen.histogram.quantile(1 - spec.percentile))
    high = torch.tensor(seen.histogram.quantile(spec.percentile))
    return low.clamp(smallest, largest), high.clamp(smallest, largest)


def _quantiles_of_weight(weight: Tensor, spec: QuantizerSpec) -> Range:
    rows = weight.reshape(1, -1) if spec.axis is None else weight.movedim(spec.axis, 0).flatten(1)
    low = -upper_quantile(-rows, spec.percentile)
    high = upper_quantile(rows, spec.percentile)
    shape = extremes(weight, spec.axis)[0].shape
    return low.reshape(shape), high.reshape(shape)


def upper_quantile(rows: Tensor, q: float) -> Tensor:
    """Return the quantile `q` of each row, as numpy.quantile defines it, by sorting only the part above it."""
    from_top = (1 - q) * (rows.shape[1] - 1)
    first = int(from_top)
    top = rows.topk(min(first + 2, rows.shape[1]), dim=1).values
    return torch.lerp(top[:, first], top[:, -1], from_top - first)


# ---- mse and kl ----


def _search_squares(seen: ActivationStats, spec: QuantizerSpec, unsigned: bool) -> Range:
    low, high = _extremes_of_everything(seen, spec, unsigned)
    return search_least_squares(seen.histogram, low, high, spec, unsigned=unsigned)


def _search_divergence(seen: ActivationStats, spec: QuantizerSpec, unsigned: bool) -> Range:
    low, high = _extremes_of_everything(seen, spec, unsigned)
    return search_least_divergence(seen.histogram, low, high, spec, unsigned=unsigned)


def _search_weight(weight: Tensor, spec: QuantizerSpec) -> Range:
    low, high = extremes(weight, spec.axis)
    return search_weight(weight, low, high, spec)


# ---- the table ----

OBSERVERS: Final[dict[str, Observer]] = {
    "minmax": Observer(
        of_activation=_extremes_of_everything,
        of_weight=_extremes_of_weight,
        activation_in_training=_widen,
        weight_in_training=_of_this_step,
    ),
    "ema": Observer(
        of_activation=_average_of_batches,
        of_weight=_extremes_of_weight,  # seen once, so there is nothing to average
        activation_in_training=_move_average,
        weight_in_training=_move_average,
    ),
    "percentile": Observer(
        of_activation=_quantiles_of_everything,
        of_weight=_quantiles_of_weight,
        weight_in_training=_of_this_step,
    ),
    "mse": Observer(
        of_activation=_search_squares,
        of_weight=_search_weight,
    ),
    "kl": Observer(
        of_activation=_search_divergence,
    ),
}


def check_observers(table: Mapping[str, Observer]) -> None:
    """Raise ValueError where the rows of `table` and the names in `quant/specs/methods.py` do not agree."""
    named = {
        "of_activation": ("ActObserver", get_args(ActObserver)),
        "of_weight": ("WeightObserver", get_args(WeightObserver)),
        "activation_in_training": ("FOLLOWING_ACTIVATIONS", FOLLOWING_ACTIVATIONS),
        "weight_in_training": ("FOLLOWING_WEIGHTS", FOLLOWING_WEIGHTS),
    }
    faults = []
    for ability, (where, names) in named.items():
        rows = [name for name, row in table.items() if getattr(row, ability) is not None]
        faults += [f"'{name}' stands in {where}, and no row gives it `{ability}`" for name in names if name not in rows]
        faults += [f"'{name}' has `{ability}`, and does not stand in {where}" for name in rows if name not in names]
    without_memory = [name for name, row in table.items() if row.weight_in_training is _of_this_step]
    if set(without_memory) != set(WITHOUT_MEMORY):
        faults.append(f"WITHOUT_MEMORY must name {', '.join(without_memory)}, and names {', '.join(WITHOUT_MEMORY)}")
    if faults:
        raise ValueError(f"observers: {'; '.join(faults)} (OBSERVERS, and quant/specs/methods.py)")


check_observers(OBSERVERS)
