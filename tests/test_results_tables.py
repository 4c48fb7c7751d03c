"""Tables: planted damage is found where it was planted, and every number is recomputed by independent code."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fairlearn.metrics import MetricFrame
from scipy.stats import binomtest, ttest_rel
from sklearn.metrics import accuracy_score
from test_statistics_intervals import slow_drop_interval

from quantfair.results import Store, StoreError, build_tables, import_groups, make_predictions, write_report
from quantfair.results.schema import SAMPLES

N, CLASSES, HAIR, SEX = 700, ["cat", "dog", "eel"], ["red", "grey", "none", "blue"], ["f", "m"]


class Sweep:
    """A store with one data set, a reference and whatever a test plants beside it."""

    def __init__(self, folder: Path, *, seed: int = 0, order: np.ndarray | None = None):
        rng = np.random.default_rng(seed)
        self.store = Store.open(str(folder))
        self.labels = rng.integers(0, 3, N)
        self.hair = rng.choice(3, N, p=[0.5, 0.3, 0.2])  # nobody has blue hair
        self.sex = rng.integers(0, 2, N)
        self.split = np.array(["test"] * 600 + ["val"] * 40 + ["train"] * 60)
        self.logits = rng.normal(size=(N, 3)).astype(np.float32) + 2 * np.eye(3, dtype=np.float32)[self.labels]
        self.order = np.arange(N) if order is None else order
        self.plan: list[dict[str, Any]] = []
        columns = {
            "dataset_id": ["d"] * N,
            "sample_id": np.arange(N),
            "split": self.split,
            "label": self.labels,
            "source": pa.nulls(N, pa.string()),
            "hair": np.array(HAIR)[self.hair],
            "sex": np.array(SEX)[self.sex],
        }
        table = pa.table(columns).take(pa.array(self.order))
        self.store.write_samples("d", table, {"label": CLASSES, "hair": HAIR, "sex": SEX})

    def plan_trial(self, trial_id: str, method: str, reference: str | None = None, control: str | None = None) -> dict:
        needs = [reference] if reference else []
        row = {"trial_id": trial_id, "method": method, "dataset_id": "d", "needs": needs}
        row |= {"reference_trial_id": reference, "control_trial_id": control}
        self.plan.append(row)
        return {key: value for key, value in row.items() if key != "needs"}

    def add(self, trial_id: str, logits: np.ndarray, **planned: Any) -> None:
        row = self.plan_trial(trial_id, **planned)
        evaluated = self.order[self.split[self.order] != "train"]
        predictions = make_predictions(
            logits[evaluated],
            self.labels[evaluated],
            trial_id=trial_id,
            runtime="torch",
            sample_ids_N=evaluated,
            splits_N=self.split[evaluated],
            reference_logits_NK=self.logits[evaluated] if planned.get("reference") else None,
            keep_logits=False,
        )
        self.store.write_predictions(trial_id, "torch", predictions)
        self.store.write_layers(trial_id, [{"trial_id": trial_id, "layer": "fc"}])
        self.store.write_trial({**row, "status": "ok", "n_test": 600})

    def tables(self) -> dict[str, Any]:
        manifest = {
            "name": "planted",
            "runtimes": ["torch"],
            "groupings": {"d": ["hair", "hair*sex"]},
            "plan": self.plan,
            "provenance": {},
        }
        self.store.write_manifest(manifest)
        return {name: table.to_pandas() for name, table in build_tables(self.store).items()}


def damage(sweep: Sweep, indices: np.ndarray) -> np.ndarray:
    """Logits that are wrong on these images and the reference's everywhere else."""
    logits = sweep.logits.copy()
    logits[indices] = 5 * np.eye(3, dtype=np.float32)[(sweep.labels[indices] + 1) % 3]
    return logits


def right_ones(sweep: Sweep, *, hair: int) -> np.ndarray:
    right = sweep.logits.argmax(1) == sweep.labels
    return np.flatnonzero(right & (sweep.hair == hair) & (sweep.split == "test"))


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    planted = Sweep(tmp_path)
    planted.add("ref", planted.logits, method="fp32")
    return planted


