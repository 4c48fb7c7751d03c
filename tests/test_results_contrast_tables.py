"""Tables of contrasts: planted damage is found where it was planted, and null data show no more than chance."""

import itertools
from typing import Any

import numpy as np
import pytest
from contrast_study import CODES, SIZES, N, Study, make_row
from scipy import stats

from quantfair.results.contrasts.tables import OTHER_IMAGES
from quantfair.results.statistics.intervals import drop_interval
from quantfair.results.tables.answers import DatasetAnswers


def test_exactly_the_planted_damage_is_found_in_all_seeds_and_nothing_elsewhere() -> None:
    study = Study()
    for seed in range(3):
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"b": 30}))
    tables = study.tables()
    rows = tables["contrasts"].query("grouping == 'group'").set_index("group")
    assert set(rows["kind"]) == {"ptq_vs_fp32"}
    assert rows["drop_pp"].drop("nobody").to_dict() == {"a": 0, "b": pytest.approx(20), "c": 0, "few": 0}
    assert rows.loc["b", "seed_drops_pp"] == pytest.approx([20, 20, 20])
    assert rows.loc["b", "seeds"].tolist() == [0, 1, 2]
    assert rows["bad_flip_rate"]["b"] == rows["flip_rate"]["b"] == pytest.approx(0.2)
    assert (rows["good_flip_rate"].drop("nobody") == 0).all()
    assert rows["drop_ci_low_pp"]["b"] > 10
    assert rows["eag_ci_low_pp"]["b"] > 0
    for quiet in ("a", "c", "few"):
        assert rows["drop_ci_low_pp"][quiet] < 0 < rows["drop_ci_high_pp"][quiet]
    assert rows["reason"]["nobody"] == "no test images in this group"
    assert rows.loc["nobody", ["drop_pp", "drop_ci_low_pp", "eag_pp", "flip_rate", "seed_drops_pp"]].isna().all()
    (overall,) = tables["contrasts"].query("grouping == 'overall'").to_dict("records")
    assert overall["drop_pp"] == pytest.approx(100 * 30 / N)
    assert overall["reason"].startswith("eag: a single group")
    assert np.isnan([overall[name] for name in ("eag_pp", "eag_ci_low_pp", "eag_ci_high_pp", "excess_lower_pp")]).all()
    assert set(tables["spreads"].query("group == 'a'")["reason"]) == {"no interval: all values are the same"}
    (disparity,) = tables["contrast_disparity"].query("grouping == 'group'").to_dict("records")
    assert disparity["drop_disparity_pp"] == pytest.approx(20)
    assert (disparity["worst_group"], disparity["n_groups"]) == ("b", 3)
    assert rows["lower_pp"]["b"] > 10
    assert rows["excess_lower_pp"]["b"] > 10
    assert rows["excess_pp"]["b"] == pytest.approx(20), "the others lost nothing"
    (verdict,) = tables["verdicts"].query("grouping == 'group'").to_dict("records")
    assert (verdict["word"], verdict["group"]) == ("uneven", "b")


def test_flips_count_and_drops_are_those_of_independent_code() -> None:
    study, rng = Study(), np.random.default_rng(1)
    noisy = [np.where(rng.random(N) < 0.1, 1 - answers, answers) for answers in study.floats]
    for seed, predicted in enumerate(noisy):
        study.add(make_row("qat", "qat", seed), predicted)
    rows = study.tables()["contrasts"].query("grouping == 'group' and n > 0").to_dict("records")
    for row in rows:
        here = list(SIZES).index(row["group"]) == CODES
        right = [(study.floats[s] == study.labels)[here] for s in range(3)], [(a == study.labels)[here] for a in noisy]
        drops = [100 * (before.mean() - after.mean()) for before, after in zip(*right, strict=True)]
        assert row["seed_drops_pp"] == pytest.approx(drops)
        assert row["drop_pp"] == pytest.approx(np.mean(drops))
        lost = np.mean([(b & ~a).mean() for b, a in zip(*right, strict=True)])
        assert row["bad_flip_rate"] == pytest.approx(lost)
        assert row["drop_ci_low_pp"] < row["drop_pp"] < row["drop_ci_high_pp"]


