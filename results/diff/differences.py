"""Two stores -> what their aligned configurations differ by, in every group, with intervals.

A drop is the accuracy in the other store minus that in this one, of a configuration that both have: positive where this
store is worse. Where both predicted the same test images, seeds are paired and the numbers are those of `contrasts`;
where they did not, the two accuracies are beside each other with an interval for independent samples: of the images,
and where a store has several seeds, of these too. `kind` says what of:

store         the accuracy of the configuration
store_damage  its drop against its reference or control here, minus that drop there: whether quantization itself costs
              more. Only where images are the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from quantfair.results.configurations import Config, find_configs
from quantfair.results.contrasts.estimates import estimate_contrasts
from quantfair.results.contrasts.evenness import add_evenness
from quantfair.results.contrasts.flips import CorrectnessMatrix, count_flips
from quantfair.results.contrasts.pairing import Contrast, Match
from quantfair.results.contrasts.recipes import Recipes
from quantfair.results.contrasts.tables import add_estimate
from quantfair.results.diff.alignment import Aligned, align_configs, list_setting_differences
from quantfair.results.schema import COMPARISONS, CONTRAST_DISPARITY, DIFFERENCES, SETTING_DIFFERENCES, VERDICTS
from quantfair.results.statistics.crossed import subtract, t_interval
from quantfair.results.statistics.decisions import LIMIT
from quantfair.results.statistics.intervals import Interval, wilson_interval
from quantfair.results.store.files import StoreError
from quantfair.results.store.recovery import scan_store
from quantfair.results.store.rows import TableBuilder
from quantfair.results.store.store import Store
from quantfair.results.store.trial_list import list_trials
from quantfair.results.tables.answers import TrialAnswers, read_all_outcomes
from quantfair.results.tables.groupings import Grouping, TestSet, make_test_set
from quantfair.results.tables.groups import divide, sum_by_group
from quantfair.results.tables.verdicts import Rules
from quantfair.results.user_data.groups import add_custom_groups

OTHER: Final = "other/"  # stands before the ids of the other store's trials
NO_SEED: Final = "no seed is finished in both stores"
OTHER_IMAGES: Final = "the test images differ, so accuracies are compared as of independent samples, seeds averaged"
OTHER_GROUP: Final = "the other store has no such group"
INDEPENDENT: Final = "Newcombe, independent images"
WITH_SEEDS: Final = "Newcombe, independent images, and t over seeds"


class _Side(NamedTuple):
    """One store: its configurations, and by data set the test images and what trials answered, by runtime."""

    store: Store
    configs: list[Config]
    test_sets: dict[str, TestSet]
    manifest: Mapping[str, Any]


def find_differences(store: Store, other: Store) -> dict[str, pa.Table]:
    """Return the tables `differences`, `difference_disparity` and `setting_differences`. Nothing is written.

    Raises:
        StoreError: one of the two holds no sweep, or they have no configuration in common.
    """
    here, there = _open(store), _open(other)
    pairs = align_configs(here.configs, there.configs)
    if not any(pair.here and pair.there for pair in pairs):
        raise StoreError(
            f"{store.location} and {other.location} have no finished configuration in common: they must have the same "
            "data set, task, network and method, and equal values of all settings that vary within one of them."
        )
    rows, spreads = TableBuilder(DIFFERENCES), TableBuilder(CONTRAST_DISPARITY)
    for key in dict.fromkeys((p.here.dataset_id, p.there.dataset_id) for p in pairs if p.here and p.there):
        some = [p for p in pairs if p.here and p.there and (p.here.dataset_id, p.there.dataset_id) == key]
        _compare_data(here, there, key, some, rows=rows, spreads=spreads)
    for pair in pairs:
        if pair.reason:
            config, side = (pair.here, "config_id") if pair.here else (pair.there, "other_config_id")
            assert config is not None
            rows.add(1, kind="store", **{side: config.config_id}, dataset_id=config.dataset_id, reason=pair.reason)
    return {
        "differences": rows.table(),
        "difference_disparity": spreads.table(),
        "setting_differences": _list_settings(here, there, pairs),
    }


def _open(store: Store) -> _Side:
    manifest, found = store.read_manifest(), scan_store(store)
    ok = [row for row in list_trials(store, found) if row["status"] == "ok"]
    test_sets = {}
    for dataset_id in dict.fromkeys(row["dataset_id"] for row in ok):
        samples, attributes, custom = add_custom_groups(store, dataset_id)
        names = [*manifest["groupings"][dataset_id], *custom]
        test_sets[dataset_id] = make_test_set(dataset_id, samples, attributes, names)
    return _Side(store, find_configs(ok), test_sets, manifest)


def _compare_data(
    here: _Side,
    there: _Side,
    key: tuple[str, str],
    pairs: Sequence[Aligned],
    *,
    rows: TableBuilder,
    spreads: TableBuilder,
) -> None:
    """Add the rows of configurations of one data set of each store."""
    own, other = here.test_sets[key[0]], there.test_sets[key[1]]
    mine, theirs = (_read(side, key[i], pairs) for i, side in enumerate((here, there)))
    same = np.array_equal(own.sample_ids_N, other.sample_ids_N) and np.array_equal(own.labels_N, other.labels_N)
    if not same:
        for pair in pairs:
            _add_independent(rows, pair, (own, mine), (other, theirs))
        return
    ground = CorrectnessMatrix.of({**mine, **{OTHER + trial_id: found for trial_id, found in theirs.items()}})
    contrasts = [contrast for pair in pairs for contrast in _list_contrasts(pair, ground.columns)]
    flips = count_flips(contrasts, ground, own.groupings)
    recipes = Recipes(contrasts, ground, own, Rules(LIMIT, ()), ())
    no_words = TableBuilder(VERDICTS)  # two stores are compared; none of these contrasts is of a model and its original
    for grouping in own.groupings:
        table = flips[grouping.name]
        estimates = estimate_contrasts(contrasts, ground, table, grouping)
        limits = recipes.judge(table, grouping, no_words)
        for contrast in contrasts:
            contrast_id, accuracies = contrast.contrast_id, _average(contrast, ground, grouping)
            estimate = estimates.get(contrast_id)
            add_estimate(rows, contrast, estimate, grouping, limits=limits.get(contrast_id), **accuracies)
        if grouping.name != "overall":
            add_evenness(spreads, contrasts, estimates, table, grouping=grouping)


def _read(side: _Side, dataset_id: str, pairs: Sequence[Aligned]) -> dict[str, TrialAnswers]:
    """Return what the trials of aligned configurations answered in torch, and those that they are compared with."""
    aligned = {config.config_id for pair in pairs for config in (pair.here, pair.there) if config}
    rows = [row for config in side.configs if config.config_id in aligned for row in config.rows.values()]
    ok = {row["trial_id"] for config in side.configs for row in config.rows.values()}
    ids = dict.fromkeys(row["trial_id"] for row in rows)
    ids |= dict.fromkeys(row[column] for row in rows for column in COMPARISONS.values() if row[column] in ok)
    read = read_all_outcomes(side.store, list(ids), "torch", side.test_sets[dataset_id])
    return {answers.trial_id: answers for answers, _ in read}


def _list_contrasts(pair: Aligned, known: Mapping[str, int]) -> Iterable[Contrast]:
    assert pair.here is not None
    assert pair.there is not None
    mine, theirs = pair.here.rows, pair.there.rows
    seeds = tuple(seed for seed in mine if seed in theirs)
    ids = (pair.here.dataset_id, pair.here.config_id, pair.there.config_id)
    matches = tuple(Match(mine[seed]["trial_id"], OTHER + theirs[seed]["trial_id"]) for seed in seeds)
    yield Contrast("store", *ids, seeds=seeds, matches=matches, flips=matches, reason=None if seeds else NO_SEED)
    for comparison, column in COMPARISONS.items():
        both = [s for s in seeds if mine[s][column] in known and f"{OTHER}{theirs[s][column]}" in known]
        if both:
            yield Contrast(
                "store_damage",
                *ids,
                comparison,
                seeds=tuple(both),
                matches=tuple(Match(mine[s]["trial_id"], mine[s][column]) for s in both),
                subtracted=tuple(Match(OTHER + theirs[s]["trial_id"], OTHER + theirs[s][column]) for s in both),
            )


def _average(contrast: Contrast, ground: CorrectnessMatrix, grouping: Grouping) -> dict[str, np.ndarray]:
    """Return the accuracies of both sides by group, means over the seeds."""
    if contrast.kind != "store" or not contrast.seeds:
        return {}
    sides = {
        "accuracy": [m.trial_id for m in contrast.matches],
        "other_accuracy": [m.other_id for m in contrast.matches],
    }
    n_G = grouping.sizes("test")
    return {
        name: divide(sum_by_group(np.mean([ground.outcomes[i].right_N for i in ids], axis=0), grouping), n_G)
        for name, ids in sides.items()
    }


_Answers = tuple[TestSet, Mapping[str, TrialAnswers]]


def _add_independent(rows: TableBuilder, pair: Aligned, here: _Answers, there: _Answers) -> None:
    """Add the accuracies of both sides with an interval for independent images; groups are matched by their names."""
    assert pair.here is not None
    assert pair.there is not None
    known = {grouping.name: grouping for grouping in there[0].groupings}
    for grouping in here[0].groupings:
        other = known.get(grouping.name)
        own_SG, n_G = _accuracies(pair.here, here[1], grouping), grouping.sizes("test")
        if other is None:
            other_SG, other_n_G = np.full((1, len(n_G)), np.nan), np.zeros(len(n_G), np.int64)
        else:
            place = {name: code for code, name in enumerate(other.names)}
            codes = np.array([place.get(name, -1) for name in grouping.names])
            other_SG = np.where(codes >= 0, _accuracies(pair.there, there[1], other)[:, codes], np.nan)
            other_n_G = np.where(codes >= 0, other.sizes("test")[codes], 0)
        own_G, other_G = own_SG.mean(axis=0), other_SG.mean(axis=0)
        interval = independent_interval(other_SG, other_n_G, own_SG, n_G)
        rows.add(
            len(n_G),
            kind="store",
            runtime="torch",
            dataset_id=pair.here.dataset_id,
            config_id=pair.here.config_id,
            other_config_id=pair.there.config_id,
            grouping=grouping.name,
            group=list(grouping.names),
            n=n_G,
            other_n=other_n_G,
            n_seeds=min(len(pair.here.rows), len(pair.there.rows)),
            accuracy=own_G,
            other_accuracy=other_G,
            drop_pp=100 * (other_G - own_G),
            drop_ci_low_pp=100 * interval.low,
            drop_ci_high_pp=100 * interval.high,
            ci_method=WITH_SEEDS if max(len(own_SG), len(other_SG)) > 1 else INDEPENDENT,
            reason=[OTHER_IMAGES if n else OTHER_GROUP for n in other_n_G],
        )


def _accuracies(config: Config, answers: Mapping[str, TrialAnswers], grouping: Grouping) -> np.ndarray:
    """Return the accuracy of every seed in every group, S x G."""
    n_G = grouping.sizes("test")
    right = (answers[row["trial_id"]].right_N.astype(np.float64) for row in config.rows.values())
    return np.stack([divide(sum_by_group(right_N, grouping), n_G) for right_N in right])


def independent_interval(p1_SG: np.ndarray, n1_G: np.ndarray, p2_SG: np.ndarray, n2_G: np.ndarray) -> Interval:
    """Return the 95 % interval of mean p1 - mean p2, accuracies of S seeds on n1 and on n2 independent images.

    nan where one is unknown. Wilson's limits of each mean, reaching as much further as a t interval over its seeds
    does (one seed tells nothing of others), are squared and added. Source: Newcombe, Statistics in Medicine 17 (1998)
    873, method 10, which it is for one seed on each side.
    """
    known_G = np.isfinite(p1_SG).all(axis=0) & np.isfinite(p2_SG).all(axis=0) & (n1_G > 0) & (n2_G > 0)
    sides = [(np.where(known_G, p_SG, 0.0), np.where(known_G, n_G, 1)) for p_SG, n_G in ((p1_SG, n1_G), (p2_SG, n2_G))]
    (first, mean1_G), (second, mean2_G) = ((_mean_interval(p_SG, n_G), p_SG.mean(axis=0)) for p_SG, n_G in sides)
    low_G, high_G = subtract(first, mean1_G, second, mean2_G)
    return Interval(np.where(known_G, low_G, np.nan), np.where(known_G, high_G, np.nan))


def _mean_interval(p_SG: np.ndarray, n_G: np.ndarray) -> Interval:
    mean_G = p_SG.mean(axis=0)
    images = wilson_interval(mean_G * n_G, n_G)
    seeds_G = np.zeros(len(mean_G))
    if len(p_SG) > 1:
        seeds_G = np.nan_to_num(t_interval(p_SG).high - mean_G)  # nan where all seeds agree
    low, high = np.hypot(mean_G - images.low, seeds_G), np.hypot(images.high - mean_G, seeds_G)
    return Interval(mean_G - low, mean_G + high)


def _list_settings(here: _Side, there: _Side, pairs: Iterable[Aligned]) -> pa.Table:
    """Return what the two sweeps were told differently, and what they ran with: versions, commit, machine."""
    rows = TableBuilder(SETTING_DIFFERENCES)
    for method, setting, mine, theirs in list_setting_differences(pairs):
        rows.add(1, method=method, setting=setting, here=mine, there=theirs)
    own, other = here.manifest["provenance"], there.manifest["provenance"]
    for name in dict.fromkeys((*own, *other)):
        if own.get(name) != other.get(name):
            rows.add(1, setting=name, here=_text(own.get(name)), there=_text(other.get(name)))
    return rows.table()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