def test_exactly_the_planted_damage_is_found_and_nothing_elsewhere(sweep: Sweep) -> None:
    victims = right_ones(sweep, hair=1)[:17]
    sweep.add("ptq", damage(sweep, victims), method="ptq", reference="ref")
    paired = sweep.tables()["paired_metrics"].query("grouping == 'hair'").set_index("group")
    assert paired["n_rw"].to_dict() == {"red": 0, "grey": 17, "none": 0, "blue": 0}
    assert paired["n_wr"].sum() == 0
    assert paired["n_flip"].to_dict() == {"red": 0, "grey": 17, "none": 0, "blue": 0}
    assert paired.loc["grey", "drop_pp"] == pytest.approx(100 * 17 / (sweep.hair[:600] == 1).sum())
    assert paired.loc["red", "drop_pp"] == 0
    assert paired.loc["red", "drop_ci_low_pp"] < 0 < paired.loc["red", "drop_ci_high_pp"]
    assert paired.loc["grey", "eag_ci_low_pp"] > 0


def test_an_empty_group_stays_as_a_row_with_a_reason(sweep: Sweep) -> None:
    sweep.add("ptq", sweep.logits, method="ptq", reference="ref")
    tables = sweep.tables()
    blue = tables["paired_metrics"].query("grouping == 'hair' and group == 'blue'").iloc[0]
    assert blue["n"] == 0
    assert blue["reason"] == "no test images in this group"
    assert blue[["drop_pp", "drop_ci_low_pp", "eag_pp", "mcnemar_p", "kl_nats"]].isna().all()
    accuracy = tables["group_metrics"].query("metric == 'accuracy' and group == 'blue'").iloc[0]
    assert pd.isna(accuracy["value"])
    assert accuracy["reason"] == "no test images in this group"


def test_group_metrics_equal_fairlearns(sweep: Sweep) -> None:
    tables = sweep.tables()
    test = sweep.split == "test"
    groups = np.array(HAIR)[sweep.hair[test]]
    predicted = sweep.logits[test].argmax(1)
    frame = MetricFrame(metrics=accuracy_score, y_true=sweep.labels[test], y_pred=predicted, sensitive_features=groups)
    ours = tables["group_metrics"].query("grouping == 'hair' and metric == 'accuracy'").set_index("group")["value"]
    for group, value in frame.by_group.items():
        assert ours[group] == pytest.approx(value, abs=1e-12)
    gap = tables["disparity"].query("grouping == 'hair' and metric == 'acc_gap_maxmin_pp'").iloc[0]
    assert gap["value"] == pytest.approx(100 * frame.difference(), abs=1e-9)
    assert gap["worst_group"] == frame.by_group.idxmin()
    assert gap["best_group"] == frame.by_group.idxmax()


def test_intersections_cross_their_attributes(sweep: Sweep) -> None:
    groups = sweep.tables()["groups"].query("grouping == 'hair*sex' and split == 'test'")
    assert groups["group"].tolist() == [f"{hair}*{sex}" for hair in HAIR for sex in SEX]
    expected = [((sweep.hair[:600] == h) & (sweep.sex[:600] == s)).sum() for h in range(4) for s in range(2)]
    assert groups["n"].tolist() == expected


