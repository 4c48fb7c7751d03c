"""Verdict words follow their printed rules, one planted case each."""

import numpy as np
import pandas as pd
import pytest
from contrast_study import CODES, SIZES, N, Study, make_row
from measured_trials import make_outcomes, make_test_set
from scipy import stats

from quantfair.results.contrasts.verdicts import REACH, RULES, VerdictInputs, find_best_guess, judge
from quantfair.results.statistics.permutation import measure_evenness

CASE = VerdictInputs(
    reference=0.9, accuracy=0.89, guess=0.5, gain=0.0, margin=0.03,
    p=0.5, disparity=0.02, floor=0.03, low=-0.01, high=0.02, mde=0.02,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "word", "numbers"),
    [
        ({"reference": 0.55, "margin": 0.001}, "no verdict", "(accuracy 55.00 %, most frequent class 50.00 %)"),
        ({"gain": 0.0101, "margin": 0.001}, "no verdict", "(at least 1.01 pp)"),
        ({"accuracy": 0.69}, "collapsed", "(accuracy 69.00 % after 90.00 %, most frequent class 50.00 %)"),
        ({"margin": 0.0099, "p": 0.001, "disparity": 0.04, "low": 0.001}, "harmless", "(all within 0.99 pp)"),
        ({"p": 0.049, "disparity": 0.031}, "uneven", "(p = 0.049; largest minus smallest drop 3.10 pp, by chance"),
        ({"p": 0.049, "disparity": 0.029, "low": 0.001}, "uneven", "by chance at most 3.00 pp in 95 %)"),
        ({"p": 0.05, "disparity": 0.031, "low": 0.001}, "degraded", "(0.10 to 2.00 pp)"),
        ({"p": np.nan, "disparity": np.nan, "low": 0.001}, "degraded", "(0.10 to 2.00 pp)"),
        ({}, "inconclusive", "(a drop below 2.00 pp could have gone unseen in a group; "),
        ({"margin": np.nan, "mde": np.nan}, "inconclusive", "harmless would need a margin of ? pp)"),
    ],
)
def test_the_first_rule_that_holds_gives_the_word_and_its_text_has_the_numbers(
    changes: dict[str, float], word: str, numbers: str
) -> None:
    case = CASE._replace(**changes)
    rule = judge(case)
    assert rule.word == word
    assert numbers in rule.explain(case)
    assert rule.explain(case).startswith(rule.text)


def test_the_rules_stand_in_the_order_of_the_words() -> None:
    words = list(dict.fromkeys(rule.word for rule in RULES))
    assert words == ["no verdict", "collapsed", "harmless", "uneven", "degraded", "inconclusive"]


def verdict(study: Study, *, grouping: str = "group", config_id: str = "ptq", comparison: str = "reference") -> dict:
    rows = study.tables()["verdicts"].query("grouping == @grouping and config_id == @config_id")
    (row,) = rows[rows["comparison"] == comparison].to_dict("records")
    return row


def test_a_trial_that_only_guesses_has_collapsed() -> None:
    study = Study()
    for seed in range(3):
        study.add(make_row("ptq", "ptq", seed), np.ones(N, dtype=np.int64))
    assert verdict(study)["word"] == "collapsed"


def test_where_a_seed_is_missing_both_accuracies_are_of_the_seeds_that_are_there() -> None:
    study = Study(2)
    study.floats[1] = np.where(np.arange(N) % 10 < 6, study.labels, 1 - study.labels)
    study.outcomes["fp32 1"] = make_outcomes("fp32 1", study.floats[1], study.labels)
    study.add(make_row("ptq", "ptq", 0), study.damage(0, {"a": 60, "b": 40}))
    assert verdict(study)["word"] != "collapsed"  # 74 % after 92 %, most frequent label 54 %
    study.outcomes["ptq 0"] = make_outcomes("ptq 0", np.ones(N, dtype=np.int64), study.labels)
    before, after = (100 * study.outcomes[trial_id].right_N.mean() for trial_id in ("fp32 0", "ptq 0"))
    assert f"(accuracy {after:.2f} % after {before:.2f} %" in verdict(study)["rule"]


def test_an_even_damage_has_degraded_evenly_and_a_small_one_is_inconclusive_with_what_could_be_seen() -> None:
    study = Study()
    for seed in range(3):
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"a": 30, "b": 15, "c": 10, "few": 2}))
        study.add(make_row("ptq", "same", seed), study.floats[seed])
    assert verdict(study)["word"] == "degraded"
    same, contrasts = verdict(study, config_id="same"), study.tables()["contrasts"]
    assert same["word"] == "inconclusive"
    assert same["harmless_margin_pp"] > 1
    assert same["mde_pp"] == pytest.approx(contrasts.query("group == 'c' and config_id == 'same'")["mde_pp"].max())
    assert f"a drop below {same['mde_pp']:.2f} pp could have gone unseen" in same["rule"]


def test_a_drop_that_was_not_told_from_0_is_none_that_could_not_have_gone_unseen() -> None:
    study = Study(5)
    for seed, k in enumerate((0, 0, 0, 120, 150)):
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"a": k, "b": k // 2, "c": k // 3}))
    for grouping in ("overall", "group"):
        row = verdict(study, grouping=grouping)
        groups = study.tables()["contrasts"].query("grouping == @grouping and n >= 50")
        unseen = groups[groups["drop_ci_low_pp"] <= 0]
        assert (row["word"], len(unseen)) == ("inconclusive", len(groups))
        assert row["mde_pp"] > unseen["drop_pp"].max()


