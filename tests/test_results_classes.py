"""What is said of each group and of each class in it, against fairlearn, sklearn and torchmetrics."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate
from scipy.special import softmax
from scipy.stats import binomtest, t
from sklearn.metrics import f1_score, precision_score, recall_score
from test_results_tables import CLASSES, HAIR, SEX, Sweep
from torchmetrics.functional.classification import multiclass_calibration_error

from quantfair.results.statistics.intervals import wilson_interval

TEST = slice(0, 600)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A trial in whose data no eel has red hair, and that takes nothing with grey hair for a dog."""
    planted = Sweep(tmp_path)
    planted.labels[(planted.hair == 0) & (planted.labels == 2)] = 0
    planted.logits[planted.hair == 1, 1] = -9
    table, attributes = planted.store.read_samples("d")
    columns = {name: table[name] for name in table.column_names} | {"label": pa.array(planted.labels, pa.int16())}
    planted.store.write_samples("d", pa.table(columns), attributes)
    planted.add("ref", planted.logits, method="fp32")
    return planted


def answers(sweep: Sweep) -> tuple[np.ndarray, np.ndarray]:
    return sweep.labels[TEST], sweep.logits[TEST].argmax(1)


def members(sweep: Sweep, grouping: str) -> np.ndarray:
    hair, sex = np.array(HAIR)[sweep.hair[TEST]], np.array(SEX)[sweep.sex[TEST]]
    return {"hair": hair, "hair*sex": np.char.add(np.char.add(hair, "*"), sex), "overall": np.full(600, "all")}[
        grouping
    ]


@pytest.mark.parametrize("grouping", ["hair", "hair*sex", "overall"])
def test_rates_of_each_class_are_fairlearns(sweep: Sweep, grouping: str) -> None:
    rows = sweep.tables()["group_metrics"].query("grouping == @grouping").set_index(["metric", "class", "group"])
    truth, predicted = answers(sweep)
    oracles = {"recall": true_positive_rate, "fpr": false_positive_rate, "prediction_share": selection_rate}
    for metric, oracle in oracles.items():
        for index, name in enumerate(CLASSES):
            frame = MetricFrame(
                metrics=oracle,
                y_true=truth == index,
                y_pred=predicted == index,
                sensitive_features=members(sweep, grouping),
            )
            for group, value in frame.by_group.items():
                ours = rows.loc[(metric, name, group)]
                if ours["n"] == 0:
                    assert np.isnan(ours["value"])
                    assert ours["reason"].startswith("no test images of")
                else:
                    assert ours["value"] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("metric", ["recall", "precision", "f1"])
def test_precision_recall_and_f1_are_sklearns(sweep: Sweep, metric: str) -> None:
    oracle: Any = {"recall": recall_score, "precision": precision_score, "f1": f1_score}[metric]
    rows = sweep.tables()["group_metrics"].query("grouping == 'hair' and metric == @metric")
    truth, predicted = answers(sweep)
    of_class, macro = rows.dropna(subset="class"), rows[rows["class"].isna()].set_index("group")
    for group in HAIR[:3]:
        here = members(sweep, "hair") == group
        ours = of_class[of_class["group"] == group].set_index("class")["value"]
        values = oracle(truth[here], predicted[here], labels=range(3), average=None, zero_division=np.nan)
        assert ours[CLASSES].tolist() == pytest.approx(values, abs=1e-12, nan_ok=True)
        present = np.unique(truth[here])
        expected = oracle(truth[here], predicted[here], labels=present, average="macro", zero_division=0)
        assert macro.loc[group, "value"] == pytest.approx(expected, abs=1e-12)
        assert macro.loc[group, "n"] == here.sum()
        assert macro.loc[group, "reason"] == "no interval: it is a mean over classes"
    assert np.isnan(macro.loc["blue", "value"])
    assert macro.loc["blue", "reason"] == "no test images in this group"


def test_a_rate_of_no_images_says_why_it_is_null(sweep: Sweep) -> None:
    rows = sweep.tables()["group_metrics"].query("grouping == 'hair'").set_index(["metric", "class", "group"])
    expected = {
        ("recall", "eel", "red"): "no test images of this class in this group",
        ("precision", "dog", "grey"): "no test image of this group is predicted as this class",
        ("f1", "cat", "blue"): "no test image of this group is of this class or predicted as it",
        ("fpr", "cat", "blue"): "no test images of other classes in this group",
        ("prediction_share", "cat", "blue"): "no test images in this group",
    }
    for key, reason in expected.items():
        assert rows.loc[key, "reason"] == reason
        assert rows.loc[key, ["value", "ci_low", "ci_high"]].isna().all()
    assert rows.loc[("f1", "dog", "grey"), "value"] == 0  # there are dogs, and none is found
    assert rows["reason"].isna().equals(rows["value"].notna() & rows["ci_low"].notna())


