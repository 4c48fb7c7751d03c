"""Contrasts and answers -> what each contrast is worth in each group: drops seed by seed, intervals, flips.

Legend: K contrasts of one number of seeds S, G groups of one grouping, N images, T trials, M matches, B resamples.
Contrasts are linear combinations of trials, so what is resampled are the trials, once for each grouping.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from results.statistics.crossed import (
    Counts,
    crossed_interval,
    interval_of_counts,
    resample_drops,
    subtract,
    t_interval,
)
from results.statistics.intervals import Interval, excess_gap
from results.statistics.power import minimum_detectable_drop
from results.statistics.resampling import resample_means, widen
from results.tables.contrasts import Contrast, Match, group_by_key
from results.tables.groupings import Grouping
from results.tables.outcomes import Outcomes

_BLOCK: Final = 128  # contrasts, or matches, whose numbers are made at once
EQUIVALENCE: Final = 0.9  # confidence: two one-sided tests at 5 %
MIN_SEEDS: Final = 3  # of a t interval
SIDES: Final = ("other_id", "trial_id")  # a drop is what the first has more than the second


class Flips(NamedTuple):
    """Of each match in each group: images lost, won, and with another answer. M x G, or means of them."""

    rw: np.ndarray
    wr: np.ndarray
    flips: np.ndarray


class Estimate(NamedTuple):
    """One contrast in one grouping, fractions by group; nan where nothing can be said.

    `narrow` is the 90 % interval of the drop, `by_seed_GS` the drops of the seeds.
    """

    n_G: np.ndarray
    by_seed_GS: np.ndarray
    drop_G: np.ndarray
    interval: Interval
    narrow: Interval
    t: Interval
    eag_G: np.ndarray
    eag_interval: Interval
    mde_G: np.ndarray
    flips: Flips | None
    churn_G: np.ndarray | None


class Ground(NamedTuple):
    """The trials of a data set, and others of the same test images, as one matrix; `columns` say which."""

    outcomes: Mapping[str, Outcomes]
    columns: Mapping[str, int]
    right_NT: np.ndarray

    @classmethod
    def of(cls, outcomes: Mapping[str, Outcomes]) -> "Ground":
        """Return the ground of these trials."""
        right_NT = np.stack([answers.right_N for answers in outcomes.values()], axis=1)
        return cls(outcomes, {trial_id: column for column, trial_id in enumerate(outcomes)}, right_NT)

    def find(self, matches: Sequence[Sequence[Match]], side: str) -> np.ndarray:
        """Return the columns of one side of the matches of each contrast, K x S."""
        return np.array([[self.columns[getattr(match, side)] for match in some] for some in matches])


def estimate_contrasts(contrasts: Sequence[Contrast], ground: Ground, grouping: Grouping) -> dict[str, Estimate]:
    """Return the estimates of all contrasts that have a seed, by contrast_id."""
    contrasts = [contrast for contrast in contrasts if contrast.seeds]
    n_G = grouping.sizes("test")
    means_BGT = resample_means(ground.right_NT, grouping.test_N, len(n_G))
    every = (match for c in contrasts for match in (*c.matches, *c.subtracted, *c.flips, *c.churn))
    table = _FlipTable(dict.fromkeys(every), ground, grouping)
    found = {}
    for block in _cut(contrasts):
        found |= _estimate_block(block, ground, means_BGT, n_G, table)
    return found


def _cut(contrasts: Sequence[Contrast]) -> Iterator[list[Contrast]]:
    """Yield contrasts of equally many seeds and like terms."""
    for alike in group_by_key(((len(c.seeds), bool(c.subtracted)), c) for c in contrasts):
        yield from (alike[at : at + _BLOCK] for at in range(0, len(alike), _BLOCK))


class _FlipTable:
    """The flips of every match in every group, counted as products of matrices."""

    def __init__(self, matches: Iterable[Match], ground: Ground, grouping: Grouping):
        self.rows = {match: row for row, match in enumerate(matches)}
        members_NG = (grouping.test_N[:, None] == np.arange(len(grouping.names))).astype(np.float32)
        some = list(self.rows)
        blocks = [_count_flips(some[at : at + _BLOCK], ground, members_NG) for at in range(0, len(some), _BLOCK)]
        self.counts_3MG = np.concatenate(blocks, axis=1).astype(np.float64)

    def means(self, matches: Sequence[Sequence[Match]]) -> Flips:
        """Return the mean counts of some matches for each contrast, K x G."""
        return Flips(*np.stack([self.counts_3MG[:, [self.rows[m] for m in some]].mean(axis=1) for some in matches], 1))

    def rates(self, matches: Sequence[Match], n_G: np.ndarray) -> Flips:
        """Return the mean shares of the images of each group, G."""
        return Flips(*(counts_KG[0] / np.where(n_G > 0, n_G, np.nan) for counts_KG in self.means([matches])))

    def drops(self, matches: Sequence[Sequence[Match]], n_G: np.ndarray) -> np.ndarray:
        """Return the drop of each match, S x K x G."""
        rows_SK = np.array([[self.rows[match] for match in some] for some in matches]).T
        return (self.counts_3MG[0] - self.counts_3MG[1])[rows_SK] / np.where(n_G > 0, n_G, np.nan)


def _count_flips(matches: Sequence[Match], ground: Ground, members_NG: np.ndarray) -> np.ndarray:
    sides = [(ground.outcomes[match.trial_id], ground.outcomes[match.other_id]) for match in matches]
    changes = (
        [other.right_N & ~own.right_N for own, other in sides],
        [own.right_N & ~other.right_N for own, other in sides],
        [own.predicted_N != other.predicted_N for own, other in sides],
    )
    return np.stack([np.stack(change_MN).astype(np.float32) @ members_NG for change_MN in changes])


def _estimate_block(
    contrasts: list[Contrast], ground: Ground, means_BGT: np.ndarray, n_G: np.ndarray, table: _FlipTable
) -> dict[str, Estimate]:
    terms = [[c.matches for c in contrasts]]
    terms += [[c.subtracted for c in contrasts]] if contrasts[0].subtracted else []
    drawn_BKG, by_seed_SKG = (
        _subtract([_draw(matches, ground, means_BGT) for matches in terms]),
        _subtract([table.drops(matches, n_G) for matches in terms]),
    )
    counts = [_count(matches, table, n_G) for matches in terms]
    drop_KG, share_G = by_seed_SKG.mean(axis=0), n_G / n_G.sum()
    interval, narrow = (
        widen(crossed_interval(drawn_BKG, by_seed_SKG, confidence=level), interval_of_counts(*counts, confidence=level))
        for level in (0.95, EQUIVALENCE)
    )
    t = t_interval(by_seed_SKG) if len(by_seed_SKG) >= MIN_SEEDS else Interval(*np.full((2, *drop_KG.shape), np.nan))
    overall = [np.nansum(values * share_G, axis=2, keepdims=True) for values in (drawn_BKG, by_seed_SKG)]
    excess_SKG = by_seed_SKG - overall[1]
    eag_interval = widen(crossed_interval(drawn_BKG - overall[0], excess_SKG), _excess_interval(counts))
    eag_KG = np.where(n_G < n_G.sum(), excess_SKG.mean(axis=0), np.nan)
    flipped_KG = sum(part.rw + part.wr for part in counts)
    mde_KG = np.where(n_G > 0, minimum_detectable_drop(np.maximum(n_G, 1), (flipped_KG + 1) / (n_G + 1)), np.nan)
    return {
        contrast.contrast_id: Estimate(
            n_G,
            by_seed_SKG[:, k].T,
            drop_KG[k],
            _at(interval, k),
            _at(narrow, k),
            _at(t, k),
            eag_KG[k],
            _at(eag_interval, k),
            mde_KG[k],
            table.rates(contrast.flips, n_G) if contrast.flips else None,
            table.rates(contrast.churn, n_G).flips if contrast.churn else None,
        )
        for k, contrast in enumerate(contrasts)
    }


def _at(interval: Interval, k: int) -> Interval:
    return Interval(interval.low[k], interval.high[k])


def _draw(matches: Sequence[Sequence[Match]], ground: Ground, means_BGT: np.ndarray) -> np.ndarray:
    """Return the drops under every resample, B x K x G."""
    others_KS, own_KS = (ground.find(matches, side) for side in SIDES)
    return resample_drops(means_BGT, others_KS, own_KS).transpose(0, 2, 1)


def _subtract(terms: list[np.ndarray]) -> np.ndarray:
    return terms[0] if len(terms) == 1 else terms[0] - terms[1]


def _count(matches: Sequence[Sequence[Match]], table: _FlipTable, n_G: np.ndarray) -> Counts:
    """Return the mean counts over the seeds, K x G."""
    flips = table.means(matches)
    return Counts(flips.rw, flips.wr, np.broadcast_to(n_G.astype(np.float64), flips.rw.shape))


def _excess_interval(counts: Sequence[Counts]) -> Interval:
    gaps = [excess_gap(*part) for part in counts]
    interval = Interval(gaps[0].low, gaps[0].high)
    if len(gaps) == 1:
        return interval
    return subtract(interval, gaps[0].value, Interval(gaps[1].low, gaps[1].high), gaps[1].value)
