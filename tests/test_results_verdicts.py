"""Verdicts of files and recipes: planted losses get their words, and each sentence has the numbers of the limits."""

import re

import numpy as np
import pandas as pd
import pytest
from contrast_study import CODES, SIZES, N, Study, make_row
from hypothesis import given
from hypothesis import strategies as st
from measured_trials import make_outcomes, make_tables, make_test_set

from quantfair.results.statistics.intervals import drop_interval
from quantfair.results.statistics.limits import LOWER_LEVEL
from quantfair.results.tables.verdicts import (
    contains_answer,
    find_best_guess,
    format_at_least,
    format_at_most,
    format_limit,
    format_points,
    round_up,
)

EVEN = {"a": 30, "b": 15, "c": 10, "few": 2}  # a tenth of each group


def recipe(study: Study, *, grouping: str = "group", config_id: str = "ptq", comparison: str = "reference") -> dict:
    rows = study.tables()["verdicts"].query("scope == 'recipe' and grouping == @grouping and config_id == @config_id")
    (row,) = rows[rows["comparison"] == comparison].to_dict("records")
    return row


def files(study: Study, *, grouping: str = "group") -> pd.DataFrame:
    rows = make_tables(study.test_set, study.rows, list(study.outcomes.values()))["verdicts"]
    return rows[rows["grouping"] == grouping]


# --- words ---


def test_a_trial_that_only_guesses_has_collapsed() -> None:
    study = Study()
    for seed in range(3):
        study.add(make_row("ptq", "ptq", seed), np.ones(N, dtype=np.int64))
    for row in (recipe(study), *files(study).to_dict("records")):
        assert (row["word"], row["answer"], row["group"]) == ("collapsed", "yes", "all images")
        assert row["told"].startswith("It has lost at least ")


def test_one_group_that_loses_alone_is_named_with_what_it_loses_beyond_the_others() -> None:
    study = Study()
    for seed in range(3):
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"b": 40}))
    for row in (recipe(study), *files(study).to_dict("records")):
        assert (row["word"], row["answer"], row["group"]) == ("uneven", "yes", "b")
        least, beyond = (format_at_least(row[name] / 100) for name in ("lower_pp", "excess_lower_pp"))
        assert row["told"] == f"b loses at least {least} points, and at least {beyond} more than the others."


def test_an_even_loss_is_said_of_no_group_more_than_of_the_others() -> None:
    study = Study()
    for seed in range(3):
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, EVEN))
    for row in (recipe(study), *files(study).to_dict("records")):
        assert (row["word"], row["answer"]) == ("loses", "yes")
        assert (
            row["told"]
            == f"{row['group']} loses at least {format_at_least(row['lower_pp'] / 100)} points (measured 10)."
        )
    overall = recipe(study, grouping="overall")
    assert (overall["word"], overall["group"]) == ("loses", "all images")
    assert overall["told"].startswith("All images lose at least ")


def test_a_gain_is_told_and_accuses_nobody() -> None:
    study = Study(1, accuracy=0.7, times=15)
    better = study.floats[0].copy()
    in_a = np.repeat(CODES, 15) == list(SIZES).index("a")
    wrong = np.flatnonzero((better != study.labels) & in_a)[:450]
    better[wrong] = study.labels[wrong]
    study.add(make_row("ptq", "ptq", 0), better)
    (row,) = files(study).to_dict("records")
    assert (row["word"], row["answer"]) == ("harmless", "no")
    assert pd.isna(row["group"])
    assert row["told"].endswith("a gains 10.")


def test_a_model_without_a_changed_answer_is_unchanged_and_its_answer_depends_on_the_images() -> None:
    for times, answer, n_smallest in ((1, "cannot tell", 100), (15, "no", 300)):
        study = Study(1, times=times)
        study.add(make_row("ptq", "ptq", 0), study.floats[0])
        (row,) = files(study).to_dict("records")
        assert (row["word"], row["answer"]) == ("unchanged", answer)
        assert row["told"].startswith(f"Not one of {times * N:,} answers differs")
        z = 1.6448536269514722
        assert row["at_most_pp"] == pytest.approx(100 * z**2 / (n_smallest + z**2))  # Tango's limit where nothing flips
    assert "could lose up to" not in row["told"]


def test_where_it_cannot_be_told_the_sentence_says_how_many_more_images_of_whom() -> None:
    study = Study(1)
    study.add(make_row("ptq", "ptq", 0), study.damage(0, {"a": 1}))
    (row,) = files(study).to_dict("records")
    assert (row["word"], row["answer"], row["group"]) == ("not resolved", "cannot tell", "c")
    said = re.fullmatch(
        r"c could lose up to (\S+) points; (\d+) more images of c, more of 2 other groups, would probably tell\.",
        row["told"],
    )
    assert said
    assert said[1] == format_at_most(row["upper_pp"] / 100)
    more = int(said[2])
    z = 1.6448536269514722 + 0.8416212335729143  # a limit at 95 %, and a power of 80 %
    assert more == round_up(z**2 / 0.01 - z**2 - 100)  # nothing was lost or won in c