def test_no_interval_of_a_drop_is_beyond_what_is_possible() -> None:
    study = Study()
    for seed in range(3):
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"c": (5, 60, 5)[seed]}))
    rows = study.tables()["contrasts"]
    assert rows.query("group == 'c'").drop_ci_high_pp.item() == 100
    assert rows["drop_ci_low_pp"].min() >= -100


def test_exemplars_need_five_seeds_and_intervals_one() -> None:
    for n_seeds in (1, 2, 3, 5):
        study = Study(n_seeds)
        for seed in range(n_seeds):
            study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"a": 5 + seed}))
        (row,) = study.tables()["contrasts"].query("group == 'a'").to_dict("records")
        assert np.isnan(row["cie_share"]) == np.isnan(row["taxicab"]) == (n_seeds < 5)
        assert ("cie_share, taxicab: fewer than 5 seeds" in str(row["reason"])) == (n_seeds < 5)
        assert row["drop_ci_low_pp"] < row["drop_pp"] < row["drop_ci_high_pp"]
        assert row["ci_method"].startswith("widest of bootstrap" if n_seeds == 1 else "widest of crossed bootstrap")


def test_the_order_of_images_and_the_names_of_groups_change_nothing() -> None:
    study = Study()
    for seed in range(3):
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"a": 9, "c": 2 * seed}))
    renamed = Study(names="zyxwv")
    renamed.rows, renamed.outcomes = study.rows, study.outcomes
    first, second = (one.tables() for one in (study, renamed))
    numbers = [one["contrasts"].select_dtypes("number") for one in (first, second)]
    assert numbers[0].equals(numbers[1])
    numbers = [one["contrast_disparity"].select_dtypes("number") for one in (first, second)]
    assert numbers[0].equals(numbers[1])


def test_imbalance_is_a_difference_of_two_drops_on_the_same_images() -> None:
    balanced, imbalanced = Study(), Study(accuracy=0.85)
    imbalanced.rows = []
    for seed in range(3):
        balanced.add(make_row("ptq", "ptq", seed, dataset={"name": "x"}), balanced.damage(seed, {"a": 3, "b": 3}))
        damaged = imbalanced.damage(seed, {"a": 3, "b": 33})
        shared: Any = {"dataset_id": "long", "dataset": {"name": "x", "imbalance": "longtail:10"}}
        imbalanced.add(make_row("fp32", "fp32 long", seed, **shared, reference_trial_id=None), imbalanced.floats[seed])
        imbalanced.add(make_row("ptq", "ptq long", seed, **shared, reference_trial_id=f"fp32 long {seed}"), damaged)
        del imbalanced.outcomes[f"fp32 {seed}"]
    long = DatasetAnswers(imbalanced.test_set._replace(dataset_id="long"), imbalanced.rows, imbalanced.outcomes)
    rows = balanced.tables(long=long)["contrasts"].query("kind == 'data' and grouping == 'group'").set_index("group")
    assert rows["drop_pp"].drop("nobody").to_dict() == {"a": 0, "b": pytest.approx(20), "c": 0, "few": 0}
    assert set(rows["level"]) == {"longtail:10 by label"}
    assert rows["drop_ci_low_pp"]["b"] > 5
    assert rows["drop_ci_low_pp"]["c"] < 0 < rows["drop_ci_high_pp"]["c"]
    assert rows["ci_method"]["a"] == "widest of crossed bootstrap, t and MOVER on Tango"
    assert "not of a difference of drops" in rows["reason"]["a"]
    others = long._replace(test_set=long.test_set._replace(sample_ids_N=np.arange(1, N + 1)))
    rows = balanced.tables(long=others)["contrasts"].query("kind == 'data'")
    assert set(rows.query("n > 0")["reason"]) == {OTHER_IMAGES}
    assert rows["drop_pp"].isna().all()


