"""What a trial changed, image by image, against another trial: the reference, the control, or another runtime.

Legend: P pairs, G groups, N images. Intervals and tests are computed for all pairs of a data set at once: they are
found by bisection, whose cost is in the steps and not in the number of pairs.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from quantfair.results.statistics.intervals import drop_interval, excess_gap, mcnemar_p, mean_interval
from quantfair.results.statistics.limits import measure_limits
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import DatasetAnswers, Deployed, TrialAnswers
from quantfair.results.tables.families import Question, add_families, ask, correct, explain_untested
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.groups import NO_IMAGES, divide, join_reasons, sum_by_group
from quantfair.results.tables.verdicts import (
    FILE,
    Judged,
    Rules,
    add_verdicts,
    append_whole,
    explain_no_limits,
    find_plays,
    limit_columns,
    who_takes_part,
)

NO_REFIT = "refit: without predictions of val images, no offsets were fitted"


def count_refits(
    outcomes: TrialAnswers, other: TrialAnswers, test_set: TestSet, grouping: Grouping
) -> dict[str, np.ndarray]:
    """Count what one refitted trial gets wrong and the other one right, and the reverse; nan where one is not known."""
    if outcomes.refit_N is None or other.refit_N is None:
        unknown_G = np.full(len(grouping.names), np.nan)
        return {"refit_n_rw": unknown_G, "refit_n_wr": unknown_G}
    right_N, other_right_N = outcomes.refit_N == test_set.labels_N, other.refit_N == test_set.labels_N
    return {
        "refit_n_rw": sum_by_group(other_right_N & ~right_N, grouping),
        "refit_n_wr": sum_by_group(~other_right_N & right_N, grouping),
    }


def compare_refits(columns: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the refitted drop with its interval and the drop that is a shift, P x G, from the counts of every pair."""
    names = ("n", "n_rw", "n_wr", "refit_n_rw", "refit_n_wr")
    n_PG, rw_PG, wr_PG, refit_rw_PG, refit_wr_PG = (np.stack([column[name] for column in columns]) for name in names)
    known_PG = np.where(np.isnan(refit_rw_PG), np.nan, n_PG)
    ci, drop_PG = drop_interval(refit_rw_PG, refit_wr_PG, known_PG), divide(refit_rw_PG - refit_wr_PG, known_PG)
    return {
        "refit_drop_pp": 100 * drop_PG,
        "refit_drop_ci_low_pp": 100 * ci.low,
        "refit_drop_ci_high_pp": 100 * ci.high,
        "prior_shift_pp": 100 * (divide(rw_PG - wr_PG, n_PG) - drop_PG),
    }


NO_REST = "eag: a single group has no rest to be compared with"

Columns = Mapping[str, np.ndarray]


class Pair(NamedTuple):
    """A trial against another: the key of its rows, and for each grouping the columns that are counts and means.

    Without a result of the other side there are no columns, and `flag` says so. Otherwise it is a reason to take all
    numbers of the pair with care. A control asks no question.
    """

    key: dict[str, str]
    other_trial_id: str
    question: Question | None
    columns_by_grouping: dict[str, Columns]
    flag: str | None = None


def compare_trials(measured: DatasetAnswers | Deployed, flags: Mapping[tuple[str, str], str]) -> list[Pair]:
    """Compare every trial of a data set with its other sides. `flags` are by trial and comparison."""
    rows, pairs = {row["trial_id"]: row for row in measured.trials}, []
    for found in measured.compared():
        trial_id, comparison = found.outcomes.trial_id, found.comparison
        counts, flag = {}, found.why_missing
        if found.other:
            counts = compare(found.outcomes, found.other, measured.test_set, comparison=comparison)
            flag = flags.get((trial_id, comparison))
        question = ask(rows[trial_id], found.outcomes.runtime, comparison)
        pairs.append(Pair(found.key, found.other_trial_id, question, counts, flag))
    return pairs


