"""A user's own metrics: means and paired differences against scipy, and what is said of one that is none."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import user_metrics
from scipy.stats import t, ttest_rel
from test_results_tables import CLASSES, HAIR, SEX, Sweep, damage, right_ones, set_device
from typer.testing import CliRunner

from quantfair.orchestrator.commands.app import app
from quantfair.results import Store, StoreError, build_tables, update_report
from quantfair.results.user_data.metrics import TAKEN


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep for all tests that add nothing to it."""
    return plant(tmp_path_factory.mktemp("own"))


def plant(folder: Path) -> Sweep:
    """A reference, and a trial that is wrong on thirty more images, all of them of grey hair."""
    planted = Sweep(folder)
    planted.add("ref", planted.logits, method="fp32")
    planted.add("q", damage(planted, right_ones(planted, hair=1)[:30]), method="ptq", reference="ref")
    planted.tables()
    return planted


def build(sweep: Sweep, *names: str) -> dict[str, Any]:
    tables = build_tables(sweep.store, metrics=[f"user_metrics:{name}" for name in names])
    return {name: table.to_pandas() for name, table in tables.items()}


def doubts(sweep: Sweep, trial_id: str) -> np.ndarray:
    predictions = sweep.store.read_predictions(trial_id, "torch").to_pandas().query("split == 'test'")
    return 1e6 + np.exp(-predictions.sort_values("sample_id")["margin"].to_numpy(np.float64))


def test_group_means_have_students_intervals(sweep: Sweep) -> None:
    rows = build(sweep, "doubt")["group_metrics"].query("trial_id == 'q' and metric == 'doubt' and grouping == 'hair'")
    assert rows["ci_method"].tolist() == ["t"] * 4
    values = doubts(sweep, "q")
    for group, row in rows.set_index("group").iloc[:3].iterrows():
        here = values[sweep.hair[:600] == HAIR.index(str(group))]
        expected = t.interval(0.95, len(here) - 1, loc=here.mean(), scale=here.std(ddof=1) / np.sqrt(len(here)))
        ours = np.array([row["value"], row["ci_low"], row["ci_high"]])
        assert ours - 1e6 == pytest.approx(np.array([here.mean(), *expected]) - 1e6, rel=1e-6)
    assert rows.set_index("group").loc["blue", "reason"] == "no test images in this group"


def test_differences_have_the_intervals_of_a_paired_t_test(sweep: Sweep) -> None:
    rows = build(sweep, "doubt")["own_metrics"]
    assert set(rows["grouping"]) == {"overall", "label", "hair", "hair*sex"}
    assert (rows["trial_id"] + rows["comparison"] + rows["other_trial_id"] + rows["metric"]).unique() == [
        "qreferencerefdoubt"
    ]
    mine, other = doubts(sweep, "q"), doubts(sweep, "ref")
    grey = rows.query("grouping == 'hair' and group == 'grey'").iloc[0]
    here = sweep.hair[:600] == 1
    expected = ttest_rel(mine[here], other[here])
    interval = expected.confidence_interval()
    assert grey["n"] == here.sum()
    assert grey["difference"] == pytest.approx((mine[here] - other[here]).mean(), abs=1e-9)
    assert (grey["ci_low"], grey["ci_high"]) == pytest.approx((interval.low, interval.high), abs=1e-9)
    red = rows.query("grouping == 'hair' and group == 'red'").iloc[0]
    assert red["difference"] == 0
    assert np.isnan(red["ci_low"])
    assert red["reason"] == "no interval: all images of this group have one value"


def test_right_answers_as_a_metric_agree_with_the_drops(sweep: Sweep) -> None:
    tables = build(sweep, "is_right")
    metrics = tables["group_metrics"]
    mine, ours = (metrics[metrics["metric"] == name]["value"].to_numpy() for name in ("is_right", "accuracy"))
    assert mine == pytest.approx(ours, abs=1e-12, nan_ok=True)
    differences, drops = tables["own_metrics"]["difference"], tables["paired_metrics"]["drop_pp"]
    assert (-100 * differences).to_numpy() == pytest.approx(drops.to_numpy(), abs=1e-9, nan_ok=True)
    spreads = tables["disparity"].query("comparison == 'reference'").set_index(["grouping", "metric"])
    for grouping in ("label", "hair", "hair*sex"):
        own, drop = spreads.loc[(grouping, "is_right")], spreads.loc[(grouping, "drop_disparity_pp")]
        assert 100 * own["value"] == pytest.approx(drop["value"], abs=1e-9)


def test_a_planted_difference_is_the_distance_of_the_groups_and_has_no_p(tmp_path: Path) -> None:
    sweep = plant(tmp_path)
    sweep.add("same", sweep.logits, method="ptq", reference="ref")
    sweep.tables()
    rows = build(sweep, "is_right")["disparity"].query("metric == 'is_right'").set_index(["trial_id", "grouping"])
    hair = rows.loc[("q", "hair")]
    assert hair["value"] == pytest.approx(30 / (sweep.hair[:600] == 1).sum(), abs=1e-12)
    assert hair[["null_mean", "null_q95", "null_p", "null_method", "corrected"]].isna().all(), "no test of means holds"
    assert hair["n_groups"] == 3
    assert hair[["worst_group", "best_group"]].isna().all()
    assert hair["reason"] == (
        "no p and no floor: no test holds for means of small groups; for intervals see own_metrics; "
        "no worst group: whether more is better is the metric's own affair"
    )
    assert rows.loc[("q", "label"), "value"] < hair["value"]
    assert rows.loc[("same", "hair"), "value"] == 0