def test_scratch_flips_against_other_seeds_stand_beside_the_churn_of_the_float_models() -> None:
    study, rng = Study(), np.random.default_rng(2)
    scratch = [np.where(rng.random(N) < 0.9, study.labels, 1 - study.labels) for _ in range(3)]
    for seed, predicted in enumerate(scratch):
        study.add(make_row("qat", "scratch", seed, init="scratch"), predicted)
    (row,) = study.tables()["contrasts"].query("kind == 'scratch_vs_churn' and group == 'all'").to_dict("records")
    flips = [np.mean(scratch[s] != study.floats[t]) for s in range(3) for t in range(3) if s != t]
    churn = [np.mean(study.floats[s] != study.floats[t]) for s, t in ((0, 1), (0, 2), (1, 2))]
    assert (row["flip_rate"], row["churn_rate"]) == pytest.approx((np.mean(flips), np.mean(churn)))


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_churn_stands_beside_the_flips_against_a_float_model(n_seeds: int) -> None:
    study = Study(n_seeds)
    for seed in range(n_seeds):
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"a": 9}))
    rows = study.tables()["contrasts"].query("grouping == 'group' and n > 0").to_dict("records")
    for row in rows:
        here = list(SIZES).index(row["group"]) == CODES
        pairs = itertools.combinations([answers[here] for answers in study.floats], 2)
        churn = [float(np.mean(one != other)) for one, other in pairs]
        assert row["churn_rate"] == pytest.approx(np.mean(churn) if churn else np.nan, nan_ok=True)


def test_spreads_are_standard_deviations_over_seeds_with_chi_squared_intervals() -> None:
    study, lost = Study(), [3, 12, 6]
    for seed, k in enumerate(lost):
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"a": k}))
    rows = study.tables()["spreads"].query("grouping == 'group'").set_index("group")
    sd = np.std(np.array(lost) / 3, ddof=1)
    limits = [sd * np.sqrt(2 / stats.chi2.ppf(q, 2)) for q in (0.975, 0.025)]
    assert rows.loc["a", ["sd_pp", "sd_ci_low_pp", "sd_ci_high_pp"]].tolist() == pytest.approx([sd, *limits])
    assert (rows["kind"]["a"], rows["n_values"]["a"], rows["mean_drop_pp"]["a"]) == (
        "training",
        3,
        pytest.approx(7 / 3 * 1),
    )
    study = Study(2)
    for seed in range(2):
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"a": 3}))
    rows = study.tables()["spreads"].query("group == 'a'")
    assert rows["sd_pp"].isna().all()
    assert set(rows["reason"]) == {"a spread needs 3 seeds"}


def test_spreads_over_calibration_are_pooled_over_training_seeds() -> None:
    study, lost = Study(2), {0: [3, 6, 9], 1: [6, 6, 0]}
    for seed in lost:
        for calib_seed, k in enumerate(lost[seed]):
            row = make_row("ptq", f"ptq {calib_seed}", seed, **({"calib_seed": calib_seed} if calib_seed else {}))
            study.add(row, study.damage(seed, {"a": k}))
    rows = study.tables()["spreads"].query("kind == 'calibration' and group == 'a'").to_dict("records")
    (row,) = rows
    variance = np.mean([np.var(np.array(lost[seed]) / 3, ddof=1) for seed in lost])
    assert row["sd_pp"] == pytest.approx(np.sqrt(variance))
    assert row["sd_ci_high_pp"] == pytest.approx(np.sqrt(variance * 4 / stats.chi2.ppf(0.025, 4)))
    assert (row["n_values"], row["config_id"]) == (3, "ptq 0")


def test_of_one_seed_the_disparity_has_a_p_and_over_seeds_the_groups_have_limits() -> None:
    for n_seeds in (1, 3):
        study = Study(n_seeds)
        for seed in range(n_seeds):
            study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"b": 30}))
        (row,) = study.tables()["contrast_disparity"].query("grouping == 'group'").to_dict("records")
        assert row["drop_disparity_pp"] == pytest.approx(20)
        assert (row["worst_group"], row["n_groups"]) == ("b", 3)
        limits = study.tables()["contrasts"].query("grouping == 'group'").set_index("group")
        assert limits["excess_lower_pp"]["b"] > 5
        assert limits["excess_lower_pp"].drop("b").max() < 0
        if n_seeds == 1:
            assert row["null_p"] == pytest.approx(0.001), "one of 1,000 draws, the observed counts"
            assert 0 < row["null_mean_pp"] < row["null_q95_pp"] < 20
        else:
            assert np.isnan([row["null_p"], row["null_mean_pp"], row["null_q95_pp"]]).all()
            assert row["reason"] == "null_p: over seeds see excess_lower_pp of each group in contrasts"


