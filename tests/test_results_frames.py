"""Frames for notebooks: they hold what the tables hold, and what joins them is right."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from imported_sweep import N_TEST, N_VAL, NAMES, SEXES, Pets
from sklearn.metrics import recall_score

from quantfair import results
from quantfair.results import TABLES, Store, StoreError
from quantfair.results.frames import Frames, to_frame


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Pets:
    return Pets(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def frames(pets: Pets) -> Frames:
    return results.read(pets.store.location)


def test_every_table_but_the_predictions_is_an_attribute_that_says_what_it_is(frames: Frames) -> None:
    assert set(Frames.table_names()) == set(TABLES) - {"predictions"}
    for name in Frames.table_names():
        frame = getattr(frames, name)
        assert isinstance(frame, pd.DataFrame)
        assert getattr(Frames, name).__doc__.endswith(".")
        assert name in repr(frames)
        assert len(frame) == len(frames.store.read_table(name))


def test_what_a_researcher_types_first_finds_the_rows(frames: Frames) -> None:
    found: Any = frames.paired_metrics.query("trial_id == 'small' and comparison == 'reference' and grouping == 'sex'")
    stored = [row for row in frames.store.read_table("paired_metrics").to_pylist() if row["trial_id"] == "small"]
    assert found["drop_pp"].tolist() == [row["drop_pp"] for row in stored if row["grouping"] == "sex"]
    assert found["group"].tolist() == SEXES
    assert frames.paired_metrics is frames.paired_metrics


def test_texts_that_repeat_are_categories_and_take_less_memory(frames: Frames) -> None:
    table = frames.store.read_table("group_metrics")
    frame = to_frame(table)
    assert str(frame["metric"].dtype) == "category"
    assert frame.memory_usage(deep=True).sum() < 0.7 * table.to_pandas().memory_usage(deep=True).sum()
    assert frame["metric"].tolist() == table["metric"].to_pylist()
    assert str(frames.trials["trial_id"].dtype) != "category"


def test_settings_stand_beside_the_rows_of_their_trial(frames: Frames) -> None:
    joined: Any = frames.with_settings(frames.paired_metrics)
    assert len(joined) == len(frames.paired_metrics)
    small: Any = joined.query("method == 'ptq' and weight_bits == 4")
    assert set(small["trial_id"]) == {"small"}
    assert set(small["configuration"]) == {"PTQ 4"}
    assert set(small["seed"]) == {7}
    tuned: Any = joined[joined["trial_id"] == "tuned"]
    assert tuned["weight_bits"].isna().all()
    pd.testing.assert_frame_equal(joined[frames.paired_metrics.columns], frames.paired_metrics)


def test_settings_of_a_configuration_have_no_seed_and_unknown_ones_are_null(frames: Frames) -> None:
    joined: Any = frames.with_settings(pd.DataFrame({"config_id": ["small-config", "nobody"], "drop_pp": [1.0, 2.0]}))
    assert joined["configuration"].tolist()[0] == "PTQ 4"
    assert joined["configuration"].isna().tolist() == [False, True]
    assert "seed" not in joined
    with pytest.raises(ValueError, match=r"must have a column trial_id or config_id, it has \['n'\]"):
        frames.with_settings(pd.DataFrame({"n": [1]}))


def test_predictions_come_with_who_the_images_are(pets: Pets, frames: Frames) -> None:
    images: Any = frames.predictions("small")
    test = np.flatnonzero(pets.splits == "test")
    assert images["sample_id"].tolist() == test.tolist()
    assert images["label_name"].tolist() == [NAMES[label] for label in pets.labels[test]]
    assert images["predicted_name"].tolist() == [NAMES[k] for k in pets.quantized[test].argmax(1)]
    assert images["sex"].tolist() == [SEXES[code] for code in pets.sex[test]]
    assert images["sex"].cat.categories.tolist() == SEXES
    assert images["right"].tolist() == (pets.quantized[test].argmax(1) == pets.labels[test]).tolist()
    assert len(frames.predictions("small", split=None)) == N_TEST + N_VAL
    assert set(frames.predictions("small", split="val")["split"]) == {"val"}


def test_the_accuracy_of_groups_from_predictions_is_that_of_the_table(frames: Frames) -> None:
    images: Any = frames.predictions("small")
    found = images.groupby("sex", observed=True)["right"].mean()
    table: Any = frames.group_metrics.query("trial_id == 'small' and grouping == 'sex' and metric == 'accuracy'")
    np.testing.assert_allclose(found.to_numpy(), table["value"].to_numpy(), atol=1e-12)


def test_new_groupings_of_a_report_are_in_the_predictions(tmp_path: Path) -> None:
    pets = Pets(tmp_path)
    csv = "sample_id,tail\n" + "\n".join(f"{i},{'long' if i % 2 else 'short'}" for i in range(300))
    results.import_groups(pets.store, csv.encode(), source="tails.csv")
    images: Any = results.read(pets.store).predictions("float")
    assert images["tail"].tolist() == ["long" if i % 2 else "short" for i in images["sample_id"]]


def test_predictions_of_no_trial_or_runtime_are_refused(frames: Frames) -> None:
    with pytest.raises(StoreError, match=r"Trial 'nobody' is not finished in .*: `.trials` lists the ids"):
        frames.predictions("nobody")
    with pytest.raises(StoreError, match="Trial small has no predictions of the runtime 'tensorrt': try 'torch'"):
        frames.predictions("small", "tensorrt")


def test_tables_are_built_when_they_are_missing_or_outdated_and_only_then(tmp_path: Path) -> None:
    pets = Pets(tmp_path)
    assert len(results.read(pets.store).trials) == 3
    table = Path(pets.store.location, "tables/trials.parquet")
    before = table.stat().st_mtime_ns
    results.read(pets.store)
    assert table.stat().st_mtime_ns == before
    pets.add("other", "ptq", pets.quantized, reference_trial_id="float", weight_bits=8, act_bits=8)
    pets.store.write_manifest({**pets.store.read_manifest(), "plan": pets.plan})
    assert len(results.read(pets.store).trials) == 4


def test_up_to_date_tables_are_read_without_the_lock_so_a_store_may_be_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pets = Pets(tmp_path)
    results.read(pets.store)
    monkeypatch.setattr(Store, "locked_tables", lambda store: pytest.fail("it asked for the lock"))
    assert len(results.read(pets.store).trials) == 3


def test_no_store_and_damage_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no sweep \(no manifest.json\)"):
        results.read(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    pets = Pets(tmp_path / "store")
    frames = results.read(pets.store)
    Path(pets.store.location, "tables/groups.parquet").write_bytes(b"no")
    with pytest.raises(
        StoreError, match=r"groups.parquet is damaged .* Make it anew: run `python -m orchestrator report"
    ):
        _ = frames.groups
    Path(pets.store.location, "predictions/small.torch.parquet").unlink()
    with pytest.raises(
        StoreError, match=r"small.torch.parquet is missing.* Or leave its trial out: run `python -m orch"
    ):
        results.read(pets.store)


@pytest.mark.parametrize("grouping", ["sex", "label", "sex*label"])
def test_fairlearn_finds_the_accuracies_of_the_table(frames: Frames, grouping: str) -> None:
    by_group: Any = results.to_fairlearn(frames, "small", grouping=grouping).by_group
    table: Any = frames.group_metrics.query(
        f"trial_id == 'small' and grouping == {grouping!r} and metric == 'accuracy'"
    )
    assert by_group.index.names == grouping.split("*")
    groups = ["*".join(key) if isinstance(key, tuple) else key for key in by_group.index]
    of_group = table.set_index(table["group"].astype(str))
    np.testing.assert_allclose(by_group["accuracy"], of_group["value"][groups], atol=1e-12, rtol=0)
    assert by_group["count"].tolist() == of_group["n"][groups].tolist()


def test_fairlearn_takes_metrics_of_ones_own(pets: Pets) -> None:
    def recall(y_true: np.ndarray, y_pred: np.ndarray) -> float:
        return recall_score(y_true, y_pred, average="macro")

    frame = results.to_fairlearn(pets.store.location, "small", grouping="sex", metrics=recall)
    mine = (pets.splits == "test") & (pets.sex == 1)
    expected = recall(pets.labels[mine], pets.quantized[mine].argmax(1))
    assert frame.by_group["m"] == pytest.approx(expected, abs=1e-12)


def test_fairlearn_is_asked_for_where_it_is_missing(frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"`grouping` must be of \['label', 'sex'\], or of some joined by \*, got 'age'"
    ):
        results.to_fairlearn(frames, "small", grouping="sex*age")
    monkeypatch.setitem(sys.modules, "fairlearn.metrics", None)
    with pytest.raises(ModuleNotFoundError, match="fairlearn is not installed: `pip install fairlearn`"):
        results.to_fairlearn(frames, "small", grouping="sex")
