"""Families of tests: what one question asks at once is corrected at once, whatever part of it is shown later.

A family is data set x task x grouping x runtime x comparison: every group in every trial that is no control. `overall`
has one group and no family. Legend: P pairs of one data set, G groups.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final, NamedTuple

import numpy as np

from quantfair.results.schema import COMPARISONS, MIN_RANKED
from quantfair.results.statistics.multiplicity import benjamini_hochberg, holm
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import DatasetAnswers, Deployed
from quantfair.results.tables.groupings import Grouping

CONTROL: Final = "eag_q: a control is no part of the family"
TOO_SMALL: Final = f"eag_q: fewer than {MIN_RANKED} test images, so no part of the family"
UNTOUCHED: Final = "eag_q: no image of the group was lost or won, so no part of the family"

Columns = Mapping[str, np.ndarray]


class Question(NamedTuple):
    """What a pair asks: a family, but for the data set and the grouping."""

    task: str
    runtime: str
    comparison: str

    def family_id(self, dataset_id: str, grouping: str) -> str:
        """Return an id that is the same for the same question in every store."""
        return "/".join((dataset_id, self.task, grouping, self.runtime, self.comparison))


def ask(trial: Mapping[str, Any], runtime: str, comparison: str) -> Question | None:
    """Return what a trial asks, from its row or its plan; a control asks only whether it is the same elsewhere."""
    is_control = trial["method"] == "fp32_ft" and comparison in COMPARISONS
    return None if is_control else Question(trial.get("task") or "-", runtime, comparison)


def find_unfinished(
    measured: DatasetAnswers | Deployed,
    plan: Iterable[Mapping[str, Any]],
    runtime: str,
    *,
    without: Set[str] = frozenset(),
) -> set[Question]:
    """Return the questions of which the plan has a trial, or another side, without a result that may still come.

    `without` are trials that will have none.
    """
    known = {*measured.outcomes, *without}
    return {
        question
        for planned in plan
        for comparison, side in measured.sides.items()
        if planned["dataset_id"] == measured.test_set.dataset_id and (other_id := planned.get(side.column))
        if planned["trial_id"] not in known or other_id not in {*side.outcomes, *without}
        if (question := ask(planned, runtime, comparison))
    }


def explain_untested(
    questions: Sequence[Question | None], grouping: Grouping, n_discordant_PG: np.ndarray
) -> np.ndarray:
    """Return why a group of a pair is in no family, "" where it is: P x G.

    A group in which nothing was lost or won drops by 0. That others lose is no finding about it.
    """
    reason_PG = np.full((len(questions), len(grouping.names)), "", dtype=object)
    reason_PG[n_discordant_PG == 0] = UNTOUCHED
    reason_PG[:, grouping.sizes("test") < MIN_RANKED] = TOO_SMALL
    reason_PG[[question is None for question in questions]] = CONTROL
    return reason_PG


def correct(p_PG: np.ndarray, questions: Sequence[Question | None], dataset_id: str, grouping: str) -> Columns:
    """Return columns of `paired_metrics`, P x G, from p values that are nan where nothing was tested."""
    columns: dict[str, np.ndarray] = {name: np.full(p_PG.shape, np.nan) for name in ("eag_q", "eag_p_holm")}
    columns |= {name: np.full(p_PG.shape, None, dtype=object) for name in ("family_id", "family_size")}
    for question, members in _gather(questions).items():
        columns["eag_q"][members] = benjamini_hochberg(p_PG[members])
        columns["eag_p_holm"][members] = holm(p_PG[members])
        of_family_PG = np.zeros(p_PG.shape, dtype=bool)
        of_family_PG[members] = ~np.isnan(p_PG[members])
        columns["family_id"][of_family_PG] = question.family_id(dataset_id, grouping)
        columns["family_size"][of_family_PG] = np.count_nonzero(of_family_PG)
    return columns


def add_families(
    families: TableBuilder,
    questions: Sequence[Question | None],
    tested_PG: np.ndarray,
    *,
    unfinished: Set[Question],
    **key: str,
) -> None:
    """Add the families of a data set and a grouping, which are the `key`."""
    for question, members in _gather(questions).items():
        n_tests = int(tested_PG[members].sum())
        families.add(
            1,
            **key,
            **question._asdict(),
            family_id=question.family_id(**key),
            n_tests=n_tests,
            n_left_out=tested_PG[members].size - n_tests,
            provisional=question in unfinished,
        )


def _gather(questions: Sequence[Question | None]) -> dict[Question, list[int]]:
    """Return which pairs ask the same."""
    members: dict[Question, list[int]] = {}
    for index, question in enumerate(questions):
        if question is not None:
            members.setdefault(question, []).append(index)
    return members