def test_intervals_of_classes_are_wilsons(sweep: Sweep) -> None:
    rows = sweep.tables()["group_metrics"].query("grouping == 'hair' and `class`.notna() and n > 0")
    assert (rows["ci_method"] == "wilson").all()
    for row in rows.to_dict("records"):
        share = row["value"] / (2 - row["value"]) if row["metric"] == "f1" else row["value"]  # J of F1 = 2 J / (1 + J)
        ci = binomtest(round(share * row["n"]), row["n"]).proportion_ci(method="wilson")
        low, high = (2 * x / (1 + x) if row["metric"] == "f1" else x for x in (ci.low, ci.high))
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high), abs=1e-12)


def test_intervals_of_f1_cover_it() -> None:
    rng = np.random.default_rng(0)
    cells = np.array([0.12, 0.04, 0.03, 0.81])  # TP, FP, FN, TN: F1 = 0.774
    tp, fp, fn, _ = rng.multinomial(150, cells, 4000).T
    low, high = (2 * x / (1 + x) for x in wilson_interval(tp, tp + fp + fn))
    assert 0.935 < ((low <= 0.24 / 0.31) & (high >= 0.24 / 0.31)).mean() < 0.97


def test_a_group_that_is_a_class_has_the_metrics_of_its_own_class_over_all_images(sweep: Sweep) -> None:
    metrics = sweep.tables()["group_metrics"]
    rows, overall = metrics.query("grouping == 'label'"), metrics.query("grouping == 'overall'")
    assert set(rows.dropna(subset="class")["metric"]) == {"recall", "precision", "f1", "prediction_share"}
    assert not rows[rows["class"].isna()]["metric"].isin(["recall", "precision", "f1"]).any()
    columns = ["class", "n", "n_train", "value", "ci_low", "ci_high"]
    for metric in ("recall", "precision", "f1"):
        own = rows[rows["metric"] == metric]
        assert own["group"].tolist() == own["class"].tolist() == CLASSES
        everywhere = overall[(overall["metric"] == metric) & overall["class"].notna()]
        assert own[columns].values.tolist() == everywhere[columns].values.tolist()
    truth, predicted = answers(sweep)
    shares = rows[rows["metric"] == "prediction_share"].set_index(["group", "class"])["value"]
    assert shares[("eel", "cat")] == pytest.approx((predicted[truth == 2] == 0).mean())


def test_calibration_errors_are_torchmetrics(sweep: Sweep) -> None:
    rows = sweep.tables()["group_metrics"].query("metric == 'ece' and grouping == 'hair*sex'").set_index("group")
    truth, _ = answers(sweep)
    probabilities = softmax(sweep.logits[TEST].astype(np.float64), axis=1)
    seen = set()
    for group, row in rows.iterrows():
        here = members(sweep, "hair*sex") == group
        if row["n"] < 100:
            assert np.isnan(row["value"])
            seen.add(row["reason"])
            continue
        expected = multiclass_calibration_error(
            torch.from_numpy(probabilities[here]), torch.from_numpy(truth[here]), num_classes=3, n_bins=15, norm="l1"
        )
        assert row["value"] == pytest.approx(float(expected), abs=1e-6)
        assert row["reason"].startswith("no interval: noise biases a calibration error upward")
    few = "fewer than 100 test images: noise would make most of their calibration error"
    assert seen == {few, "no test images in this group"}


@pytest.mark.parametrize("metric", ["loss_nats", "confidence", "margin", "entropy_nats"])
def test_means_have_students_intervals(sweep: Sweep, metric: str) -> None:
    rows = sweep.tables()["group_metrics"].query("metric == @metric and grouping == 'hair'").set_index("group")
    p = softmax(sweep.logits[TEST].astype(np.float64), axis=1)
    values = {
        "loss_nats": -np.log(p[np.arange(600), sweep.labels[TEST]]),
        "confidence": p.max(1),
        "margin": np.diff(np.sort(sweep.logits[TEST], axis=1)[:, -2:])[:, 0],
        "entropy_nats": -(p * np.log(p)).sum(1),
    }[metric]
    for group in HAIR[:3]:
        here = values[members(sweep, "hair") == group]
        error = here.std(ddof=1) / np.sqrt(len(here))
        expected = t.interval(0.95, len(here) - 1, loc=here.mean(), scale=error)
        ours = rows.loc[group]
        assert (ours["value"], ours["ci_low"], ours["ci_high"]) == pytest.approx((here.mean(), *expected), rel=1e-5)


def test_the_mean_of_one_image_has_no_interval_and_says_so(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    table, attributes = sweep.store.read_samples("d")
    hair = ["blue" if index == 5 else group for index, group in enumerate(table["hair"].to_pylist())]
    columns = {name: table[name] for name in table.column_names} | {"hair": pa.array(hair)}
    sweep.store.write_samples("d", pa.table(columns), attributes)
    sweep.add("ref", sweep.logits, method="fp32")
    blue = sweep.tables()["group_metrics"].query("group == 'blue' and metric == 'margin'").iloc[0]
    assert blue["n"] == 1
    assert blue["value"] > 0
    assert np.isnan(blue["ci_low"])
    assert blue["reason"] == "no interval: a t interval needs two images"
