"""Families: corrected once over all trials of a question, whatever is shown later; few families of null data alarm."""

from typing import Any

import numpy as np
import pytest
from measured_trials import make_outcomes, make_tables, make_test_set, make_trial
from scipy.stats import false_discovery_control
from statsmodels.stats.multitest import multipletests

SIZES, RATES = np.array([504, 226, 172, 199, 84, 30]), np.array([0.01, 0.02, 0.02, 0.02, 0.08, 0.02])
CODES = np.repeat(np.arange(6), SIZES)
LABELS = np.random.default_rng(0).integers(0, 2, len(CODES))
TEST_SET = make_test_set(LABELS, {"hair": (list("abcdef"), CODES)})


def draw(trials: list[dict[str, Any]], *, seed: int, plan: list[Any] | None = None, planted: int = 0) -> dict[str, Any]:
    """Tables of trials that flip half wrong answers of the first at random; `planted` images of group e are lost."""
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 2, len(LABELS))
    outcomes = [make_outcomes("ref", reference, LABELS)]
    for trial in trials[1:]:
        predicted = np.where(rng.random(len(LABELS)) < RATES[CODES], 1 - reference, reference)
        hit = np.flatnonzero((CODES == 4) & (reference == LABELS))[:planted]
        predicted[hit] = 1 - LABELS[hit]
        outcomes.append(make_outcomes(trial["trial_id"], predicted, LABELS))
    return make_tables(TEST_SET, trials, outcomes, plan or ())


def make_sweep(n_trials: int = 4) -> list[dict[str, Any]]:
    """A reference, a control, and trials compared with both."""
    first = [make_trial("ref", "fp32"), make_trial("ft", "fp32_ft", "ref")]
    return first + [make_trial(f"qat{i}", "qat", "ref", "ft") for i in range(n_trials)]


def test_a_family_is_corrected_over_all_its_trials_and_groups() -> None:
    paired = draw(make_sweep(), seed=1, planted=20)["paired_metrics"]
    for comparison in ("reference", "control"):
        rows = paired.query("grouping == 'hair' and comparison == @comparison and trial_id != 'ft' and n >= 50")
        assert len(rows) == 4 * 5
        assert (rows["family_id"] == f"d/digit/hair/torch/{comparison}").all()
        assert (rows["family_size"] == 20).all()
        assert np.allclose(rows["eag_q"], false_discovery_control(rows["eag_p"]), atol=1e-12)
        expected: Any = multipletests(rows["eag_p"], method="holm")[1]
        assert np.allclose(rows["eag_p_holm"], expected, atol=1e-12)
        assert not rows["reason"].str.contains("eag_q", na=False).any()
        assert (rows.query("group == 'e'")["eag_q"].max() < 0.05) == (comparison == "reference")  # `ft` lost them too


def test_what_is_shown_does_not_change_what_was_corrected() -> None:
    trials = make_sweep()
    everything = draw(trials, seed=2, planted=9)["paired_metrics"]
    shown = everything.query("grouping == 'hair' and comparison == 'reference' and trial_id == 'qat0' and n >= 50")
    fewer = draw(trials[:3], seed=2, planted=9)["paired_metrics"].query("grouping == 'hair' and trial_id == 'qat0'")
    assert (shown["family_size"] == 20).all()
    assert np.allclose(shown["eag_p"], fewer.query("comparison == 'reference' and n >= 50")["eag_p"])
    assert not np.allclose(shown["eag_q"], false_discovery_control(shown["eag_p"]))


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("trial_id == 'ft' and n >= 50", "eag_q: a control is no part of the family"),
        ("trial_id == 'qat0' and n < 50", "eag_q: fewer than 50 test images, so no part of the family"),
        (
            "trial_id == 'same' and n >= 50",
            "eag_q: no image of the group was lost or won, so no part of the family",
        ),
    ],
)
def test_what_is_no_part_of_a_family_says_why(query: str, reason: str) -> None:
    trials = [*make_sweep(1), make_trial("same", "ptq", "qat0")]
    rng = np.random.default_rng(3)
    answers = {name: rng.integers(0, 2, len(LABELS)) for name in ("ref", "ft", "qat0")}
    answers["same"] = answers["qat0"].copy()
    outcomes = [make_outcomes(name, predicted, LABELS) for name, predicted in answers.items()]
    rows = make_tables(TEST_SET, trials, outcomes)["paired_metrics"].query(f"grouping == 'hair' and {query}")
    assert len(rows)
    assert set(rows["reason"].str.partition("; ")[0]) == {reason}, "why there are no limits comes after it"
    assert rows[["eag_q", "eag_p_holm", "family_id", "family_size"]].isna().all(axis=None)
    assert rows["eag_p"].notna().all()


