"""One word for each configuration, comparison and grouping, by the printed rules -> the table `verdicts`.

Groups with fewer than MIN_RANKED test images take no part. Groups that are out of play take none either: there the
reference is hardly better than the best guess that ignores the image, so there is little to lose. Which these are is
decided by the reference alone. Legend: G groups, N test images.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from quantfair.results.configurations import Config, find_configs, group_by_key
from quantfair.results.contrasts.estimates import Estimate
from quantfair.results.contrasts.evenness import measure_contrasts
from quantfair.results.contrasts.flips import CorrectnessMatrix
from quantfair.results.contrasts.pairing import RUNTIME, Contrast
from quantfair.results.schema import MIN_RANKED
from quantfair.results.statistics.permutation import Evenness
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import DatasetAnswers
from quantfair.results.tables.disparity import Ranked
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.groups import divide, join_reasons, sum_by_group

NEAR_GUESS: Final = 0.05


MARGIN: Final = 0.01


LEVEL: Final = 0.05


class VerdictInputs(NamedTuple):
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
    holds: Callable[[VerdictInputs], bool]

    def explain(self, case: VerdictInputs) -> str:
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


def judge(case: VerdictInputs) -> Rule:
    """Return the first rule that holds."""
    return next(rule for rule in RULES if rule.holds(case))


def _in_words(case: VerdictInputs) -> dict[str, str]:
    values = {name: "?" if np.isnan(value) else f"{100 * value:.2f}" for name, value in case._asdict().items()}
    return {**values, "p": "?" if np.isnan(case.p) else f"{case.p:.3f}"}


REACH: Final = 1.43  # 1.96 and the 0.84 of 80 % power, over 1.96; t intervals find such drops with 82 to 85 %
NONE_IN_PLAY = f"no group of {MIN_RANKED} test images is in play"
ONE_IN_PLAY = "perm_p: fewer than two groups are in play"
NO_WORST = "worst_group: no group in play drops more than all images"


def find_best_guess(test_set: TestSet, grouping: Grouping) -> np.ndarray:
    """Return for each group the accuracy of the best guess that ignores the image: its most frequent label's share.

    0 where every group is of one class: then the group is what is to be found out. nan for an empty group.
    """
    n_classes = test_set.n_classes
    cells = np.bincount(grouping.test_N * n_classes + test_set.labels_N, minlength=len(grouping.names) * n_classes)
    counts_GK = cells.reshape(-1, n_classes)
    if ((counts_GK > 0).sum(axis=1) <= 1).all():
        return np.zeros(len(counts_GK))
    return divide(counts_GK.max(axis=1), counts_GK.sum(axis=1))


class Judge:
    """The verdicts of one data set: what all its groupings share. `overall` are the estimates of all images."""

    def __init__(
        self,
        contrasts: Sequence[Contrast],
        measured: DatasetAnswers,
        overall: Mapping[str, Estimate],
        plan: Iterable[Mapping[str, Any]],
    ):
        self.contrasts = [contrast for contrast in contrasts if contrast.is_comparison]
        self.overall, self.outcomes, self.test_set = overall, measured.outcomes, measured.test_set
        self.right_N = {config.config_id: _average_right(config, measured) for config in find_configs(measured.trials)}
        self.planned: dict[str, set[int | None]] = {}
        for row in plan:
            self.planned.setdefault(str(row.get("config_id")), set()).add(row.get("seed"))
        self.gains: dict[str, float] = {}
        for contrast in self.contrasts:
            if contrast.kind == "control_vs_fp32" and contrast.seeds and contrast.runtime == RUNTIME:
                gain = -float(overall[contrast.contrast_id].interval.high[0])
                other = str(contrast.other_config_id)
                self.gains[other] = max(gain, self.gains.get(other, -1.0))

    def add_verdicts(
        self,
        rows: TableBuilder,
        ground: CorrectnessMatrix,
        estimates: Mapping[str, Estimate],
        evenness: Mapping[str, Evenness],
        *,
        grouping: Grouping,
    ) -> None:
        """Add one row for each configuration and comparison. `evenness` is that of all ranked groups."""
        plays, out_of_play = self._find_plays(grouping)
        fewer = [c for c in self.contrasts if c.seeds and out_of_play[str(c.other_config_id)]]
        evenness = dict(evenness)
        for alike in group_by_key((tuple(plays[str(c.other_config_id)]), c) for c in fewer):
            plays_G = plays[str(alike[0].other_config_id)]
            if plays_G.any():
                evenness |= measure_contrasts(alike, ground, grouping, plays_G)
            else:
                evenness = {key: even for key, even in evenness.items() if key not in {c.contrast_id for c in alike}}
        for contrast in self.contrasts:
            missing = self.planned.get(contrast.config_id, set()) - set(contrast.seeds)
            shared = {name: getattr(contrast, name) for name in ("config_id", "comparison")}
            shared |= {"runtime": contrast.runtime, "grouping": grouping.name, "n_seeds": len(contrast.seeds)}
            shared["provisional"] = bool(missing)
            if not contrast.seeds:
                rows.add(1, **shared, reason=contrast.reason)
                continue
            other = str(contrast.other_config_id)
            plays_G, names = plays[other], out_of_play[other]
            estimate, even = estimates[contrast.contrast_id], evenness.get(contrast.contrast_id)
            case = self._case(contrast, estimate, even, plays_G)
            rule, worst = judge(case), _find_worst(estimate.eag_G, plays_G, grouping)
            shared |= {"word": rule.word, "rule": rule.explain(case), "worst_group": worst, "out_of_play": [names]}
            rows.add(1, **shared, **self._numbers(contrast, case), reason=_explain(plays_G, worst))

    def _find_plays(self, grouping: Grouping) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
        """Return which groups are in play, and which ranked ones are not, by the configuration of the reference."""
        n_G, guess_G = grouping.sizes("test"), find_best_guess(self.test_set, grouping)
        plays, out_of_play = {}, {}
        for other in dict.fromkeys(str(c.other_config_id) for c in self.contrasts if c.seeds):
            accuracy_G = divide(sum_by_group(self.right_N[other], grouping), n_G)
            out_G = (n_G >= MIN_RANKED) & (accuracy_G <= guess_G + NEAR_GUESS)
            plays[other] = (n_G >= MIN_RANKED) & ~out_G
            out_of_play[other] = [name for name, is_out in zip(grouping.names, out_G, strict=True) if is_out]
        return plays, out_of_play

    def _case(
        self, contrast: Contrast, estimate: Estimate, even: Evenness | None, plays_G: np.ndarray
    ) -> VerdictInputs:
        labels_N, overall = self.test_set.labels_N, self.overall[contrast.contrast_id]
        reference = float(np.mean([self.outcomes[match.other_id].right_N.mean() for match in contrast.matches]))
        limits = np.abs(estimate.narrow)[:, plays_G]
        return VerdictInputs(
            reference=reference,
            accuracy=reference - float(overall.drop_G[0]),
            guess=float(np.bincount(labels_N).max() / len(labels_N)),
            gain=self.gains.get(str(contrast.other_config_id), np.nan),
            margin=float(limits.max()) if plays_G.any() else np.nan,
            p=float(even.p) if even else np.nan,
            disparity=float(even.spread) if even else np.nan,
            floor=float(even.null_q95) if even else np.nan,
            low=float(overall.interval.low[0]),
            high=float(overall.interval.high[0]),
            mde=float(_find_detectable(estimate)[plays_G].max()) if plays_G.any() else np.nan,
        )

    def _numbers(self, contrast: Contrast, case: VerdictInputs) -> dict[str, float]:
        return {
            "drop_pp": 100 * float(self.overall[contrast.contrast_id].drop_G[0]),
            "drop_ci_low_pp": 100 * case.low,
            "drop_ci_high_pp": 100 * case.high,
            "drop_disparity_pp": 100 * case.disparity,
            "null_q95_pp": 100 * case.floor,
            "perm_p": case.p,
            "mde_pp": 100 * case.mde,
            "harmless_margin_pp": 100 * case.margin,
        }


def _average_right(config: Config, measured: DatasetAnswers) -> np.ndarray:
    """Return for each image the share of the seeds that are right."""
    return np.mean([measured.outcomes[row["trial_id"]].right_N for row in config.rows.values()], axis=0)


def _find_detectable(estimate: Estimate) -> np.ndarray:
    """Return the smallest drop of each group that these seeds and images would have told from 0; 1 where none is.

    `mde_G` knows the images alone. Seeds that disagree hide more: what the interval reaches below the estimate.
    """
    return np.minimum(np.fmax(estimate.mde_G, REACH * (estimate.drop_G - estimate.interval.low)), 1)


def _find_worst(eag_G: np.ndarray, plays_G: np.ndarray, grouping: Grouping) -> str | None:
    """Return the group in play that drops most beyond the overall drop, if one does; of equal ones the largest."""
    groups = [group for group in Ranked.of(grouping).groups_G if plays_G[group] and eag_G[group] > 0]
    return grouping.names[max(groups, key=lambda group: eag_G[group])] if groups else None


def _explain(plays_G: np.ndarray, worst: str | None) -> str | None:
    """Return why some columns are null."""
    if not plays_G.any():
        return NONE_IN_PLAY
    return join_reasons(ONE_IN_PLAY if plays_G.sum() < 2 else None, NO_WORST if worst is None else None) or None