def test_a_reference_that_only_guesses_gets_no_verdict() -> None:
    study = Study(accuracy=0.5)
    for seed in range(3):
        study.add(make_row("ptq", "ptq", seed), study.floats[seed])
    for row in (recipe(study), *files(study).to_dict("records")):
        assert row["word"] == "no verdict"
        assert pd.isna(row["answer"])
        assert pd.isna(row["told"])
        assert row["reason"] == "the original is within 5 points of the best guess that ignores the image"


# --- recipes ---


def test_a_recipe_needs_three_models() -> None:
    study = Study(2)
    for seed in range(2):
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"b": 40}))
    row = recipe(study)
    assert row["word"] == "no verdict"
    assert row["reason"] == "a recipe needs 3 models that differ; these are 2 of 2 seeds"
    assert files(study)["word"].tolist() == ["uneven", "uneven"]


def test_one_model_under_three_seeds_is_one_model() -> None:
    study = Study(1)
    for seed in range(3):
        if seed:
            study.add(make_row("fp32", "fp32", seed, reference_trial_id=None), study.floats[0])
        study.add(make_row("ptq", "ptq", seed), study.damage(0, {"b": 40}))
    row = recipe(study)
    assert (row["n_models"], row["n_seeds"], row["word"]) == (1, 3, "no verdict")
    assert row["reason"].endswith("these are 1 of 3 seeds")
    limits = study.tables()["contrasts"].query("grouping == 'group' and group == 'b'")
    alone = drop_interval(40, 0, 150, confidence=0.9).high
    assert limits["upper_pp"].item() == pytest.approx(100 * alone), "as of one seed"


def test_seeds_that_disagree_widen_the_limits_of_the_recipe_alone() -> None:
    study = Study(3)
    for seed, k in enumerate((0, 5, 40)):
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"b": k}))
    row = recipe(study)
    assert row["word"] == "not resolved"
    assert row["at_most_pp"] > 30
    assert re.search(r"\d+ more seeds would probably tell", row["told"])
    assert files(study)["word"].tolist() == ["unchanged", "not resolved", "uneven"]


def test_a_verdict_is_provisional_while_seeds_of_the_plan_are_missing() -> None:
    study = Study()
    for seed in range(2):
        study.add(make_row("ptq", "ptq", seed), study.floats[seed])
    for plan, expected in ((study.rows, False), ([*study.rows, make_row("ptq", "ptq", 2)], True)):
        assert set(study.tables(plan)["verdicts"]["provisional"]) == {expected}


def test_a_configuration_without_its_reference_has_a_row_that_says_so() -> None:
    study = Study(1)
    study.add(make_row("ptq", "ptq", 5), study.floats[0])
    row = recipe(study)
    assert pd.isna(row["word"])
    assert row["n_seeds"] == 0
    assert row["reason"] == "no seed has a finished trial on both sides"


# --- who takes part ---


def test_groups_at_the_level_of_guessing_are_out_of_play_and_do_not_count() -> None:
    study = Study()
    in_b = list(SIZES).index("b") == CODES
    for seed in range(3):
        study.floats[seed][in_b] = np.where(np.arange(N) % 2, study.labels, 1 - study.labels)[in_b]
        study.outcomes[f"fp32 {seed}"] = make_outcomes(f"fp32 {seed}", study.floats[seed], study.labels)
        study.add(make_row("ptq", "ptq", seed), study.damage(seed, {"b": 40}))
    for row in (recipe(study), *files(study).to_dict("records")):
        assert list(row["out_of_play"]) == ["b"]
        assert row["group"] != "b"
        assert row["word"] == "loses", "all images do: the group out of play stays among them"
        assert row["group"] == "all images"
    limits = study.tables()["contrasts"].query("grouping == 'group' and group == 'b'")
    assert limits[["lower_pp", "upper_pp", "excess_lower_pp"]].isna().all(axis=None)
    assert limits["drop_pp"].notna().all()
    assert "out of play" in limits["reason"].item()


def test_where_no_group_is_in_play_there_is_no_word_and_a_reason() -> None:
    small = Study(1)
    small.test_set = make_test_set(small.labels, {"group": ([str(k) for k in range(20)], np.arange(N) % 20)})
    small.add(make_row("ptq", "ptq", 0), small.floats[0])
    (row,) = files(small).to_dict("records")
    assert (row["word"], row["reason"]) == ("no verdict", "no group of 50 test images is in play")


