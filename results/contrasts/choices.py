"""Which configuration to take, chosen on val alone -> the table `choices`.

One question is data set x float model (network and training) x method (with its base or init) x bits; its
configurations differ in all else. Two criteria: the largest accuracy, and the smallest drop of the group that drops
most (groups with MIN_RANKED images), each configuration against its own reference. What a choice then does on test is
beside what picking on test would have claimed: the difference is optimism. Fractions; means over the seeds that all
configurations of a question have. Of
equal ones the first of the plan is chosen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from quantfair.results.configurations import Config, find_configs, group_by_key
from quantfair.results.schema import MIN_RANKED
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import DatasetAnswers, TrialAnswers
from quantfair.results.tables.groupings import Grouping

NO_VAL: Final = "not all configurations have predictions of the val images"
NO_SEED: Final = "no seed is finished under all configurations"
NO_REFERENCE: Final = "not all configurations have a reference with predictions of the val images"
NO_GROUP: Final = f"no group has {MIN_RANKED} images in both val and test"
_KEY: Final = ("dataset_id", "model", "method", "base", "init", "weight_bits", "act_bits")


class _Value(NamedTuple):
    """What a configuration is worth by a criterion; more is better."""

    val: float
    test: float


def add_choices(measured: DatasetAnswers, rows: TableBuilder) -> None:
    """Add the choices of one data set."""
    quantized = [config for config in find_configs(measured.trials) if config.method in ("ptq", "qat")]
    for configs in group_by_key((_question(config), config) for config in quantized):
        seeds = [seed for seed in configs[0].rows if all(seed in config.rows for config in configs)]
        for criterion, grouping in _list_criteria(measured):
            shared = dict(zip((*_KEY, "training"), _question(configs[0]), strict=True))
            shared |= {"criterion": criterion, "grouping": grouping.name, "n_configs": len(configs)}
            found = _choose(configs, seeds, measured, grouping=grouping, criterion=criterion)
            rows.add(1, **shared, n_seeds=len(seeds), **found)


def _question(config: Config) -> tuple[Any, ...]:
    row = next(iter(config.rows.values()))
    return (*(row.get(name) for name in _KEY), config.training)


def _list_criteria(measured: DatasetAnswers) -> Iterator[tuple[str, Grouping]]:
    for grouping in measured.test_set.groupings:
        yield ("accuracy" if grouping.name == "overall" else "worst_group"), grouping


def _choose(
    configs: Sequence[Config], seeds: Sequence[int], measured: DatasetAnswers, *, grouping: Grouping, criterion: str
) -> dict[str, Any]:
    """Return the columns of a choice, or the reason that there is none."""
    trials = [[config.rows[seed] for seed in seeds] for config in configs]
    measure, reason = _measure_accuracy, None if seeds else NO_SEED
    if any(measured.outcomes[row["trial_id"]].val_right_V is None for some in trials for row in some):
        reason = NO_VAL
    elif criterion == "worst_group":
        measure = _measure_worst_group
        reason = reason or _explain_missing(trials, measured, grouping)
    if reason:
        return {"reason": reason}
    values = [measure(some, measured, grouping) for some in trials]
    sign = 1 if criterion == "accuracy" else -1
    chosen = max(range(len(values)), key=lambda index: sign * values[index].val)
    return {
        "config_id": configs[chosen].config_id,
        "val_value": values[chosen].val,
        "test_value": values[chosen].test,
        "best_test_value": sign * max(sign * value.test for value in values),
    }


_Rows = Sequence[Mapping[str, Any]]
_Measure = Callable[[_Rows, DatasetAnswers, Grouping], _Value]


def _explain_missing(trials: Sequence[_Rows], measured: DatasetAnswers, grouping: Grouping) -> str | None:
    references = [measured.outcomes.get(row["reference_trial_id"]) for some in trials for row in some]
    if any(reference is None or reference.val_right_V is None for reference in references):
        return NO_REFERENCE
    return None if _find_large(grouping).any() else NO_GROUP


def _find_large(grouping: Grouping) -> np.ndarray:
    """Return which groups are large enough on both splits, so that val and test speak of the same ones."""
    return (grouping.sizes("val") >= MIN_RANKED) & (grouping.sizes("test") >= MIN_RANKED)


def _measure_accuracy(rows: _Rows, measured: DatasetAnswers, grouping: Grouping) -> _Value:
    answers = [measured.outcomes[row["trial_id"]] for row in rows]
    return _Value(*(float(np.mean([_right(one, split) for one in answers])) for split in ("val", "test")))


def _measure_worst_group(rows: _Rows, measured: DatasetAnswers, grouping: Grouping) -> _Value:
    """Return the largest drop of a group, the mean over seeds being taken first."""
    large_G, found = _find_large(grouping), []
    for split, codes in (("val", grouping.val_V), ("test", grouping.test_N)):
        lost = np.mean(
            [
                _right(measured.outcomes[row["reference_trial_id"]], split).astype(np.float64)
                - _right(measured.outcomes[row["trial_id"]], split)
                for row in rows
            ],
            axis=0,
        )
        drop_G = np.bincount(codes, weights=lost, minlength=len(grouping.names))[large_G]
        found.append(float((drop_G / grouping.sizes(split)[large_G]).max()))
    return _Value(*found)


def _right(answers: TrialAnswers, split: str) -> np.ndarray:
    right = answers.right_N if split == "test" else answers.val_right_V
    assert right is not None
    return right