def compare(outcomes: TrialAnswers, other: TrialAnswers, test_set: TestSet, *, comparison: str) -> dict[str, Columns]:
    """Count what one trial changed in every group of every grouping. `other` is the other side."""
    cell_N = 2 * ~other.right_N + ~outcomes.right_N  # 0 rr, 1 rw, 2 wr, 3 ww: the other side's letter first
    flipped_N = outcomes.predicted_N != other.predicted_N
    kl_N = outcomes.kl_N if comparison == "reference" else np.full_like(outcomes.kl_N, np.nan)
    excess_N = outcomes.loss_N.astype(np.float64) - other.loss_N

    def count(grouping: Grouping) -> Columns:
        cells = np.bincount(grouping.test_N * 4 + cell_N, minlength=4 * len(grouping.names)).reshape(-1, 4)
        n_G, total_G = cells.sum(axis=1), sum_by_group(excess_N, grouping)
        ci = mean_interval(total_G, sum_by_group(excess_N**2, grouping), n_G)
        return {
            "n": n_G,
            **dict(zip(("n_rr", "n_rw", "n_wr", "n_ww"), cells.T, strict=True)),
            "n_flip": sum_by_group(flipped_N, grouping).astype(np.int64),
            "excess_loss_nats": divide(total_G, n_G),
            "excess_loss_ci_low_nats": ci.low,
            "excess_loss_ci_high_nats": ci.high,
            "kl_nats": divide(sum_by_group(kl_N, grouping), n_G),
            **count_refits(outcomes, other, test_set, grouping),
        }

    return {grouping.name: count(grouping) for grouping in test_set.groupings}


class PairTables(NamedTuple):
    """Where the rows of pairs go."""

    paired: TableBuilder
    families: TableBuilder
    verdicts: TableBuilder


def add_pairs(
    pairs: Sequence[Pair],
    test_set: TestSet,
    tables: PairTables,
    *,
    unfinished: Set[Question],
    rules: Rules,
    config_ids: Mapping[str, str | None],
) -> None:
    """Add the rows of all pairs of one data set, its families, and a word for each file.

    `unfinished` are provisional questions, `config_ids` the configurations by trial.
    """
    compared = [pair for pair in pairs if pair.columns_by_grouping]
    inferred: dict[str, Columns] = {}
    for grouping in test_set.groupings if compared else ():
        counts = [pair.columns_by_grouping[grouping.name] for pair in compared]
        columns = _infer(counts)
        judged = _judge(counts, test_set, grouping, rules, shift_PG=columns["prior_shift_pp"] / 100)
        columns |= limit_columns(judged.limits, grouping)
        if grouping.name != "overall":
            columns |= _correct(compared, columns, grouping, test_set.dataset_id)
            key = {"dataset_id": test_set.dataset_id, "grouping": grouping.name}
            tested_PG, questions = ~np.isnan(columns["eag_q"]), [pair.question for pair in compared]
            add_families(tables.families, questions, tested_PG, unfinished=unfinished, **key)
        no_limits_PG = explain_no_limits(judged.plays, grouping)
        reasons = zip(columns["reason"].ravel(), no_limits_PG.ravel(), strict=True)
        columns["reason"] = np.array([join_reasons(*some) for some in reasons], dtype=object).reshape(
            no_limits_PG.shape
        )
        inferred[grouping.name] = columns
        _add_words(tables.verdicts, compared, judged, test_set, grouping, rules=rules, config_ids=config_ids)

    index = -1
    for pair in pairs:
        index += bool(pair.columns_by_grouping)
        for grouping in test_set.groupings:
            n_groups, key = len(grouping.names), {**pair.key, "grouping": grouping.name, "group": list(grouping.names)}
            columns: dict[str, Any] = {"n": grouping.sizes("test"), "reason": pair.flag}
            if pair.columns_by_grouping:
                columns = {name: values_PG[index] for name, values_PG in inferred[grouping.name].items()}
                columns |= pair.columns_by_grouping[grouping.name]
                no_refit = NO_REFIT if np.isnan(columns["refit_n_rw"]).all() else None
                columns["reason"] = [join_reasons(pair.flag, why, no_refit) or None for why in columns["reason"]]
            tables.paired.add(n_groups, **key, other_trial_id=pair.other_trial_id, **columns)