def test_every_paired_number_is_that_of_independent_code(sweep: Sweep) -> None:
    rng = np.random.default_rng(5)
    noisy = sweep.logits + rng.normal(size=sweep.logits.shape).astype(np.float32)
    tuned = sweep.logits + 0.5 * rng.normal(size=sweep.logits.shape).astype(np.float32)
    sweep.add("ft", tuned, method="fp32_ft", reference="ref")
    sweep.add("qat", noisy, method="qat", reference="ref", control="ft")
    rows = sweep.tables()["paired_metrics"].query("trial_id == 'qat' and grouping == 'hair*sex' and n > 0")
    assert set(rows["comparison"]) == {"reference", "control"}
    for row in rows.to_dict("records"):
        other = {"reference": sweep.logits, "control": tuned}[row["comparison"]]
        hair, sex = row["group"].split("*")
        here = (sweep.hair == HAIR.index(hair)) & (sweep.sex == SEX.index(sex)) & (sweep.split == "test")
        before, after = other[here].argmax(1), noisy[here].argmax(1)
        truth = sweep.labels[here]
        cells = [int(((before == truth) == a).__and__((after == truth) == b).sum()) for a in (1, 0) for b in (1, 0)]
        assert [row[name] for name in ("n_rr", "n_rw", "n_wr", "n_ww")] == cells
        assert row["n"] == sum(cells) == here.sum()
        assert row["n_flip"] == (before != after).sum()
        assert row["drop_pp"] == pytest.approx(100 * ((before == truth).mean() - (after == truth).mean()), abs=1e-9)
        discordant = cells[1] + cells[2]
        exact = binomtest(cells[1], discordant, 0.5).pvalue if discordant else 1.0
        assert row["mcnemar_p"] == pytest.approx(exact, rel=1e-9)
        losses = [-np.log(np.exp(z[here]) / np.exp(z[here]).sum(1, keepdims=True)) for z in (other, noisy)]
        picked = [loss[np.arange(len(truth)), truth].mean() for loss in losses]
        assert row["excess_loss_nats"] == pytest.approx(picked[1] - picked[0], abs=1e-5)
        of_images = [loss[np.arange(len(truth)), truth] for loss in losses]
        interval = ttest_rel(of_images[1], of_images[0]).confidence_interval(0.95)
        ours = (row["excess_loss_ci_low_nats"], row["excess_loss_ci_high_nats"])
        assert ours == pytest.approx((interval.low, interval.high), abs=1e-5)
        assert (row["kl_nats"] >= 0) if row["comparison"] == "reference" else np.isnan(row["kl_nats"])


def test_limits_are_those_of_a_slow_inversion_of_the_score_test(sweep: Sweep) -> None:
    victims = np.concatenate([right_ones(sweep, hair=1)[:25], right_ones(sweep, hair=0)[:9]])
    sweep.add("ptq", damage(sweep, victims), method="ptq", reference="ref")
    paired = sweep.tables()["paired_metrics"]
    rows = paired.query("grouping == 'hair' and n > 0").to_dict("records")
    assert len(rows) == 3
    shared = 1 - 2 * 0.025 / (len(rows) + 1)  # the groups and all images

    def invert(lost: Any, won: Any, n: Any, confidence: float) -> np.ndarray:
        return np.array(slow_drop_interval(lost, won, n, confidence))

    for row in rows:
        lost, won, n = (row[name] for name in ("n_rw", "n_wr", "n"))
        others = [sum(other[name] for other in rows if other is not row) for name in ("n_rw", "n_wr", "n")]
        drop, drop_others = (lost - won) / n, (others[0] - others[1]) / others[2]
        lower = invert(max(lost - 0.5, 0), won, n, shared)[0]
        upper_others = invert(others[0], others[1], others[2], shared)[1]
        excess = drop - drop_others
        expected = {
            "upper_pp": invert(lost, won, n, 0.90)[1],
            "lower_pp": lower,
            "excess_pp": excess,
            "excess_lower_pp": excess - np.hypot(drop - lower, upper_others - drop_others),
        }
        assert {name: row[name] / 100 for name in expected} == pytest.approx(expected, abs=4e-5)
    (whole,) = paired.query("grouping == 'overall'").to_dict("records")
    assert whole["lower_pp"] / 100 == pytest.approx(invert(33.5, 0, 600, 0.95)[0], abs=4e-5), "one cell alone"
    assert whole["upper_pp"] / 100 == pytest.approx(invert(34, 0, 600, 0.90)[1], abs=4e-5)
    assert pd.isna([whole["excess_pp"], whole["excess_lower_pp"]]).all()


