"""One word for what a model does to the groups of a grouping, and an answer: no, yes or cannot tell.

The question is the same for every row: does any group, or do all images together, lose more than the limit? The first
rule that holds gives the word. Words rest on the limits of `limits.py` alone, never on a p. So a word can be read off
the line from `lower_C` to `upper_C` that the page draws, a shorter line never turns an answer round, and the word of
all images never contradicts that of a group. `tests/test_decisions.py` measures how often each word is wrong.

Legend: C = G + 1 cells, the groups and, last, all images; the axes before the last are models. Drops are fractions.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from quantfair.results.statistics.intervals import Floats
from quantfair.results.statistics.limits import Limits

LIMIT: Final = 0.01  # a loss of 1 pp, unless the user sets another limit
NOBODY: Final = -1

NO: Final = "no"
YES: Final = "yes"
CANNOT_TELL: Final = "cannot tell"

NO_VERDICT: Final = "no verdict"
UNCHANGED: Final = "unchanged"
COLLAPSED: Final = "collapsed"
UNEVEN: Final = "uneven"
LOSES: Final = "loses"
SMALL: Final = "small"
HARMLESS: Final = "harmless"
NOT_RESOLVED: Final = "not resolved"

ANSWERS: Final = {
    NO_VERDICT: None,
    UNCHANGED: None,  # a no where every upper limit is within the limit, else it cannot be told
    COLLAPSED: YES,
    UNEVEN: YES,
    LOSES: YES,
    SMALL: NO,
    HARMLESS: NO,
    NOT_RESOLVED: CANNOT_TELL,
}
WORDS: Final = tuple(ANSWERS)  # in the order of the rules

# What each word says. LIMIT stands for the limit in words.
MEANINGS: Final = {
    NO_VERDICT: "The original is not good enough to judge a loss, or no group is large enough, or a recipe has fewer "
    "than three models.",
    UNCHANGED: "Not one answer differs. The answer is no only if a loss above LIMIT is ruled out for every group.",
    COLLAPSED: "The model has lost at least half of what the original knew above guessing.",
    UNEVEN: "One group loses more than LIMIT, and more than LIMIT beyond all others.",
    LOSES: "All images, or one group, lose more than LIMIT. That groups differ by so much is not shown.",
    SMALL: "A loss is certain, but no group loses more than LIMIT.",
    HARMLESS: "No group loses more than LIMIT on such images.",
    NOT_RESOLVED: "Some group could lose more than LIMIT. The sentence says how many more images would probably tell.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """The word and the answer (None without a verdict) of each model, and the cell that the word is about.

    `cell` is the number of a group, or G for all images, or NOBODY. `at_most` is the largest upper limit of all cells,
    an upper 95 % limit of what the cell that loses most has lost.
    """

    word: np.ndarray
    answer: np.ndarray
    cell: np.ndarray
    at_most: Floats


def decide(
    limits: Limits,
    *,
    is_changed: ArrayLike = True,
    skill: ArrayLike = np.inf,
    can_judge: ArrayLike = True,
    limit: float = LIMIT,
) -> Decisions:
    """Return the first word that holds for each model.

    `is_changed` says whether any answer differs from the original's. `skill` is the accuracy of the original less that
    of the best guess that ignores the image. `can_judge` says whether that is enough to lose from, and a group in play.
    """
    if not 0 < limit < 1:
        raise ValueError(f"`limit` must be between 0 and 1, got {limit:g}; 1 percentage point is 0.01.")
    lower_C, upper_C = limits.lower_C, limits.upper_C
    lower_G = lower_C[..., :-1]
    excess_lower_G = limits.excess_lower_G

    # A comparison with nan is False: a group that takes no part neither loses nor is in the way of a no.
    loses_C = lower_C > limit
    loses_more_G = (lower_G > limit) & (excess_lower_G > limit)
    could_lose_more = (upper_C > limit).any(axis=-1)
    shape = could_lose_more.shape

    holds = {
        NO_VERDICT: ~np.broadcast_to(can_judge, shape),
        UNCHANGED: ~np.broadcast_to(is_changed, shape),
        COLLAPSED: lower_C[..., -1] > np.asarray(skill) / 2,
        UNEVEN: loses_more_G.any(axis=-1),
        LOSES: loses_C.any(axis=-1),
        SMALL: ~could_lose_more & (lower_C > 0).any(axis=-1),
        HARMLESS: ~could_lose_more,
        NOT_RESOLVED: np.ones(shape, dtype=bool),
    }
    n_groups = lower_G.shape[-1]
    losing_group = np.where(loses_C[..., :-1].any(axis=-1), _find_largest(lower_G), n_groups)
    cells = {
        NO_VERDICT: np.full(shape, NOBODY),
        UNCHANGED: np.full(shape, NOBODY),
        COLLAPSED: np.full(shape, n_groups),
        UNEVEN: _find_largest(np.where(loses_more_G, excess_lower_G, np.nan)),
        LOSES: losing_group,
        SMALL: _find_largest(lower_C),
        HARMLESS: np.full(shape, NOBODY),
        NOT_RESOLVED: _find_largest(upper_C),
    }
    first = np.argmax([holds[word] for word in WORDS], axis=0)
    word = _choose(WORDS, first)
    answer = _choose(tuple(ANSWERS.values()), first)
    answer = np.where(word == UNCHANGED, np.where(could_lose_more, CANNOT_TELL, NO), answer)
    cell = np.choose(first, [cells[name] for name in WORDS])
    return Decisions(word=word, answer=answer, cell=cell, at_most=np.nanmax(upper_C, axis=-1))


def _choose(values: tuple[str | None, ...], places: np.ndarray) -> np.ndarray:
    return np.asarray(np.array(values, dtype=object)[places], dtype=object)


def _find_largest(values: Floats) -> np.ndarray:
    """Return the place of the largest number, NOBODY where all are nan; of equal ones the first."""
    known = np.where(np.isnan(values), -np.inf, values)
    return np.where(np.isneginf(known).all(axis=-1), NOBODY, known.argmax(axis=-1))