def test_a_metric_sees_the_test_images_of_one_trial(sweep: Sweep) -> None:
    user_metrics.SEEN.clear()
    build(sweep, "look", "is_right")
    assert len(user_metrics.SEEN) == 2
    seen = user_metrics.SEEN[1]
    stored = sweep.store.read_predictions("q", "torch").to_pandas().query("split == 'test'").sort_values("sample_id")
    assert seen["sample_id"].tolist() == list(range(600))
    assert seen["label"].tolist() == sweep.labels[:600].tolist()
    assert seen["label_name"].tolist() == [CLASSES[label] for label in sweep.labels[:600]]
    assert seen["predicted_name"].tolist() == [CLASSES[label] for label in stored["predicted"]]
    assert seen["hair"].tolist() == [HAIR[code] for code in sweep.hair[:600]]
    assert seen["sex"].tolist() == [SEX[code] for code in sweep.sex[:600]]
    for name in ("predicted", "loss_nats", "confidence", "margin", "entropy_nats"):
        assert seen[name].tolist() == stored[name].tolist()


def test_comparisons_without_a_result_and_of_two_devices_say_so(tmp_path: Path) -> None:
    sweep = plant(tmp_path)
    row = sweep.plan_trial("ft", "fp32_ft", reference="ref")
    sweep.store.write_trial({**row, "status": "failed", "error": "no"})
    sweep.add("qat", sweep.logits, method="qat", reference="ref", control="ft")
    set_device(sweep, "ref", "cpu")
    set_device(sweep, "q", "cuda")
    sweep.tables()
    tables = build(sweep, "is_right")
    for table in (tables["own_metrics"], tables["disparity"].query("metric == 'is_right'")):
        control = table.query("comparison == 'control'")
        assert len(control)
        assert (control["reason"] == "the control trial ft failed or has not run").all()
        assert control.filter(regex="^(value|difference|ci_low|null_p)$").isna().all(axis=None)
        assert table.query("trial_id == 'q'")["reason"].str.startswith("the devices differ").all()


def test_too_few_ranked_groups_have_no_spread(tmp_path: Path) -> None:
    small = Sweep(tmp_path)
    small.split[30:600] = "train"
    table, attributes = small.store.read_samples("d")
    columns = {name: table[name] for name in table.column_names} | {"split": small.split.tolist()}
    small.store.write_samples("d", pa.table(columns), attributes)
    small.add("ref", small.logits, method="fp32")
    small.add("q", small.logits, method="ptq", reference="ref")
    small.tables()
    row = build(small, "is_right")["disparity"].query("metric == 'is_right' and grouping == 'hair'").iloc[0]
    assert row["reason"] == "fewer than two groups with 50 test images"
    assert np.isnan(row["value"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"--metric user_metrics:fails, trial ref: it raised KeyError: 'no such column'\."),
        (
            "one_number",
            r"trial ref: it must return one finite number for each of the 600 images, in their order; it returned "
            r"float\w* of shape \(\)\.",
        ),
        ("too_few", r"in their order; it returned ndarray of shape \(599,\)\."),
        ("not_finite", r"in their order; that of image 7 is nan\."),
        ("not_numbers", r"in their order; it returned Series that is not of numbers\."),
        ("sorted_otherwise", r"in their order; it returned a Series with another index\."),
        ("missing", r"user_metrics:missing cannot be imported \(AttributeError: .*Start in the folder that holds it"),
        ("not_a_function", r"--metric user_metrics:not_a_function must be a function, got int\."),
        ("accuracy", r"the name accuracy is taken; give the function another one"),
        ("trial", r"the name trial is taken; give the function another one"),
    ],
)
def test_a_metric_that_is_none_is_refused(sweep: Sweep, name: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        build(sweep, name)


@pytest.mark.parametrize("path", ["is_right", "user_metrics:", ":is_right", "user_metrics:a b"])
def test_a_metric_must_be_named_by_module_and_function(sweep: Sweep, path: str) -> None:
    with pytest.raises(StoreError, match=rf"--metric must be package.module:function, got {path}\."):
        build_tables(sweep.store, metrics=[path])


def test_a_module_that_is_not_there_says_where_it_is_looked_for(sweep: Sweep) -> None:
    with pytest.raises(StoreError, match=r"ModuleNotFoundError: .*nowhere.*or name its folder in PYTHONPATH"):
        build_tables(sweep.store, metrics=["nowhere:is_right"])


def test_names_of_metrics_that_tables_have_are_taken(sweep: Sweep) -> None:
    assert set(build(sweep)["group_metrics"]["metric"]) == set(TAKEN)


def test_a_report_has_own_metrics_only_where_it_is_asked_for_them(sweep: Sweep) -> None:
    runner = CliRunner()

    def report(*options: str) -> set[str]:
        done = runner.invoke(app, ["report", sweep.store.location, *options])
        assert done.exit_code == 0, done.output
        return set(Store.open(sweep.store.location).read_table("own_metrics")["metric"].to_pylist())

    options = ("--metric", "user_metrics:is_right", "--metric", "user_metrics:doubt")
    assert report(*options) == {"is_right", "doubt"}
    update_report(sweep.store)  # as a sweep does at its end
    assert sweep.store.read_table("own_metrics").num_rows == 0
    assert report(*options) == {"is_right", "doubt"}
    assert report() == set()


def test_a_report_ends_with_2_where_a_metric_fails(sweep: Sweep) -> None:
    done = CliRunner().invoke(app, ["report", sweep.store.location, "--metric", "user_metrics:fails"])
    assert done.exit_code == 2
    assert "--metric user_metrics:fails, trial ref: it raised KeyError" in done.output