def test_the_floor_where_nothing_flips_is_no_higher_than_where_one_image_does() -> None:
    study = Study(1)
    study.add(make_row("ptq", "same", 0), study.floats[0])
    study.add(make_row("ptq", "one flip", 0, scheme="other"), study.damage(0, {"a": 1}))
    rows = study.tables()["contrast_disparity"].query("kind == 'ptq_vs_fp32' and grouping == 'group'")
    floor = rows.set_index("config_id")["null_q95_pp"]
    assert 0 < floor["same"] <= floor["one flip"]


@pytest.mark.parametrize("lost", [(60, 180, 100, 280, 160), (160, 161, 159, 160, 160)])
def test_limits_over_seeds_are_the_wider_ones_of_t_limits_and_of_tangos_on_mean_counts(lost: tuple[int, ...]) -> None:
    study = Study(5, times=20)
    in_a = np.repeat(CODES, 20) == 0
    values_SN = []
    for seed, k in enumerate(lost):
        predicted = study.floats[seed].copy()
        hit = np.flatnonzero((predicted == study.labels) & in_a)[:k]
        predicted[hit] = 1 - study.labels[hit]
        study.add(make_row("ptq", "ptq", seed), predicted)
        values_SN.append(np.isin(np.arange(len(in_a)), hit).astype(float))
    row = study.tables()["contrasts"].query("group == 'a'").to_dict("records")[0]
    shared, n = 0.025 / 5, in_a.sum()  # four groups and all images

    def find_t_reach(level: float, drops_S: np.ndarray, *parts: np.ndarray) -> float:
        """Return how far a t limit lies from the mean drop; `parts` are outcomes of images, S x N."""
        of_images = sum(float(part.mean(axis=0).var()) / part.shape[1] for part in parts)
        of_seeds = drops_S.var(ddof=1) / 5
        freedom = 4 * (of_images + of_seeds) / of_seeds
        return float(stats.t.ppf(1 - level, freedom) * np.sqrt(of_images + of_seeds))

    own_SN, others_SN = np.array(values_SN)[:, in_a], np.array(values_SN)[:, ~in_a]
    drops_S = own_SN.mean(axis=1)
    drop = drops_S.mean()
    excess_S = drops_S - others_SN.mean(axis=1)

    tango_upper = drop_interval(np.mean(lost), 0, n, confidence=0.90).high
    t_upper = drop + find_t_reach(0.05, drops_S, own_SN)
    assert row["upper_pp"] == pytest.approx(100 * max(tango_upper, t_upper))

    tango_lower = drop_interval(np.mean(lost) - 0.5, 0, n, confidence=1 - 2 * shared).low
    t_lower = drop - find_t_reach(shared, drops_S, own_SN)
    assert row["lower_pp"] == pytest.approx(100 * min(tango_lower, t_lower))

    upper_of_others = drop_interval(0, 0, len(in_a) - n, confidence=1 - 2 * shared).high
    mover = drop - np.hypot(drop - tango_lower, upper_of_others)
    t_excess = drop - find_t_reach(shared, excess_S, own_SN, others_SN)
    assert row["excess_lower_pp"] == pytest.approx(100 * min(mover, t_excess))

    seeds_differ = np.ptp(lost) > 2
    assert (t_upper > tango_upper) == seeds_differ, "each of the two limits is the wider one in one case"


@pytest.mark.parametrize("counts", [{"a": 24, "b": 15, "c": 6}, {"a": 40, "b": 10, "c": 9}, {"a": 20, "b": 9, "c": 7}])
def test_of_one_seed_that_only_loses_p_is_nearly_that_of_a_chi_squared_test(counts: dict[str, int]) -> None:
    study = Study(1)
    study.add(make_row("ptq", "ptq", 0), study.damage(0, {**counts, "few": 18}))
    (row,) = study.tables()["contrast_disparity"].query("grouping == 'group'").to_dict("records")
    lost, n = np.array(list(counts.values())), np.array([SIZES[name] for name in counts])
    expected: Any = stats.chi2_contingency(np.stack([lost, n - lost]))
    assert row["null_p"] == pytest.approx(expected.pvalue, abs=0.05), "the smallest group takes no part"
