"""The rules behind the words of `verdicts`: one list, printed as it is wherever a word is explained.

*Uneven* asks for the p alone. To ask for a disparity above its floor too loses the large groups: the smallest group
makes most of the noise of a largest minus smallest. Where the largest of groups of 2016, 905, 687, 795 and 338 images
drops by 2 pp alone, p < .05 in 95 % of draws and both hold in 18 %; the rest would be called even
(`tests/benchmarks/validate_statistics.py`).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

NEAR_GUESS: Final = 0.05
MARGIN: Final = 0.01
LEVEL: Final = 0.05


class Case(NamedTuple):
    """What the rules look at: fractions, of means over the seeds of both sides; nan where there is none.

    `guess` is the share of the most frequent label, `gain` the lower limit of what the best of its controls gains on
    the reference, `margin` the largest limit of the 90 % intervals of the groups in play; `p`, `disparity` and `floor`
    are of these groups too, `low` and `high` the 95 % limits of the overall drop, `mde` the smallest drop that every
    group in play could show, over these seeds.
    """

    reference: float
    accuracy: float
    guess: float
    gain: float
    margin: float
    p: float
    disparity: float
    floor: float
    low: float
    high: float
    mde: float


class Rule(NamedTuple):
    """A word, the rule in words, its numbers in a case (a template over Case), and the rule itself."""

    word: str
    text: str
    numbers: str
    holds: Callable[[Case], bool]

    def explain(self, case: Case) -> str:
        """Return the rule with its numbers."""
        return f"{self.text} ({self.numbers.format(**_in_words(case))})"


RULES: Final = (
    Rule(
        "no verdict",
        "the reference is under-trained: its accuracy is within 5 pp of always saying the most frequent class",
        "accuracy {reference} %, most frequent class {guess} %",
        lambda c: c.reference <= c.guess + NEAR_GUESS,
    ),
    Rule(
        "no verdict",
        "the reference is under-trained: fine-tuning alone gains more than 1 pp on it, the whole 95 % interval above",
        "at least {gain} pp",
        lambda c: c.gain > MARGIN,
    ),
    Rule(
        "collapsed",
        "it keeps less than half of what the reference has above always saying the most frequent class",
        "accuracy {accuracy} % after {reference} %, most frequent class {guess} %",
        lambda c: c.accuracy - c.guess < (c.reference - c.guess) / 2,
    ),
    Rule(
        "harmless",
        "the 90 % interval of the drop of every group in play is within -1 to 1 pp",
        "all within {margin} pp",
        lambda c: c.margin <= MARGIN,
    ),
    Rule(
        "uneven",
        "groups in play drop differently: permutation p < .05",
        "p = {p}; largest minus smallest drop {disparity} pp, by chance at most {floor} pp in 95 %",
        lambda c: c.p < LEVEL,
    ),
    Rule(
        "degraded",
        "the 95 % interval of the overall drop is above 0; that groups drop differently is not shown",
        "{low} to {high} pp",
        lambda c: c.low > 0,
    ),
    Rule(
        "inconclusive",
        "no other rule holds",
        "a drop below {mde} pp could have gone unseen in a group; harmless would need a margin of {margin} pp",
        lambda c: True,
    ),
)


def judge(case: Case) -> Rule:
    """Return the first rule that holds."""
    return next(rule for rule in RULES if rule.holds(case))


def _in_words(case: Case) -> dict[str, str]:
    values = {name: "?" if np.isnan(value) else f"{100 * value:.2f}" for name, value in case._asdict().items()}
    return {**values, "p": "?" if np.isnan(case.p) else f"{case.p:.3f}"}