def test_every_group_metric_is_that_of_independent_code(sweep: Sweep) -> None:
    metrics = sweep.tables()["group_metrics"]
    test: Any = pd.DataFrame(
        {"hair": sweep.hair, "label": sweep.labels, "right": sweep.logits.argmax(1) == sweep.labels}
    )[:600]
    for row in metrics.query("metric == 'recall' and grouping == 'hair' and `class`.notna() and n > 0").to_dict(
        "records"
    ):
        cell = test[(test["hair"] == HAIR.index(row["group"])) & (test["label"] == CLASSES.index(row["class"]))]
        interval = binomtest(int(cell["right"].sum()), len(cell)).proportion_ci(method="wilson")
        assert (row["n"], row["value"]) == (len(cell), pytest.approx(cell["right"].mean()))
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high))
    labels = metrics.query("grouping == 'label'")
    recall, accuracy = (labels[labels["metric"] == name].set_index("group")["value"] for name in ("recall", "accuracy"))
    assert recall.to_dict() == accuracy.to_dict()
    assert labels[labels["metric"] == "recall"]["class"].tolist() == CLASSES
    n_train = metrics.query("metric == 'accuracy' and grouping == 'hair'")["n_train"].tolist()
    assert n_train == np.bincount(sweep.hair[640:], minlength=4).tolist()


def test_prediction_shares_are_those_of_a_cross_table(sweep: Sweep) -> None:
    metrics = sweep.tables()["group_metrics"]
    predicted, hair = sweep.logits[:600].argmax(1), sweep.hair[:600]
    expected: Any = pd.crosstab(hair, predicted, normalize="index")
    shares = metrics.query("metric == 'prediction_share' and grouping == 'hair'").set_index(["group", "class"])
    for group, name in [(group, name) for group in HAIR[:3] for name in CLASSES]:
        row = shares.loc[(group, name)]
        assert row["value"] == pytest.approx(expected.loc[HAIR.index(group), CLASSES.index(name)])
        members = int((hair == HAIR.index(group)).sum())
        k = int(((hair == HAIR.index(group)) & (predicted == CLASSES.index(name))).sum())
        interval = binomtest(k, members).proportion_ci(method="wilson")
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high))
        assert (row["n"], row["n_train"]) == (members, (sweep.hair[640:] == HAIR.index(group)).sum())
    assert shares.loc["blue", "value"].isna().all()
    assert (shares.loc["blue", "reason"] == "no test images in this group").all()


def test_recall_says_how_many_images_of_its_class_and_group_were_trained_on(sweep: Sweep) -> None:
    metrics = sweep.tables()["group_metrics"]
    recall = metrics.query("metric == 'recall' and grouping == 'hair'").set_index(["group", "class"])["n_train"]
    for hair, label in [(hair, label) for hair in range(4) for label in range(3)]:
        expected = ((sweep.hair[640:] == hair) & (sweep.labels[640:] == label)).sum()
        assert recall[(HAIR[hair], CLASSES[label])] == expected


def test_groups_add_up(sweep: Sweep) -> None:
    sweep.add("ptq", damage(sweep, right_ones(sweep, hair=0)[::3]), method="ptq", reference="ref")
    paired = sweep.tables()["paired_metrics"]
    counts = paired.groupby("grouping")[["n", "n_rr", "n_rw", "n_wr", "n_ww", "n_flip"]].sum()
    assert len(counts) == 4
    assert (counts == counts.loc["overall"]).all().all()
    assert (paired["n_rr"] + paired["n_rw"] + paired["n_wr"] + paired["n_ww"] == paired["n"]).all()


def test_a_trial_compared_with_itself_has_no_drop(sweep: Sweep) -> None:
    sweep.add("same", sweep.logits, method="ptq", reference="ref")
    paired = sweep.tables()["paired_metrics"].query("n > 0")
    assert (paired[["drop_pp", "n_flip", "n_rw", "n_wr"]] == 0).all().all()
    assert (paired["mcnemar_p"] == 1).all()
    assert paired["kl_nats"].max() < 1e-9