def test_the_best_guess_of_a_group_is_its_most_frequent_label_and_0_where_groups_are_classes() -> None:
    labels, codes = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    test_set = make_test_set(labels, {"g": ("xyz", codes), "label*g": ("abcd", 2 * labels + codes)})
    assert find_best_guess(test_set, test_set.grouping("g"))[:2] == pytest.approx([2 / 3, 1])
    assert np.isnan(find_best_guess(test_set, test_set.grouping("g"))[2])
    for name in ("label", "label*g"):
        assert (find_best_guess(test_set, test_set.grouping(name)) == 0).all()
    assert find_best_guess(test_set, test_set.grouping("overall")) == pytest.approx([4 / 6])


def test_groups_that_determine_the_label_are_marked_by_the_data() -> None:
    study = Study(1)
    groups = {
        "sex": (["m", "f"], study.labels),
        "sex*group": ([f"{sex}*{name}" for sex in "mf" for name in SIZES], study.labels * len(SIZES) + CODES),
        "group": (tuple(SIZES), CODES),
    }
    study.test_set = make_test_set(study.labels, groups)
    study.add(make_row("ptq", "ptq", 0), study.floats[0])
    rows = make_tables(study.test_set, study.rows, list(study.outcomes.values()))["verdicts"]
    marked = dict(zip(rows["grouping"], rows["contains_answer"], strict=True))
    assert marked == {"overall": False, "label": True, "sex": True, "sex*group": True, "group": False}
    assert not contains_answer(study.test_set, study.test_set.grouping("overall"))


def test_where_the_groups_are_classes_the_sentence_says_how_much_is_a_shift_that_offsets_undo() -> None:
    study = Study(1)
    shifted = study.floats[0].copy()
    ones = np.flatnonzero((study.labels == 1) & (shifted == 1))[:60]
    shifted[ones] = 0
    study.add(make_row("ptq", "ptq", 0), shifted)
    repaired = shifted.copy()
    repaired[ones[:45]] = 1  # what offsets of the classes bring back
    study.outcomes["ptq 0"] = study.outcomes["ptq 0"]._replace(refit_N=repaired)
    (row,) = files(study, grouping="label").to_dict("records")
    n = (study.labels == 1).sum()
    lost, undone, stays = (format_points(k / n) for k in (60, 45, 15))
    assert row["word"] == "uneven"
    assert row["told"].endswith(
        f"Of the {lost} measured, {undone} are a shift of answers between classes, which offsets undo; "
        f"{stays} are lost."
    )
    (of_groups,) = files(study).to_dict("records")
    assert "shift" not in of_groups["told"]


# --- the clearest loss ---


def test_the_clearest_loss_is_corrected_for_all_cells_of_the_plan() -> None:
    study = Study(1)
    study.add(make_row("ptq", "ptq", 0), study.damage(0, {"b": 40}))
    study.add(make_row("fp32_ft", "ft", 0), study.damage(0, {"b": 3}))
    row = files(study).query("trial_id == 'ptq 0'").to_dict("records")[0]
    n_cells = (3 + 1) + (2 + 1) + (1 + 1)  # ranked groups and all images by group, label and overall; no control
    assert row["n_cells_of_plan"] == n_cells
    level = 1 - 2 * LOWER_LEVEL / n_cells
    assert row["clearest_group"] == "b"
    assert row["clearest_lower_pp"] == pytest.approx(100 * drop_interval(39.5, 0, 150, confidence=level).low)

    more = [make_row("ptq", f"other {k}", 0) for k in range(9)]
    wider = make_tables(study.test_set, study.rows, list(study.outcomes.values()), [*study.rows, *more])["verdicts"]
    later = wider.query("grouping == 'group' and trial_id == 'ptq 0'").to_dict("records")[0]
    assert later["n_cells_of_plan"] == 10 * n_cells
    assert later["clearest_lower_pp"] < row["clearest_lower_pp"]
    assert later["lower_pp"] == row["lower_pp"]


# --- numbers in sentences ---


@given(st.floats(-1, 1))
def test_limits_are_never_rounded_to_the_side_that_promises_more(fraction: float) -> None:
    assert float(format_at_most(fraction)) >= 100 * fraction - 1e-6
    assert float(format_at_least(fraction)) <= 100 * fraction + 1e-6
    assert float(format_at_most(fraction)) - float(format_at_least(fraction)) <= 0.1 + 1e-9


def test_numbers_are_short() -> None:
    assert [format_points(value) for value in (0.017, 0.01, 0.0004, 0, -0.0123)] == ["1.7", "1", "0.04", "0", "-1.2"]
    assert [format_at_most(value) for value in (0.01, 0.0094, 0.01001)] == ["1", "1", "1.1"]
    assert [format_at_least(value) for value in (0.01, 0.0109, 0.00999)] == ["1", "1", "0.9"]
    assert [format_limit(value) for value in (1, 0.5, 2.0)] == ["1 point", "0.5 points", "2 points"]
    assert [round_up(value) for value in (7, 99, 101, 518, 12_345)] == [7, 99, 110, 520, 13_000]
