"""Contrasts and answers -> the tables `contrasts`, `contrast_disparity`, `spreads` and `verdicts`.

Legend: K contrasts, G groups, N images. Which contrasts there are is `pairing.py`, what they are worth
`estimates.py`, how evenly they are spread `evenness.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from quantfair.results.configurations import find_configs
from quantfair.results.contrasts.estimates import Estimate, estimate_contrasts
from quantfair.results.contrasts.evenness import add_evenness
from quantfair.results.contrasts.flips import CorrectnessMatrix, Disagreement, compare_populations, count_flips
from quantfair.results.contrasts.pairing import RUNTIME, Contrast, find_contrasts, find_deployed, name_deployed
from quantfair.results.contrasts.recipes import NO_LIMITS, Columns, Recipes
from quantfair.results.contrasts.spreads import add_calibration_spreads, add_training_spreads
from quantfair.results.statistics.intervals import Interval
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import DatasetAnswers
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.groups import NO_IMAGES, divide, join_reasons, sum_by_group
from quantfair.results.tables.verdicts import Rules

CONTRAST_TABLES: Final = ("contrasts", "contrast_disparity", "spreads", "verdicts")
MIN_POPULATION: Final = 5  # seeds: the most frequent answer of fewer is mostly chance
SMALL_POPULATION = f"cie_share, taxicab: fewer than {MIN_POPULATION} seeds"
NO_REST = "eag: a single group has no rest to be compared with"
NO_FLIPS = "flip rates, cie_share, taxicab: not of a difference of drops"
OTHER_IMAGES = "the test images under the two kinds of data are not the same"


def add_contrasts(
    measured: Mapping[str, DatasetAnswers],
    plan: Iterable[Mapping[str, Any]],
    tables: Mapping[str, TableBuilder],
    *,
    rules: Rules,
) -> None:
    """Add the rows of all data sets to the four tables. `plan` tells which seeds are still to come."""
    configs = find_configs(row for one in measured.values() for row in one.trials)
    found, plan = find_contrasts(configs), list(plan)
    dataset_of = {row["trial_id"]: key for key, one in measured.items() for row in one.trials}
    for dataset_id, one in measured.items():
        contrasts = [_check(c, measured, dataset_of) for c in found if c.dataset_id == dataset_id]
        needed = {m.other_id: dataset_of[m.other_id] for c in contrasts for m in c.subtracted}
        needed |= {m.trial_id: dataset_of[m.trial_id] for c in contrasts for m in c.subtracted}
        foreign = {trial_id: measured[key].outcomes[trial_id] for trial_id, key in needed.items()}
        for deployed in one.deployed:
            own = [config for config in configs if config.dataset_id == dataset_id]
            contrasts += find_deployed(list(contrasts), own, deployed.runtime, deployed.outcomes.keys())
            foreign |= {name_deployed(deployed.runtime, key): found for key, found in deployed.outcomes.items()}
        ground = CorrectnessMatrix.of({**one.outcomes, **foreign})
        _add_data_set(contrasts, ground, one, plan=plan, tables=tables, rules=rules)


def _check(contrast: Contrast, measured: Mapping[str, DatasetAnswers], dataset_of: Mapping[str, str]) -> Contrast:
    """Return the contrast without its trials where these answered other test images."""
    own = measured[contrast.dataset_id].test_set
    others = {dataset_of[match.trial_id] for match in contrast.subtracted}
    if all(_have_same_images(own, measured[key].test_set) for key in others):
        return contrast
    return contrast.without_trials(OTHER_IMAGES)


def _have_same_images(a: TestSet, b: TestSet) -> bool:
    return np.array_equal(a.sample_ids_N, b.sample_ids_N) and np.array_equal(a.labels_N, b.labels_N)


def _add_data_set(
    contrasts: Sequence[Contrast],
    ground: CorrectnessMatrix,
    measured: DatasetAnswers,
    *,
    plan: Sequence[Mapping[str, Any]],
    tables: Mapping[str, TableBuilder],
    rules: Rules,
) -> None:
    test_set = measured.test_set
    disagreements = _find_disagreements(contrasts, ground, test_set.n_classes)
    configs = find_configs(measured.trials)
    flips = count_flips(contrasts, ground, test_set.groupings)
    overall = estimate_contrasts(contrasts, ground, flips["overall"], test_set.grouping("overall"))
    recipes = Recipes(contrasts, ground, test_set, rules, plan)
    for grouping in test_set.groupings:
        estimates = overall
        if grouping.name != "overall":
            estimates = estimate_contrasts(contrasts, ground, flips[grouping.name], grouping)
        limits = recipes.judge(flips[grouping.name], grouping, tables["verdicts"])
        for contrast in contrasts:
            key = contrast.contrast_id
            shares = _share_disagreements(disagreements.get(key), grouping)
            add_estimate(tables["contrasts"], contrast, estimates.get(key), grouping, limits=limits.get(key), **shares)
        if grouping.name != "overall":
            table = flips[grouping.name]
            add_evenness(tables["contrast_disparity"], contrasts, estimates, table, grouping=grouping)
        simulated = [contrast for contrast in contrasts if contrast.runtime == RUNTIME]
        add_training_spreads(tables["spreads"], simulated, estimates, grouping)
        add_calibration_spreads(tables["spreads"], configs, simulated, estimates, grouping=grouping)


def _find_disagreements(
    contrasts: Sequence[Contrast], ground: CorrectnessMatrix, n_classes: int
) -> dict[str, Disagreement]:
    def answers(trial_ids: Iterable[str]) -> np.ndarray:
        return np.stack([ground.outcomes[trial_id].predicted_N for trial_id in trial_ids])

    return {
        c.contrast_id: compare_populations(
            answers(m.trial_id for m in c.matches), answers(m.other_id for m in c.matches), n_classes
        )
        for c in contrasts
        if len(c.seeds) >= MIN_POPULATION and not c.subtracted
    }


def _share_disagreements(found: Disagreement | None, grouping: Grouping) -> dict[str, np.ndarray]:
    if found is None:
        return {}
    n_G = grouping.sizes("test")
    return {
        name: divide(sum_by_group(v, grouping), n_G) for name, v in zip(("cie_share", "taxicab"), found, strict=True)
    }


def add_estimate(
    rows: TableBuilder,
    contrast: Contrast,
    estimate: Estimate | None,
    grouping: Grouping,
    *,
    limits: Columns | None = None,
    **more: np.ndarray,
) -> None:
    """Add a row for each group of a grouping: what a contrast is worth there, or why nothing is known."""
    n_G = grouping.sizes("test")
    columns = {} if estimate is None else _columns(contrast, estimate)
    reasons = _explain(contrast, estimate, grouping)
    if limits is not None:
        columns |= {name: values_G for name, values_G in limits.items() if name != "reason"}
        reasons = [join_reasons(*some) or None for some in zip(reasons, limits["reason"], strict=True)]
    rows.add(
        len(n_G),
        **contrast.columns(),
        level=contrast.level,
        other_level=contrast.other_level,
        grouping=grouping.name,
        group=list(grouping.names),
        n=n_G,
        seeds=[list(contrast.seeds)] * len(n_G),
        **columns,
        **more,
        reason=reasons,
    )


def _columns(contrast: Contrast, estimate: Estimate) -> dict[str, Any]:
    has_images = (estimate.n_G > 0).tolist()
    by_seed = (100 * estimate.by_seed_GS).tolist()
    columns: dict[str, Any] = {
        "seed_drops_pp": [drops if has else None for drops, has in zip(by_seed, has_images, strict=True)],
        "drop_pp": 100 * estimate.drop_G,
        **_limits("drop_ci", estimate.interval),
        "ci_method": _name_method(contrast),
        "eag_pp": 100 * estimate.eag_G,
        **_limits("eag_ci", estimate.eag_interval),
    }
    if estimate.flips is not None:
        lost, won, flipped = estimate.flips
        columns |= {"flip_rate": flipped, "bad_flip_rate": lost, "good_flip_rate": won}
    if estimate.churn_G is not None:
        columns["churn_rate"] = estimate.churn_G
    return columns


def _limits(name: str, interval: Interval) -> dict[str, np.ndarray]:
    return {f"{name}_low_pp": 100 * interval.low, f"{name}_high_pp": 100 * interval.high}


def _name_method(contrast: Contrast) -> str:
    resampled = "crossed bootstrap, t" if len(contrast.seeds) > 1 else "bootstrap of images"
    return f"widest of {resampled} and {'MOVER on Tango' if contrast.subtracted else 'Tango'}"


def _explain(contrast: Contrast, estimate: Estimate | None, grouping: Grouping) -> list[str | None]:
    """Return for each group why some columns are null; `churn_rate` needs float models of two seeds."""
    n_G, n_seeds = grouping.sizes("test"), len(contrast.seeds)
    if estimate is None:
        return [join_reasons(contrast.reason, None if n else NO_IMAGES) for n in n_G]
    shared = (
        NO_REST if grouping.name == "overall" else None,
        NO_LIMITS if contrast.subtracted else None,
        NO_FLIPS if contrast.subtracted else SMALL_POPULATION if n_seeds < MIN_POPULATION else None,
    )
    return [(join_reasons(*shared) or None) if n else NO_IMAGES for n in n_G]
