"""What tables say of deployed runtimes: against torch's own answers, the reference, the exact session; over seeds."""

from typing import Any

import numpy as np
import pytest

from quantfair.results import Store, build_tables, make_predictions, read

N, N_CLASSES = 400, 4
CODES = np.arange(N) % 3
LABELS = np.arange(N) % N_CLASSES
SEEDS = (0, 1, 2)


def logits_of(predicted_N: np.ndarray) -> np.ndarray:
    return 3.0 * np.eye(N_CLASSES)[predicted_N]


def spoil(predicted_N: np.ndarray, rows: slice) -> np.ndarray:
    """Return answers that are another class in some rows."""
    spoiled = predicted_N.copy()
    spoiled[rows] = (spoiled[rows] + 1) % N_CLASSES
    return spoiled


def write(store: Store, trial_id: str, runtime: str, predicted_N: np.ndarray) -> None:
    table = make_predictions(
        logits_of(predicted_N), LABELS, trial_id=trial_id, runtime=runtime, sample_ids_N=np.arange(N),
        splits_N=np.array(["val"] * 40 + ["test"] * (N - 40)), reference_logits_NK=None, keep_logits=False,
    )  # fmt: skip
    store.write_predictions(trial_id, runtime, table)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """fp32 and ptq of three seeds in torch; ptq in ONNX Runtime, where a third of group a changes."""
    import pyarrow as pa

    store = Store.open(str(tmp_path_factory.mktemp("deployed")))
    plan = []
    for seed in SEEDS:
        for method in ("fp32", "ptq"):
            reference = f"fp32{seed}" if method == "ptq" else None
            row = {
                "trial_id": f"{method}{seed}", "config_id": method, "method": method, "seed": seed, "dataset_id": "d",
                "dataset": "d", "task": "t", "model": "m", "reference_trial_id": reference,
                "control_trial_id": None, "config": "{}", "weight_bits": 8, "act_bits": 8,
            }  # fmt: skip
            plan.append({**row, "needs": [reference] if reference else []})
            right_N = spoil(LABELS, slice(seed, None, 20))
            write(store, row["trial_id"], "torch", right_N if method == "fp32" else spoil(right_N, slice(3, None, 40)))
            store.write_layers(row["trial_id"], [])
            store.write_trial({**row, "status": "ok", "n_test": N - 40})
        there = spoil(spoil(right_N, slice(3, None, 40)), slice(6, None, 9))  # all of the group a
        write(store, f"ptq{seed}", "onnxruntime", there)
        write(store, f"ptq{seed}", "onnxruntime_exact", spoil(right_N, slice(3, None, 40)))
        rows = [{"session": "fast", "batch": batch, "status": "ok", "p50_ms": 1.0} for batch in (1, 256)]
        store.write_runtime(f"ptq{seed}", "onnxruntime", rows)
        store.write_runtime(f"ptq{seed}", "tensorrt", [{"status": "unsupported", "reason": "no GPU"}])
    samples = {"dataset_id": ["d"] * N, "sample_id": np.arange(N), "split": ["val"] * 40 + ["test"] * (N - 40)}
    samples |= {"label": LABELS, "source": pa.nulls(N, pa.string()), "group": np.array(list("abc"))[CODES]}
    store.write_samples("d", pa.table(samples), {"label": list("wxyz"), "group": list("abc")})
    store.write_manifest(
        {"name": "s", "groupings": {"d": ["group"]}, "plan": plan, "provenance": {}, "sweep": {}, "runtimes": ["torch"]}
    )
    build_tables(store)
    return store


def table(store: Store, name: str) -> Any:
    return store.read_table(name).to_pandas()


def pairs(store: Store, comparison: str, grouping: str = "group") -> Any:
    rows = table(store, "paired_metrics")
    chosen = (rows["runtime"] == "onnxruntime") & (rows["comparison"] == comparison)
    return rows[chosen & (rows["grouping"] == grouping)].set_index(["trial_id", "group"])


@pytest.mark.parametrize("comparison", ["twin", "exact"])
def test_the_deployment_gap_of_a_group_is_the_accuracy_that_the_same_trial_has_lost_there(
    store: Store, comparison: str
) -> None:
    found = pairs(store, comparison)
    other = "torch" if comparison == "twin" else "onnxruntime_exact"
    for (trial_id, group), row in found.iterrows():
        tables = (store.read_predictions(str(trial_id), name).to_pandas() for name in (other, "onnxruntime"))
        before, after = (t[(t["split"] == "test").to_numpy() & (np.array(list("abc"))[CODES] == group)] for t in tables)
        labels = LABELS[before["sample_id"]]
        drop_pp = 100 * np.mean((before["predicted"] == labels) * 1.0 - (after["predicted"] == labels) * 1.0)
        assert row["drop_pp"] == pytest.approx(drop_pp)
        assert row["n_flip"] == (before["predicted"].to_numpy() != after["predicted"].to_numpy()).sum()
        assert row["other_trial_id"] == trial_id
        assert row["drop_ci_low_pp"] < drop_pp < row["drop_ci_high_pp"]
    assert found.xs("a", level="group")["drop_pp"].min() > 10
    assert (found.xs("b", level="group")["drop_pp"] == 0).all()


