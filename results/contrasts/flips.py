"""What trials changed against others, counted for all matches and all groupings at once, as products of matrices.

Legend: K contrasts, S seeds, M matches, G groups, N images, T trials.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from quantfair.results.contrasts.pairing import Contrast, Match
from quantfair.results.tables.answers import TrialAnswers
from quantfair.results.tables.groupings import Grouping

SIDES: Final = ("other_id", "trial_id")  # a drop is what the first has more than the second
_BLOCK: Final = 128  # matches


class Flips(NamedTuple):
    """Of each match in each group: images lost, won, and with another answer. M x G, or means of them."""

    rw: np.ndarray
    wr: np.ndarray
    flips: np.ndarray


class CorrectnessMatrix(NamedTuple):
    """The trials of a data set, and others of the same test images, as one matrix; `columns` say which."""

    outcomes: Mapping[str, TrialAnswers]
    columns: Mapping[str, int]
    right_NT: np.ndarray

    @classmethod
    def of(cls, outcomes: Mapping[str, TrialAnswers]) -> "CorrectnessMatrix":
        """Return the ground of these trials."""
        right_NT = np.stack([answers.right_N for answers in outcomes.values()], axis=1)
        return cls(outcomes, {trial_id: column for column, trial_id in enumerate(outcomes)}, right_NT)

    def answers_of(self, trial_id: str) -> bytes:
        """Return what tells the answers of a trial from others."""
        return hashlib.sha256(self.outcomes[trial_id].predicted_N.tobytes()).digest()

    def find(self, matches: Sequence[Sequence[Match]], side: str) -> np.ndarray:
        """Return the columns of one side of the matches of each contrast, K x S."""
        return np.array([[self.columns[getattr(match, side)] for match in some] for some in matches])


class FlipTable(NamedTuple):
    """The flips of every match in every group of one grouping; `rows` says where a match stands."""

    rows: Mapping[Match, int]
    counts_3MG: np.ndarray

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


def count_flips(
    contrasts: Iterable[Contrast], ground: CorrectnessMatrix, groupings: Sequence[Grouping]
) -> dict[str, FlipTable]:
    """Return the flips of every match of the contrasts, by the name of the grouping."""
    every = (match for c in contrasts for match in (*c.matches, *c.subtracted, *c.flips, *c.churn))
    matches = list(dict.fromkeys(every))
    members = [grouping.test_N[:, None] == np.arange(len(grouping.names)) for grouping in groupings]
    members_NG = np.concatenate(members, axis=1).astype(np.float32)
    blocks = [_count(matches[at : at + _BLOCK], ground, members_NG) for at in range(0, len(matches), _BLOCK)]
    counts_3MG = np.concatenate([np.zeros((3, 0, members_NG.shape[1])), *blocks], axis=1)
    ends = np.cumsum([len(grouping.names) for grouping in groupings])[:-1]
    rows = {match: row for row, match in enumerate(matches)}
    parts = np.split(counts_3MG, ends, axis=2)
    return {grouping.name: FlipTable(rows, part) for grouping, part in zip(groupings, parts, strict=True)}


def _count(matches: Sequence[Match], ground: CorrectnessMatrix, members_NG: np.ndarray) -> np.ndarray:
    sides = [(ground.outcomes[match.trial_id], ground.outcomes[match.other_id]) for match in matches]
    changes = (
        [other.right_N & ~own.right_N for own, other in sides],
        [own.right_N & ~other.right_N for own, other in sides],
        [own.predicted_N != other.predicted_N for own, other in sides],
    )
    return np.stack([np.stack(change_MN).astype(np.float32) @ members_NG for change_MN in changes])


class Disagreement(NamedTuple):
    """Of each image: whether the two most frequent answers differ, and the taxicab distance of all answers, 0 to 1."""

    is_exemplar_N: np.ndarray
    taxicab_N: np.ndarray


def compare_populations(predicted_SN: np.ndarray, other_SN: np.ndarray, n_classes: int) -> Disagreement:
    """Return where two populations disagree. Of equally frequent answers the largest label counts.

    Sources: compression-identified exemplars and their taxicab variant, Hooker et al., arXiv 1911.05248 and 2010.03058;
    the distance is half the sum of |share in one - share in the other| over classes.
    """
    counts_NK, others_NK = (_count_answers(answers_SN, n_classes) for answers_SN in (predicted_SN, other_SN))
    shares_NK, other_shares_NK = counts_NK / len(predicted_SN), others_NK / len(other_SN)
    taxicab_N = np.abs(shares_NK - other_shares_NK).sum(axis=1) / 2
    return Disagreement(_find_mode(counts_NK) != _find_mode(others_NK), taxicab_N)


def _count_answers(answers_SN: np.ndarray, n_classes: int) -> np.ndarray:
    n_images = answers_SN.shape[1]
    cells = np.arange(n_images) * n_classes + answers_SN
    return np.bincount(cells.ravel(), minlength=n_images * n_classes).reshape(n_images, n_classes)


def _find_mode(counts_NK: np.ndarray) -> np.ndarray:
    return counts_NK.shape[1] - 1 - counts_NK[:, ::-1].argmax(axis=1)