@pytest.mark.parametrize("n_seeds", [2, 3, 5, 10, 1000])
def test_a_drop_of_the_reach_is_found_with_the_power_that_is_said(n_seeds: int) -> None:
    quantile = stats.t.ppf(0.975, n_seeds - 1)
    assert 0.79 <= stats.nct.sf(quantile, n_seeds - 1, REACH * quantile) <= 0.86


def test_no_damage_is_harmless_only_where_every_ranked_group_is_large_enough() -> None:
    study = Study(1, times=15)
    study.add(make_row("ptq", "ptq", 0), study.floats[0])
    row = verdict(study)
    assert row["word"] == "harmless"
    assert 0 < row["harmless_margin_pp"] < 1
    assert verdict(study, grouping="overall")["word"] == "harmless"


def test_a_reference_that_only_guesses_or_gains_by_fine_tuning_gets_no_verdict() -> None:
    study = Study(accuracy=0.5)
    study.add(make_row("ptq", "ptq", 0), study.floats[0])
    assert verdict(study)["word"] == "no verdict"
    study = Study(accuracy=0.8)
    for seed in range(3):
        better = np.where(np.arange(N) % 4 == 0, study.labels, study.floats[seed])
        study.add(make_row("fp32_ft", "ft", seed), better)
        study.add(make_row("ptq", "ptq", seed), study.floats[seed])
        study.add(make_row("qat", "qat", seed, control_trial_id=f"ft {seed}"), better)
    assert verdict(study)["word"] == verdict(study, config_id="ft")["word"] == "no verdict"
    assert "fine-tuning alone gains" in verdict(study)["rule"]
    assert verdict(study, config_id="qat", comparison="control")["word"] != "no verdict"


def test_groups_at_the_level_of_guessing_are_out_of_play_and_do_not_count() -> None:
    study = Study()
    in_b = list(SIZES).index("b") == CODES
    for seed in range(3):
        study.floats[seed][in_b] = np.where(np.arange(N) % 2, study.labels, 1 - study.labels)[in_b]
        study.outcomes[f"fp32 {seed}"] = make_outcomes(f"fp32 {seed}", study.floats[seed], study.labels)
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"b": 40}))
    row = verdict(study)
    assert row["out_of_play"].tolist() == ["b"]
    assert row["word"] != "uneven"
    assert row["drop_disparity_pp"] == 0
    assert row["worst_group"] != "b"
    disparity = study.tables()["contrast_disparity"].query("grouping == 'group'")
    assert disparity["worst_group"].tolist() == ["b"]


def test_the_p_of_the_groups_in_play_is_that_without_the_images_that_are_out_of_play() -> None:
    study = Study()
    in_b = list(SIZES).index("b") == CODES
    for seed in range(3):
        study.floats[seed][in_b] = np.where(np.arange(N) % 2, study.labels, 1 - study.labels)[in_b]
        study.outcomes[f"fp32 {seed}"] = make_outcomes(f"fp32 {seed}", study.floats[seed], study.labels)
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"a": 2, "b": 60, "c": 1 + 3 * (seed == 0)}))
    trials = [(study.outcomes[f"fp32 {seed}"], study.outcomes[f"ptq {seed}"]) for seed in range(3)]
    lost = np.sum([before.right_N.astype(int) - after.right_N for before, after in trials], axis=0)
    alone = np.where((CODES == 0) | (CODES == 2), CODES, -1)
    expected = measure_evenness(lost[:, None], alone, 3)
    row = verdict(study)
    assert row["out_of_play"].tolist() == ["b"]
    assert row["perm_p"] == pytest.approx(expected.p[0])
    assert row["null_q95_pp"] == pytest.approx(100 * expected.null_q95[0] / 3)


def test_the_best_guess_of_a_group_is_its_most_frequent_label_and_0_where_groups_are_classes() -> None:
    labels, codes = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    test_set = make_test_set(labels, {"g": ("xyz", codes), "label*g": ("abcd", 2 * labels + codes)})
    assert find_best_guess(test_set, test_set.grouping("g"))[:2] == pytest.approx([2 / 3, 1])
    assert np.isnan(find_best_guess(test_set, test_set.grouping("g"))[2])
    for name in ("label", "label*g"):
        assert (find_best_guess(test_set, test_set.grouping(name)) == 0).all()
    assert find_best_guess(test_set, test_set.grouping("overall")) == pytest.approx([4 / 6])


def test_a_verdict_is_provisional_while_seeds_of_the_plan_are_missing() -> None:
    study = Study()
    for seed in range(2):
        study.add(make_row("ptq", "ptq", seed), study.floats[seed])
    for plan, expected in ((study.rows, False), ([*study.rows, make_row("ptq", "ptq", 2)], True)):
        assert set(study.tables(plan)["verdicts"]["provisional"]) == {expected}


def test_a_configuration_without_its_reference_has_a_row_that_says_so() -> None:
    study = Study(1)
    study.add(make_row("ptq", "ptq", 5), study.floats[0])
    row = verdict(study)
    assert pd.isna(row["word"])
    assert row["n_seeds"] == 0
    assert row["reason"] == "no seed has a finished trial on both sides"


def test_where_no_group_is_in_play_there_is_no_p_and_a_reason() -> None:
    study = Study(accuracy=0.0)
    study.add(make_row("ptq", "ptq", 0), study.damage(0, {}))
    row = verdict(study)
    assert row["word"] == "no verdict"
    assert np.isnan(row["perm_p"])
    assert row["reason"].startswith("no group of 50 test images is in play")