def test_a_group_that_answers_alike_has_no_gap_and_an_interval_around_it(store: Store) -> None:
    same = pairs(store, "twin").xs("b", level="group")
    assert (same["n_flip"] == 0).all()
    assert (same["drop_ci_low_pp"] < 0).all()
    assert (same["drop_ci_high_pp"] > 0).all()


def test_the_reference_of_a_deployed_trial_is_the_float_model_in_torch(store: Store) -> None:
    found = pairs(store, "reference", "overall")
    for (trial_id, _), row in found.iterrows():
        seed = str(trial_id)[-1]
        predicted = (store.read_predictions(i, r).to_pandas().query("split == 'test'") for i, r in
                     ((f"fp32{seed}", "torch"), (f"ptq{seed}", "onnxruntime")))  # fmt: skip
        accuracy = [np.mean(t["predicted"].to_numpy() == LABELS[40:]) for t in predicted]
        assert row["drop_pp"] == pytest.approx(100 * (accuracy[0] - accuracy[1]))
        assert row["other_trial_id"] == f"fp32{seed}"


def test_over_seeds_there_is_a_contrast_with_torch_and_a_verdict_of_what_is_deployed(store: Store) -> None:
    contrasts = table(store, "contrasts").query("grouping == 'group' and group == 'a'")
    gap = contrasts.query("kind == 'runtime'").iloc[0]
    assert (gap["runtime"], gap["level"], gap["other_level"], gap["n_seeds"]) == ("onnxruntime",) * 2 + ("torch", 3)
    drops = pairs(store, "twin").xs("a", level="group")["drop_pp"]
    assert gap["drop_pp"] == pytest.approx(drops.mean())
    assert gap["drop_ci_low_pp"] > 0
    both = contrasts.query("kind == 'ptq_vs_fp32'").set_index("runtime")
    assert both.loc["onnxruntime", "drop_pp"] > both.loc["torch", "drop_pp"] + 10
    verdicts = table(store, "verdicts").query("grouping == 'group' and config_id == 'ptq' and scope == 'recipe'")
    words = verdicts.set_index(["runtime", "comparison"])["word"]
    assert words["onnxruntime", "twin"] == words["onnxruntime", "reference"] == "uneven"
    assert words["torch", "reference"] != "uneven"


def test_ids_of_contrasts_are_unique_and_those_in_torch_do_not_name_it(store: Store) -> None:
    contrasts = table(store, "contrasts").query("grouping == 'overall'")
    assert contrasts["contrast_id"].is_unique
    assert set(contrasts.query("runtime == 'torch'")["contrast_id"]) == {"ptq_vs_fp32:reference:ptq:fp32"}


def test_families_of_a_deployed_runtime_are_its_own_and_know_what_is_missing(store: Store) -> None:
    families = table(store, "families").query("grouping == 'group'").set_index(["runtime", "comparison"])
    assert not families.loc[("torch", "reference"), "provisional"]
    assert not families.loc[("onnxruntime", "reference"), "provisional"]
    assert families.loc[("onnxruntime", "twin"), "provisional"]  # fp32 may still be measured there
    assert families.loc[("onnxruntime", "twin"), "n_tests"] == 3, "three models changed one group each"


def test_rows_of_runtimes_stand_behind_those_of_torch(store: Store) -> None:
    runtimes = table(store, "runtimes")
    assert runtimes["runtime"].tolist() == ["torch"] * 6 + ["onnxruntime", "onnxruntime", "tensorrt"] * 3
    assert runtimes.query("runtime == 'tensorrt'")["reason"].tolist() == ["no GPU"] * 3


def test_a_notebook_reads_them(store: Store) -> None:
    frames: Any = read(store)
    assert len(frames.predictions("ptq0", "onnxruntime")) == N - 40
    assert set(frames.runtimes["runtime"]) == {"torch", "onnxruntime", "tensorrt"}


def test_accuracy_of_groups_is_given_in_each_runtime(store: Store) -> None:
    metrics = table(store, "group_metrics")
    chosen = metrics.query("trial_id == 'ptq0' and grouping == 'group' and group == 'a' and metric == 'accuracy'")
    values = chosen[chosen["class"].isna()].set_index("runtime")["value"]
    assert values["onnxruntime"] < values["torch"] - 0.1
    assert "onnxruntime_exact" not in set(metrics["runtime"])


def test_the_disparity_of_a_deployed_trial_is_of_the_side_that_is_compared(store: Store) -> None:
    disparity = table(store, "disparity").query("runtime == 'onnxruntime' and grouping == 'group'")
    for comparison in ("twin", "reference", "exact"):
        drops = pairs(store, comparison)["drop_pp"].groupby("trial_id")
        chosen = disparity.query("metric == 'drop_disparity_pp' and comparison == @comparison").set_index("trial_id")
        assert chosen["value"].to_dict() == pytest.approx((drops.max() - drops.min()).to_dict())
        assert (chosen["null_p"] < 0.05).all()