def _judge(
    counts: Sequence[Columns], test_set: TestSet, grouping: Grouping, rules: Rules, *, shift_PG: np.ndarray
) -> Judged:
    """Return every pair as a file, with its limits."""
    names = ("n_rr", "n_rw", "n_wr", "n", "n_flip")
    rr_PG, rw_PG, wr_PG, n_PG, flip_PG = (np.stack([columns[name] for columns in counts]) for name in names)
    plays = find_plays(rr_PG + rw_PG, test_set, grouping)
    takes_part_PG = who_takes_part(plays, grouping)
    n_cells = rules.n_cells_of_files(test_set)
    limits = measure_limits(rw_PG, wr_PG, n_PG, takes_part=takes_part_PG, n_cells_of_plan=n_cells)
    one_P = np.ones(len(counts), dtype=int)
    return Judged(
        scope=FILE,
        limits=limits,
        plays=plays,
        counts_3PC=np.stack([append_whole(part_PG) for part_PG in (rw_PG, wr_PG, n_PG)]),
        n_changed_P=flip_PG.sum(axis=1),
        n_seeds_P=one_P,
        n_models_P=one_P,
        n_cells_of_plan=n_cells,
        shift_PG=shift_PG,
    )


def _add_words(
    verdicts: TableBuilder,
    pairs: Sequence[Pair],
    judged: Judged,
    test_set: TestSet,
    grouping: Grouping,
    *,
    rules: Rules,
    config_ids: Mapping[str, str | None],
) -> None:
    """Add a word for each file. The exact session of a runtime proves an export; nobody ships it."""
    shipped = [place for place, pair in enumerate(pairs) if pair.key["comparison"] != "exact"]
    keys = [
        {**pairs[place].key, "config_id": config_ids[pairs[place].key["trial_id"]], "provisional": False}
        for place in shipped
    ]
    add_verdicts(verdicts, judged.take(shipped), keys, test_set, grouping, limit=rules.limit)


def _infer(counts: Sequence[Columns]) -> dict[str, np.ndarray]:
    """Drop and EAG with their intervals and tests, each P x G, from the counts of every pair in one grouping."""
    n_PG, rw_PG, wr_PG = (np.stack([columns[name] for columns in counts]) for name in ("n", "n_rw", "n_wr"))
    drop_ci, eag = drop_interval(rw_PG, wr_PG, n_PG), excess_gap(rw_PG, wr_PG, n_PG)
    return {
        "drop_pp": 100 * divide(rw_PG - wr_PG, n_PG),
        "drop_ci_low_pp": 100 * drop_ci.low,
        "drop_ci_high_pp": 100 * drop_ci.high,
        "eag_pp": 100 * eag.value,
        "eag_ci_low_pp": 100 * eag.low,
        "eag_ci_high_pp": 100 * eag.high,
        "eag_p": eag.p,
        "mcnemar_p": np.where(n_PG > 0, mcnemar_p(rw_PG, wr_PG), np.nan),
        **compare_refits(counts),
        "reason": np.full(n_PG.shape, NO_REST, dtype=object),
    }


def _correct(pairs: Sequence[Pair], columns: Columns, grouping: Grouping, dataset_id: str) -> Columns:
    """The columns of the families, P x G, and the reason why a group is in none."""
    questions = [pair.question for pair in pairs]
    counts = [pair.columns_by_grouping[grouping.name] for pair in pairs]
    n_discordant_PG = np.stack([columns["n_rw"] + columns["n_wr"] for columns in counts])
    reason_PG = explain_untested(questions, grouping, n_discordant_PG)
    p_PG = np.where(reason_PG == "", columns["eag_p"], np.nan)
    reason_PG[np.isnan(p_PG) & (reason_PG == "")] = NO_REST
    reason_PG[:, grouping.sizes("test") == 0] = NO_IMAGES
    return {**correct(p_PG, questions, dataset_id, grouping.name), "reason": reason_PG}
