"""Predictions from elsewhere: the same numbers as if the trial had run here, and every wrong file is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from html_page import Page
from imported_sweep import N_TEST, N_VAL, NAMES, Pets, to_csv, to_parquet
from scipy.special import softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from typer.testing import CliRunner

from quantfair.orchestrator.commands.app import app
from quantfair.results import (
    Store,
    StoreError,
    build_tables,
    count_trials,
    find_damage,
    import_predictions,
    list_trials,
    update_report,
)
from quantfair.results.schema import MIN_RANKED
from quantfair.results.store.recovery import quarantine


@pytest.fixture
def pets(tmp_path: Path) -> Pets:
    return Pets(tmp_path / "store")


def bring(pets: Pets, data: bytes | pd.DataFrame, **options: Any) -> str:
    data = to_csv(data) if isinstance(data, pd.DataFrame) else data
    return import_predictions(
        pets.store, data, **{"source": "theirs.csv", "name": "theirs", "reference": "float", **options}
    )


def rows_of(table: Any, trial_id: str) -> Any:
    return table.to_pandas().query(f"trial_id == '{trial_id}'").drop(columns="trial_id").reset_index(drop=True)


def test_imported_predictions_get_the_numbers_of_the_same_model_run_here(pets: Pets) -> None:
    trial_id = bring(pets, pets.frame(logits=True, splits=("test", "val")))
    tables = build_tables(pets.store)
    for name in ("group_metrics", "paired_metrics", "disparity"):
        ours, theirs = rows_of(tables[name], "small"), rows_of(tables[name], trial_id)
        assert len(ours) > 5
        columns = [c for c in ours if c not in ("kl_nats", "reason")]
        pd.testing.assert_frame_equal(theirs[columns], ours[columns], rtol=1e-6)
    kl = (rows_of(tables["paired_metrics"], t)["kl_nats"].to_numpy() for t in (trial_id, "small"))
    np.testing.assert_allclose(*kl, rtol=1e-5)  # from logits that were kept in float32


def test_the_row_of_an_imported_trial_has_the_scores_that_sklearn_gives(pets: Pets) -> None:
    row = pets.store.read_trial(bring(pets, pets.frame(logits=True)))
    assert row is not None
    test = pets.splits == "test"
    labels, logits = pets.labels[test], pets.quantized[test]
    assert row["accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert row["macro_accuracy"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert row["loss_nats"] == pytest.approx(log_loss(labels, probabilities), rel=1e-6)
    assert (row["method"], row["seed"], row["dataset"], row["n_test"]) == ("imported", 7, "pets", N_TEST)
    assert json.loads(row["config"])["imported"] == {"name": "theirs", "file": "theirs.csv"}


def test_without_logits_what_they_tell_is_null_with_a_reason(pets: Pets) -> None:
    trial_id = bring(pets, pets.frame(), control="tuned")
    tables = build_tables(pets.store)
    assert rows_of(tables["trials"], trial_id)["loss_nats"].isna().all()
    metrics = rows_of(tables["group_metrics"], trial_id)
    of_logits = metrics[metrics["metric"].isin(["loss_nats", "confidence"])]
    assert of_logits["value"].isna().all()
    assert of_logits["reason"].str.startswith("imported without logits").all()
    assert metrics.query("metric == 'accuracy'")[["value", "ci_low"]].notna().to_numpy().all()
    assert not metrics.query("metric == 'accuracy'")["reason"].astype(str).str.contains("logits").any()
    pairs = rows_of(tables["paired_metrics"], trial_id)
    assert set(pairs["comparison"]) == {"reference", "control"}
    assert pairs[["excess_loss_nats", "kl_nats"]].isna().to_numpy().all()
    assert pairs["reason"].str.contains("one side was imported without logits").all()
    assert pairs["drop_pp"].notna().all()
    for name in ("group_metrics", "paired_metrics", "disparity"):
        for column in tables[name].select([f.name for f in tables[name].schema if str(f.type) == "double"]).columns:
            assert not any(value != value for value in column.to_pylist() if value is not None)
    other = rows_of(tables["paired_metrics"], "small")
    assert not other["reason"].astype(str).str.contains("logits").any()


def test_where_a_value_is_null_nothing_is_derived_from_it_and_a_reason_is_there(pets: Pets) -> None:
    bring(pets, pets.frame(logits=False))
    pets.add("tuned too", "fp32_ft", pets.logits, reference_trial_id="float")
    pets.add("trained", "qat", pets.quantized, reference_trial_id="float", control_trial_id="tuned too")
    control = pets.store.read_trial("tuned too")
    assert control is not None
    pets.store.write_trial({**control, "status": "failed", "error": "no"})
    pets.store.write_manifest({**pets.store.read_manifest(), "plan": pets.plan})
    tables = {name: table.to_pandas() for name, table in build_tables(pets.store).items()}
    derived = {
        "disparity": (
            "value",
            ["corrected", "null_mean", "null_q95", "null_p", "null_method", "worst_group", "best_group"],
        ),
        "contrast_disparity": (
            "drop_disparity_pp",
            ["null_mean_pp", "null_q95_pp", "null_p", "worst_group", "best_group"],
        ),
        "paired_metrics": ("drop_pp", ["lower_pp", "upper_pp", "excess_pp", "eag_pp", "eag_p", "eag_q", "mcnemar_p"]),
        "contrasts": ("drop_pp", ["lower_pp", "upper_pp", "excess_pp", "excess_lower_pp", "eag_pp"]),
        "verdicts": ("told", ["answer", "group", "lower_pp", "upper_pp", "at_most_pp", "clearest_lower_pp"]),
        "correlations": ("rho", ["p"]),
    }
    for name, (value, columns) in derived.items():
        empty = tables[name][tables[name][value].isna()]
        assert len(empty), name
        assert empty[columns].isna().all(axis=None), name
        assert empty["reason"].notna().all(), name
    losses = tables["disparity"].query("metric == 'phi_loss_nats'")
    assert losses["value"].isna().any()
    pairs = tables["paired_metrics"]
    assert pairs["eag_p"].isna().any()
    assert pairs[pairs["eag_p"].isna()]["eag_q"].isna().all()
    for name, column in (("disparity", "null_p"), ("contrast_disparity", "null_p"), ("paired_metrics", "eag_q")):
        unknown = tables[name][tables[name][column].isna()]
        assert unknown["reason"].notna().all(), (name, column)
    for name in ("paired_metrics", "contrasts"):
        unknown = tables[name][tables[name]["lower_pp"].isna()]
        assert len(unknown), name
        assert unknown["reason"].notna().all(), name


def test_a_contrast_of_one_seed_has_the_numbers_of_its_trial(pets: Pets) -> None:
    tables = {name: table.to_pandas() for name, table in build_tables(pets.store).items()}
    trials = tables["trials"].set_index("config_id")["trial_id"]
    key = ["trial_id", "comparison", "grouping"]
    spreads = tables["disparity"].query("metric == 'drop_disparity_pp'").set_index(key)
    contrasts = tables["contrast_disparity"].assign(trial_id=lambda rows: rows["config_id"].map(trials)).set_index(key)
    ours = spreads[["value", "null_mean", "null_q95", "null_p", "worst_group", "best_group"]]
    theirs = contrasts[["drop_disparity_pp", "null_mean_pp", "null_q95_pp", "null_p", "worst_group", "best_group"]]
    assert ours["null_p"].notna().sum() == 4  # two trials by class and by sex
    pd.testing.assert_frame_equal(theirs.set_axis(ours.columns, axis=1), ours, check_like=True)

    columns = ["drop_pp", "lower_pp", "upper_pp", "excess_pp", "excess_lower_pp"]
    pairs = tables["paired_metrics"].set_index([*key, "group"])[columns]
    groups = tables["contrasts"].assign(trial_id=lambda rows: rows["config_id"].map(trials))
    groups = groups[groups["comparison"].notna()].set_index([*key, "group"])[columns]
    assert pairs.notna().all(axis=1).sum() == 10  # of two trials three classes and two sexes
    pd.testing.assert_frame_equal(groups, pairs, check_like=True)


def test_the_calibration_error_can_be_recomputed_from_the_logits_that_are_kept(pets: Pets) -> None:
    stored = pets.store.read_predictions("float", "torch")
    assert stored.schema.field("logits").type == pa.list_(pa.float32())
    test = stored.to_pandas().query("split == 'test'")
    logits = np.stack(test["logits"].to_list()).astype(np.float64)
    given = pets.logits[test["sample_id"]]
    assert np.array_equal(logits, given.astype(np.float32)), "no digit is lost beyond those of float32"
    confidence = softmax(logits, axis=1).max(axis=1)
    right = logits.argmax(axis=1) == pets.labels[test["sample_id"]]
    bins = np.minimum((confidence * 15).astype(int), 14)
    expected = sum(abs((right - confidence)[bins == k].sum()) for k in range(15)) / len(test)
    metrics = build_tables(pets.store)["group_metrics"].to_pandas()
    ece = metrics.query("trial_id == 'float' and metric == 'ece' and grouping == 'overall'")["value"]
    assert ece.item() == pytest.approx(expected, abs=1e-6)


def test_an_own_metric_of_logits_is_null_with_a_reason_where_there_are_none(pets: Pets) -> None:
    trial_id = bring(pets, pets.frame(), control="tuned")
    tables = build_tables(pets.store, metrics=["user_metrics:doubt"])
    groups = rows_of(tables["group_metrics"], trial_id).query("metric == 'doubt'")
    assert groups["value"].isna().all()
    assert set(groups.query("n > 0")["reason"]) == {"imported without logits"}
    for name in ("own_metrics", "disparity"):
        rows = rows_of(tables[name], trial_id).query("metric == 'doubt'")
        assert set(rows["reason"]) == {"the metric needs logits, and one side was imported without"}
    other = rows_of(tables["own_metrics"], "small")
    assert other["difference"].notna().all()


def test_the_same_predictions_are_the_same_trial_in_any_order_and_format(pets: Pets) -> None:
    frame = pets.frame(logits=True)
    first = bring(pets, frame)
    named = frame.assign(predicted=np.array(NAMES)[frame["predicted"]])
    listed = frame[["sample_id", "predicted"]].assign(
        logits=frame[[f"logit_{k}" for k in range(3)]].to_numpy().tolist()
    )
    for again in (
        frame.sample(frac=1, random_state=0),
        named,
        to_parquet(frame),
        to_parquet(named),
        to_parquet(listed),
    ):
        assert bring(pets, again) == first
    assert bring(pets, frame, control="tuned") == first
    row = pets.store.read_trial(first)
    assert row is not None
    assert row["control_trial_id"] == "tuned"


def test_numbers_may_be_written_as_pandas_writes_them_once_a_column_was_float(pets: Pets) -> None:
    frame = pets.frame()
    first = bring(pets, frame)
    assert bring(pets, frame.astype({"predicted": float, "sample_id": float})) == first
    assert bring(pets, to_parquet(frame.astype({"predicted": float}))) == first
    assert bring(pets, to_parquet(frame.set_index("sample_id"))) == first


def test_columns_that_mean_nothing_are_named(pets: Pets, tmp_path: Path) -> None:
    file = tmp_path / "weighted.csv"
    file.write_bytes(to_csv(pets.frame(logits=True).assign(sample_weight=2.0, path="x")))
    words = ["import", pets.store.location, str(file), "--name", "theirs", "--reference", "float"]
    said = CliRunner().invoke(app, words).stdout
    assert "not used: the columns sample_weight, path; every image counts once" in said
    added = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert added["columns_not_used"] == ["sample_weight", "path"]
    assert bring(pets, pets.frame(logits=True)) == added["trial_id"]


def test_seeds_of_one_name_are_one_configuration(pets: Pets) -> None:
    frame = pets.frame()
    ids = [bring(pets, frame, seed=seed) for seed in (0, 1)] + [bring(pets, frame, seed=0, name="others")]
    rows = [pets.store.read_trial(trial_id) for trial_id in ids]
    assert len(set(ids)) == 3
    configs = [row["config_id"] for row in rows if row]
    assert configs[0] == configs[1] != configs[2]
    other = frame.assign(predicted=0)
    with pytest.raises(
        StoreError, match=r"name 'theirs' and seed 1 were imported before \(trial \w+\): choose another"
    ):
        bring(pets, other, seed=1)


def test_an_imported_trial_is_shown_and_counts_as_neither_planned_nor_strange(pets: Pets) -> None:
    before = update_report(pets.store)
    trial_id = bring(pets, pets.frame())
    derived = update_report(pets.store)
    assert [row["trial_id"] for row in derived.trials] == ["float", "tuned", "small", trial_id]
    counts = count_trials(list_trials(pets.store), 3)
    assert counts == {"n_planned": 3, "n_ok": 3, "n_failed": 0, "n_blocked": 0, "n_missing": 0, "n_imported": 1}
    assert derived.facts["n_not_in_plan"] == before.facts["n_not_in_plan"] == "0"
    page = Page(Path(derived.dashboard).read_text())
    assert trial_id in page.data["tables"]["trials"]["id"]["values"]
    assert "theirs" in page.data["tables"]["configs"]["name"]["values"]


def test_an_imported_trial_survives_a_search_for_damage_and_comes_back_by_import(pets: Pets) -> None:
    trial_id = bring(pets, pets.frame())
    assert find_damage(pets.store) == []
    path = Path(pets.store.location, f"predictions/{trial_id}.torch.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    (said,) = quarantine(pets.store, find_damage(pets.store))
    assert f"`import` theirs.csv again, of which trial {trial_id} was made" in said
    assert trial_id not in pets.store.trial_ids()
    assert bring(pets, pets.frame()) == trial_id
    assert find_damage(pets.store) == []


def change(frame: pd.DataFrame, column: str, row: int, value: Any) -> pd.DataFrame:
    frame = frame.astype({column: object})
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.drop(columns="predicted"), r"theirs.csv has no column predicted: it has \['sample_id', "),
        (lambda f: f.drop(columns=["predicted", "sample_id"]), "no column sample_id and no column predicted"),
        (lambda f: f.drop(index=[3, 4]), rf"lacks 2 of {N_TEST} test images of data set d, the first \d+: predict"),
        (lambda f: pd.concat([f, f.tail(1)]), r"names image \d+ twice; give each sample_id one row"),
        (lambda f: change(f, "sample_id", 0, 999), "names 1 images that are no images of data set d, the first 999"),
        (lambda f: change(f, "sample_id", 0, "x"), "sample_id must be a whole number, got 'x': take those of"),
        (lambda f: change(f, "sample_id", 0, "1.5"), "sample_id must be a whole number, got '1.5'"),
        (lambda f: change(f, "sample_id", 0, "inf"), "sample_id must be a whole number, got 'inf'"),
        (lambda f: change(f, "sample_id", 0, ""), "sample_id must be a whole number, got ''"),
        (lambda f: change(f, "predicted", 0, "1.5"), "got '1.5'"),
        (lambda f: change(f, "predicted", 0, "cow"), r"one of the names \['cat', .* indices 0 to 2 for all, got 'cow'"),
        (lambda f: change(f, "predicted", 0, 3), "got '3'"),
        (lambda f: change(f, "predicted", 0, ""), "got ''"),
        (lambda f: change(f, "predicted", 0, "cat"), "`predicted` must be one of the names .* got "),
        (lambda f: f.drop(columns="logit_1"), r"in columns logit_0 to logit_2; got \['logit_0', 'logit_2'\]"),
        (lambda f: change(f, "logit_1", 2, "inf"), "must be 3 finite numbers for each image, got .*'inf'.* for image"),
        (lambda f: change(f, "logit_1", 2, ""), r"must be 3 finite numbers for each image \(could not convert"),
        (lambda f: f.rename(columns={"logit_0": "logit_1", "logit_1": "logit_0"}), "not predicted as the class with"),
        (lambda f: b"PAR1 and no more", "theirs.csv is neither CSV nor Parquet"),
        (lambda f: b"", "theirs.csv is neither CSV nor Parquet"),
        (lambda f: f[["sample_id", "predicted"]].assign(logits="[1, 2]"), "in a CSV they have columns logit_0"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_what_is_wrong_with_it(pets: Pets, damage: Any, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        bring(pets, damage(pets.frame(logits=True)))
    assert pets.store.trial_ids() == {"float", "small", "tuned"}


def test_training_images_and_half_of_val_are_refused(pets: Pets) -> None:
    with pytest.raises(StoreError, match=r"names 30 training images of data set d, the first \d+: leave them out"):
        bring(pets, pets.frame(splits=("test", "train")))
    half = pets.frame(splits=("test", "val"))
    half = half.drop(index=half.index[pets.splits[half["sample_id"]] == "val"][:9])
    with pytest.raises(StoreError, match=f"lacks 9 of {N_VAL} val images .* or leave all val images out"):
        bring(pets, half)


def test_numbers_that_may_be_names_are_refused_in_a_csv_alone(tmp_path: Path) -> None:
    pets = Pets(tmp_path, names=["2", "1", "0"])
    frame = pets.frame()
    with pytest.raises(StoreError, match=r"may be indices or the names .* which differ: give a Parquet file"):
        bring(pets, frame)
    indices = bring(pets, to_parquet(frame), seed=0)
    names = bring(pets, to_parquet(frame.assign(predicted=(2 - frame["predicted"]).astype(str))), seed=0)
    assert indices == names


def test_what_it_is_compared_with_must_be_finished(pets: Pets) -> None:
    pets.store.write_trial({"trial_id": "broken", "status": "failed", "dataset_id": "d"})
    pets.store.write_trial({"trial_id": "elsewhere", "status": "ok", "dataset_id": "e"})
    with pytest.raises(StoreError, match=r"`--reference` must be the id of a finished trial of .*, and nobody is not"):
        bring(pets, pets.frame(), reference="nobody")
    with pytest.raises(StoreError, match=r"`--control` must be the id of a finished trial of .*, and broken failed"):
        bring(pets, pets.frame(), control="broken")
    with pytest.raises(StoreError, match="`--control` must be of the data set of `--reference`, got elsewhere"):
        bring(pets, pets.frame(), control="elsewhere")
    with pytest.raises(StoreError, match="`--name` must be a name"):
        bring(pets, pets.frame(), name=" ")


def test_the_commands_import_report_and_status_know_an_imported_trial(pets: Pets, tmp_path: Path) -> None:
    file, store = tmp_path / "theirs.csv", pets.store.location
    file.write_bytes(to_csv(pets.frame()))
    words = ["import", store, str(file), "--name", "theirs", "--reference", "float", "--seed", "3"]
    said = CliRunner().invoke(app, [*words, "--json"])
    assert said.exit_code == 0
    trial_id = json.loads(said.stdout)["trial_id"]
    assert f"trial {trial_id}: `report` shows it" in CliRunner().invoke(app, words).stdout
    assert "3 of 3 trials ok, 0 failed, 0 missing, and 1 imported" in CliRunner().invoke(app, ["report", store]).stdout
    summary = json.loads(CliRunner().invoke(app, ["status", store, "--json"]).stdout)
    assert (summary["n_ok"], summary["n_imported"], summary["missing"]) == (3, 1, [])
    wrong = CliRunner().invoke(app, [*words[:2], str(tmp_path / "none.csv"), *words[3:]])
    assert wrong.exit_code == 2
    assert "FILE names no file" in wrong.stderr.replace("`", "")
    nothing = CliRunner().invoke(app, ["import", str(tmp_path / "empty"), *words[2:]])
    assert nothing.exit_code == 2
    assert "holds no sweep" in nothing.stderr


def test_the_groups_of_this_test_are_ranked(pets: Pets) -> None:
    assert min(np.bincount(pets.sex[pets.splits == "test"])) >= MIN_RANKED
    assert isinstance(pets.store, Store)