@pytest.mark.parametrize("n_lost", [1, 2])
def test_one_lost_image_makes_a_group_part_of_its_family_and_no_other_group(n_lost: int) -> None:
    damaged = LABELS.copy()
    damaged[np.flatnonzero(CODES == 1)[:n_lost]] ^= 1
    outcomes = [make_outcomes("ref", LABELS, LABELS), make_outcomes("ptq", damaged, LABELS)]
    tables = make_tables(TEST_SET, [make_trial("ref", "fp32"), make_trial("ptq", "ptq", "ref")], outcomes)
    rows = tables["paired_metrics"].query("grouping == 'hair'").set_index("group")
    assert rows["eag_q"].notna().to_dict() == {name: name == "b" for name in "abcdef"}
    assert rows.loc["b", "eag_q"] == rows.loc["b", "eag_p_holm"] == rows.loc["b", "eag_p"], "it is the only test"
    assert rows.loc["b", "family_size"] == 1
    (family,) = tables["families"].query("grouping == 'hair'").to_dict("records")
    assert (family["n_tests"], family["n_left_out"]) == (1, 5)


def test_a_group_without_a_rest_is_no_part_of_a_family() -> None:
    test_set = make_test_set(LABELS, {"one": (["all", "nobody"], np.zeros(len(LABELS), dtype=np.int64))})
    outcomes = [make_outcomes("ref", LABELS, LABELS), make_outcomes("ptq", 1 - LABELS, LABELS)]
    tables = make_tables(test_set, [make_trial("ref", "fp32"), make_trial("ptq", "ptq", "ref")], outcomes)
    rows = tables["paired_metrics"].query("grouping == 'one'")
    assert rows["eag_q"].isna().all()
    assert rows["reason"].tolist() == [
        *("eag: a single group has no rest to be compared with", "no test images in this group"),
    ]


def test_families_are_listed_with_what_was_left_out() -> None:
    families = draw(make_sweep(), seed=4)["families"].set_index("family_id")
    assert len(families) == 4  # two groupings, two comparisons, and none of `overall`
    hair = families.loc["d/digit/hair/torch/reference"]
    assert (hair["n_tests"], hair["n_left_out"], hair["provisional"]) == (20, 4, False)
    assert hair[["dataset_id", "task", "grouping", "runtime", "comparison"]].tolist() == [
        *("d", "digit", "hair", "torch", "reference"),
    ]


def test_a_family_is_provisional_while_the_plan_has_a_trial_of_it_without_a_result() -> None:
    trials = make_sweep(2)
    for missing, expected in (
        (make_trial("late", "ptq", "ref"), {"reference": True, "control": False}),
        (make_trial("late", "qat", "ref", "ft"), {"reference": True, "control": True}),
        (make_trial("late", "fp32_ft", "ref"), {"reference": False, "control": False}),
        ({**make_trial("late", "ptq", "ref"), "task": "other"}, {"reference": False, "control": False}),
        ({**make_trial("late", "ptq", "ref"), "dataset_id": "e"}, {"reference": False, "control": False}),
    ):
        families = draw(trials, seed=5, plan=[*trials, missing])["families"]
        assert dict(zip(families["comparison"], families["provisional"], strict=True)) == expected


def test_few_families_of_null_data_have_any_q_below_five_percent() -> None:
    trials = [{**make_trial(f"ptq{i}", "ptq", "ref"), "task": f"task {i // 3}"} for i in range(900)]
    paired = draw([make_trial("ref", "fp32"), *trials], seed=6)["paired_metrics"].query("grouping == 'hair'")
    smallest = paired.groupby("family_id")["eag_q"].min()
    assert len(smallest) == 300
    assert (smallest < 0.05).mean() <= 0.07  # .05 and 1.6 standard errors
