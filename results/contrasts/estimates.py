"""Contrasts and answers -> what each contrast is worth in each group: drops seed by seed, intervals, flips.

Legend: K contrasts of one number of seeds S, G groups of one grouping, N images, T trials, M matches, B resamples.
Contrasts are linear combinations of trials, so what is resampled are the trials, once for each grouping.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from quantfair.results.configurations import group_by_key
from quantfair.results.contrasts.flips import SIDES, CorrectnessMatrix, Flips, FlipTable
from quantfair.results.contrasts.pairing import Contrast, Match
from quantfair.results.statistics.crossed import (
    Counts,
    crossed_interval,
    interval_of_counts,
    resample_drops,
    subtract,
)
from quantfair.results.statistics.intervals import Interval, excess_gap
from quantfair.results.statistics.resampling import resample_means, widen
from quantfair.results.tables.groupings import Grouping

_BLOCK: Final = 128  # contrasts whose numbers are made at once


class Estimate(NamedTuple):
    """One contrast in one grouping, fractions by group; nan where nothing can be said.

    `by_seed_GS` are the drops of the seeds.
    """

    n_G: np.ndarray
    by_seed_GS: np.ndarray
    drop_G: np.ndarray
    interval: Interval
    eag_G: np.ndarray
    eag_interval: Interval
    flips: Flips | None
    churn_G: np.ndarray | None


def estimate_contrasts(
    contrasts: Sequence[Contrast], ground: CorrectnessMatrix, table: FlipTable, grouping: Grouping
) -> dict[str, Estimate]:
    """Return the estimates of all contrasts that have a seed, by contrast_id. `table` is of this grouping."""
    n_G = grouping.sizes("test")
    means_BGT = resample_means(ground.right_NT, grouping.test_N, len(n_G))
    found = {}
    for block in _cut([contrast for contrast in contrasts if contrast.seeds]):
        found |= _estimate_block(block, ground, means_BGT, n_G, table)
    return found


def _cut(contrasts: Sequence[Contrast]) -> Iterator[list[Contrast]]:
    """Yield contrasts of equally many seeds and like terms."""
    for alike in group_by_key(((len(c.seeds), bool(c.subtracted)), c) for c in contrasts):
        yield from (alike[at : at + _BLOCK] for at in range(0, len(alike), _BLOCK))


def _estimate_block(
    contrasts: list[Contrast], ground: CorrectnessMatrix, means_BGT: np.ndarray, n_G: np.ndarray, table: FlipTable
) -> dict[str, Estimate]:
    terms = [[c.matches for c in contrasts]]
    terms += [[c.subtracted for c in contrasts]] if contrasts[0].subtracted else []
    drawn_BKG, by_seed_SKG = (
        _subtract([_draw(matches, ground, means_BGT) for matches in terms]),
        _subtract([table.drops(matches, n_G) for matches in terms]),
    )
    counts = [_count(matches, table, n_G) for matches in terms]
    drop_KG, share_G = by_seed_SKG.mean(axis=0), n_G / n_G.sum()
    interval = widen(crossed_interval(drawn_BKG, by_seed_SKG), interval_of_counts(*counts))
    interval = _clip(interval, limit=len(terms))
    overall = [np.nansum(values * share_G, axis=2, keepdims=True) for values in (drawn_BKG, by_seed_SKG)]
    excess_SKG = by_seed_SKG - overall[1]
    excess = widen(crossed_interval(drawn_BKG - overall[0], excess_SKG), _excess_interval(counts))
    eag_KG, *eag_limits = (np.where(n_G < n_G.sum(), part, np.nan) for part in (excess_SKG.mean(axis=0), *excess))
    return {
        contrast.contrast_id: Estimate(
            n_G,
            by_seed_SKG[:, k].T,
            drop_KG[k],
            _at(interval, k),
            eag_KG[k],
            _at(Interval(*eag_limits), k),
            table.rates(contrast.flips, n_G) if contrast.flips else None,
            table.rates(contrast.churn, n_G).flips if contrast.churn else None,
        )
        for k, contrast in enumerate(contrasts)
    }


def _at(interval: Interval, k: int) -> Interval:
    return Interval(interval.low[k], interval.high[k])


def _clip(interval: Interval, *, limit: int) -> Interval:
    """Return the part of an interval that is possible: no drop is beyond 1, no difference of two beyond 2."""
    return Interval(np.maximum(interval.low, -limit), np.minimum(interval.high, limit))


def _draw(matches: Sequence[Sequence[Match]], ground: CorrectnessMatrix, means_BGT: np.ndarray) -> np.ndarray:
    """Return the drops under every resample, B x K x G."""
    others_KS, own_KS = (ground.find(matches, side) for side in SIDES)
    return resample_drops(means_BGT, others_KS, own_KS).transpose(0, 2, 1)


def _subtract(terms: list[np.ndarray]) -> np.ndarray:
    return terms[0] if len(terms) == 1 else terms[0] - terms[1]


def _count(matches: Sequence[Sequence[Match]], table: FlipTable, n_G: np.ndarray) -> Counts:
    """Return the mean counts over the seeds, K x G."""
    flips = table.means(matches)
    return Counts(flips.rw, flips.wr, np.broadcast_to(n_G.astype(np.float64), flips.rw.shape))


def _excess_interval(counts: Sequence[Counts]) -> Interval:
    gaps = [excess_gap(*part) for part in counts]
    interval = Interval(gaps[0].low, gaps[0].high)
    if len(gaps) == 1:
        return interval
    return subtract(interval, gaps[0].value, Interval(gaps[1].low, gaps[1].high), gaps[1].value)