def test_the_order_of_images_changes_nothing(tmp_path: Path) -> None:
    tables = []
    for name, order in (("a", None), ("b", np.random.default_rng(1).permutation(N))):
        sweep = Sweep(tmp_path / name, order=order)
        sweep.add("ref", sweep.logits, method="fp32")
        sweep.add("ptq", damage(sweep, right_ones(sweep, hair=2)[:5]), method="ptq", reference="ref")
        tables.append(sweep.tables())
    for name in ("group_metrics", "paired_metrics", "disparity", "groups"):
        pd.testing.assert_frame_equal(tables[0][name], tables[1][name], rtol=1e-12)


def test_groups_under_fifty_images_are_listed_but_never_ranked(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    few = np.flatnonzero(sweep.hair == 2)
    sweep.hair[few[30:]] = 0
    sweep = _rebuild(sweep, tmp_path)
    sweep.add("ref", sweep.logits, method="fp32")
    victims = right_ones(sweep, hair=2)
    sweep.add("ptq", damage(sweep, victims), method="ptq", reference="ref")
    tables = sweep.tables()
    worst = tables["disparity"].query("grouping == 'hair' and metric == 'drop_disparity_pp'").iloc[0]
    assert worst["worst_group"] in ("red", "grey")
    assert worst["value"] == 0
    small = tables["paired_metrics"].query("grouping == 'hair' and group == 'none'").iloc[0]
    assert small["drop_pp"] == pytest.approx(100 * len(victims) / small["n"])
    assert small["eag_p"] < 0.01
    assert small[["eag_q", "lower_pp", "upper_pp", "excess_lower_pp"]].isna().all()
    assert small["reason"].endswith("; lower_pp, upper_pp: fewer than 50 test images")


def _rebuild(sweep: Sweep, folder: Path) -> Sweep:
    """Write the samples again after a test has changed who belongs to which group."""
    table, attributes = sweep.store.read_samples("d")
    position = table.column_names.index("hair")
    table = table.set_column(position, "hair", pa.array(np.array(HAIR)[sweep.hair])).replace_schema_metadata()
    assert set(SAMPLES.names) < set(table.column_names)
    Store.open(str(folder)).write_samples("d", table, attributes)
    return sweep


def test_a_trial_blocked_by_a_failed_one_is_a_failed_row_with_the_cause(sweep: Sweep) -> None:
    row = sweep.plan_trial("bad", "fp32")
    sweep.store.write_trial({**row, "status": "failed", "error": "DivergedError: loss is nan\nmore"})
    sweep.plan_trial("child", "ptq", reference="bad")
    sweep.plan_trial("later", "ptq", reference="ref")
    tables = sweep.tables()
    trials = tables["trials"].set_index("trial_id")
    assert trials.loc["child", "status"] == "failed"
    expected = "not run: it needs trial bad (fp32), which failed: DivergedError: loss is nan"
    assert trials.loc["child", "error"] == expected
    assert "later" not in trials.index
    facts = tables["provenance"].set_index("key")["value"]
    counts = {name: facts[f"n_{name}"] for name in ("planned", "ok", "failed", "blocked", "missing")}
    assert counts == {"planned": "4", "ok": "1", "failed": "1", "blocked": "1", "missing": "1"}


def test_a_comparison_with_a_failed_trial_is_rows_with_a_reason(sweep: Sweep) -> None:
    row = sweep.plan_trial("ft", "fp32_ft", reference="ref")
    sweep.store.write_trial({**row, "status": "failed", "error": "no"})
    sweep.add("qat", damage(sweep, right_ones(sweep, hair=0)[:9]), method="qat", reference="ref", control="ft")
    tables = sweep.tables()
    control = tables["paired_metrics"].query("comparison == 'control'")
    assert (control["reason"] == "the control trial ft failed or has not run").all()
    assert control[["n_rw", "n_flip", "drop_pp", "drop_ci_low_pp", "eag_p", "mcnemar_p"]].isna().all(axis=None)
    reference = tables["paired_metrics"].query("comparison == 'reference' and trial_id == 'qat'")
    assert control[["grouping", "group", "n"]].values.tolist() == reference[["grouping", "group", "n"]].values.tolist()
    gaps = tables["disparity"].query("comparison == 'control'")
    assert set(gaps["metric"]) == {
        *("drop_disparity_pp", "drop_std_pp", "eag_max_pp", "gap_change_pp", "phi_loss_nats"),
    }
    assert gaps["value"].isna().all()
    report = write_report(sweep.store, {name: sweep.store.read_table(name) for name in tables})
    assert "qat" in Path(report).read_text(encoding="utf-8")


def set_device(sweep: Sweep, trial_id: str, device: str | None) -> None:
    row = next(row for row in sweep.store.read_trials().to_pylist() if row["trial_id"] == trial_id)
    sweep.store.write_trial({**row, "device": device})


def test_pairs_of_two_kinds_of_device_are_flagged_and_no_others(sweep: Sweep) -> None:
    sweep.add("ft", sweep.logits, method="fp32_ft", reference="ref")
    for trial_id in ("same", "qat", "unknown"):
        sweep.add(trial_id, sweep.logits, method="qat", reference="ref", control="ft")
    for trial_id, device in {"ref": "cpu", "ft": "cuda", "same": "cpu", "qat": "cuda", "unknown": None}.items():
        set_device(sweep, trial_id, device)
    tables = sweep.tables()
    flag = "the devices differ: the trial ran on {}, its {} on {}; "
    expected = {
        ("ft", "reference"): flag.format("cuda", "reference", "cpu"),
        ("same", "control"): flag.format("cpu", "control", "cuda"),
        ("qat", "reference"): flag.format("cuda", "reference", "cpu"),
    }
    for name, n_tables in (("paired_metrics", 7), ("disparity", 7)):
        pairs = tables[name].dropna(subset="comparison").groupby(["trial_id", "comparison"])
        assert len(pairs) == n_tables
        for key, rows in pairs:
            starts = rows["reason"].fillna("").str.startswith(expected.get(key, "the devices differ").rstrip("; "))
            assert starts.all() if key in expected else not starts.any()
    qat = tables["paired_metrics"].query("trial_id == 'qat' and comparison == 'reference'").set_index("group")
    assert (qat.loc[["red", "grey"], "drop_pp"] == 0).all()  # flagged, not withheld
    assert qat.loc["blue", "reason"].endswith("; no test images in this group")
    own = tables["disparity"]
    assert not own[own["comparison"].isna()]["reason"].str.contains("devices").any()


def test_a_group_nobody_announced_is_refused(sweep: Sweep) -> None:
    table, attributes = sweep.store.read_samples("d")
    sweep.store.write_samples("d", table.replace_schema_metadata(), {**attributes, "hair": ["red", "grey"]})
    with pytest.raises(ValueError, match=r"`hair` must be one of \['red', 'grey'\], got 'none'; list that group"):
        sweep.tables()


def test_several_pairs_have_the_numbers_that_each_has_alone(tmp_path: Path) -> None:
    found = []
    for names in (["a", "b"], ["a"], ["b"]):
        sweep = Sweep(tmp_path / "-".join(names))
        sweep.add("ref", sweep.logits, method="fp32")
        for name in names:
            victims = right_ones(sweep, hair=1)[: {"a": 9, "b": 40}[name]]
            sweep.add(name, damage(sweep, victims), method="ptq", reference="ref")
        found.append(sweep.tables())
    for table in ("paired_metrics", "disparity"):
        apart = pd.concat([tables[table].query("trial_id != 'ref'") for tables in found[1:]], ignore_index=True)
        keys = [name for name in ("trial_id", "comparison", "grouping", "group", "metric") if name in apart]
        together = found[0][table].query("trial_id != 'ref'")
        ours, theirs = (side.sort_values(keys).reset_index(drop=True) for side in (together, apart))
        corrected = [name for name in ("eag_q", "eag_p_holm", "family_size") if name in ours]  # over all of a family
        pd.testing.assert_frame_equal(ours.drop(columns=corrected), theirs.drop(columns=corrected), rtol=1e-6)


def test_trials_of_another_plan_are_left_out_and_counted(sweep: Sweep) -> None:
    sweep.add("stranger", sweep.logits, method="fp32")
    sweep.plan.pop()
    tables = sweep.tables()
    assert tables["trials"]["trial_id"].tolist() == ["ref"]
    assert tables["provenance"].set_index("key").loc["n_not_in_plan", "value"] == "1"


def test_predictions_of_other_images_are_refused(sweep: Sweep) -> None:
    sweep.add("short", sweep.logits, method="ptq", reference="ref")
    part = sweep.store.read_predictions("short", "torch").slice(1)
    sweep.store.write_predictions("short", "torch", part)
    with pytest.raises(StoreError, match=r"Trial short \(torch\) predicted other images than the test images of .*d\."):
        sweep.tables()


def test_equal_stores_give_equal_bytes(sweep: Sweep, tmp_path: Path) -> None:
    sweep.add("ptq", sweep.logits, method="ptq", reference="ref")
    sweep.tables()
    files = sorted((tmp_path / "tables").iterdir())
    before = [file.read_bytes() for file in files]
    sweep.tables()
    assert len(files) == 21
    assert [file.read_bytes() for file in files] == before


def test_new_groupings_are_joined_from_a_csv_without_a_new_run(sweep: Sweep) -> None:
    sweep.add("ptq", damage(sweep, np.arange(10)), method="ptq", reference="ref")
    sweep.tables()
    size = np.where(np.arange(N) % 2, "large", "small")
    csv = pd.DataFrame({"sample_id": np.arange(N), "size": size}).drop(index=[0, 1, 2])
    import_groups(sweep.store, csv.to_csv(index=False).encode(), source="my.csv")
    tables = sweep.tables()
    groups = tables["groups"].query("grouping == 'size' and split == 'test'").set_index("group")["n"]
    assert groups.to_dict() == {"large": 299, "small": 298, "unknown": 3}
    flips = tables["paired_metrics"].query("grouping == 'size'").set_index("group")["n_flip"]
    changed = (damage(sweep, np.arange(10)).argmax(1) != sweep.logits.argmax(1))[:600]
    assert flips["large"] == changed[3:][size[3:600] == "large"].sum()
    assert tables["samples"]["size"].tolist() == ["unknown"] * 3 + size[3:].tolist()


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ("image,size\n1,x\n", r"my.csv has no column sample_id: it has \['image', 'size'\]"),
        ("sample_id,size\nx,y\n", r"my.csv: sample_id must be a whole number, got 'x': take those of samples.parquet"),
        ("sample_id,size\n1,x\n1,y\n", r"my.csv names image 1 twice; give each sample_id one row"),
        ("sample_id\n1\n", r"my.csv has no column beside sample_id"),
    ],
)
def test_a_csv_of_groups_that_does_not_fit_is_refused(sweep: Sweep, csv: str, message: str) -> None:
    sweep.tables()
    with pytest.raises(StoreError, match=message):
        import_groups(sweep.store, csv.encode(), source="my.csv")
    assert sweep.store.read_groups_csv() is None


def test_a_csv_for_several_data_sets_must_name_them(sweep: Sweep) -> None:
    sweep.plan_trial("other", "fp32")
    sweep.plan[-1]["dataset_id"] = "e"
    sweep.store.write_manifest(
        {"name": "planted", "runtimes": ["torch"], "groupings": {}, "plan": sweep.plan, "provenance": {}}
    )
    with pytest.raises(
        StoreError, match=r"my.csv needs a column dataset_id: this store holds the data sets \['d', 'e'\]"
    ):
        import_groups(sweep.store, b"sample_id,size\n1,x\n", source="my.csv")


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        (b"sample_id,hair\n1,x\n", r"my.csv: a column may not be called `hair`; that name is taken"),
        (b"sample_id,size\n9999,x\n", r"my.csv names no image of data set d: its sample_id is that of samples.parquet"),
    ],
)
def test_a_csv_that_does_not_fit_the_images_is_refused_and_not_kept(sweep: Sweep, csv: bytes, message: str) -> None:
    sweep.tables()
    with pytest.raises(StoreError, match=message):
        import_groups(sweep.store, csv, source="my.csv")
    assert sweep.store.read_groups_csv() is None
