"""What the reference says of a group beside what the group loses: planted orders are found, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from quantfair.results import Store, build_tables, make_predictions
from quantfair.results.tables.mechanism import build_correlations

GROUPS, N_OF_GROUP = list("abcdef"), 80
N = len(GROUPS) * N_OF_GROUP
spearman: Any = stats.spearmanr


def fill(folder: Path, *, lost: list[int], curvature: list[float] | None, seeds: int = 2) -> dict[str, Any]:
    """A sweep whose PTQ trials lose so many images of each group; returns its tables as frames."""
    store, labels = Store.open(str(folder)), np.zeros(N, dtype=int)
    groups = np.repeat(np.arange(len(GROUPS)), N_OF_GROUP)
    columns = {"dataset_id": ["d"] * N, "sample_id": np.arange(N), "split": ["test"] * N, "label": labels}
    columns |= {"source": pa.nulls(N, pa.string()), "team": np.array(GROUPS)[groups]}
    store.write_samples("d", pa.table(columns), {"label": ["x", "y"], "team": GROUPS})
    plan = []
    for seed in range(seeds):
        reference, ptq = f"fp32-{seed}", f"ptq-{seed}"
        right = np.tile(np.array([[2.0, 0.0]], dtype=np.float32), (N, 1)) + groups[:, None] * [[0.5, 0]]
        wrong = right.copy()
        for group, n in enumerate(lost):
            hit = np.flatnonzero(groups == group)[:n]
            wrong[hit] = [[0, 5]]
        for trial_id, method, logits in ((reference, "fp32", right), (ptq, "ptq", wrong)):
            row = {"trial_id": trial_id, "config_id": method, "method": method, "dataset_id": "d", "seed": seed}
            row |= {"reference_trial_id": reference if method == "ptq" else None, "control_trial_id": None}
            plan.append({**row, "needs": []})
            predictions = make_predictions(
                logits, labels, trial_id=trial_id, runtime="torch", sample_ids_N=np.arange(N),
                splits_N=np.array(["test"] * N), reference_logits_NK=right, keep_logits=False,
            )  # fmt: skip
            store.write_predictions(trial_id, "torch", predictions)
            store.write_layers(trial_id, [])
            store.write_trial({**row, "status": "ok"})
        if curvature is not None:
            key = {"trial_id": reference, "grouping": "team", "split": "train", "statistic": "grad_norm", "n": 9}
            values = zip(GROUPS, curvature, strict=True)
            store.write_mechanism(reference, [{**key, "group": group, "value": value} for group, value in values])
    store.write_manifest(
        {"name": "why", "runtimes": ["torch"], "groupings": {"d": ["team"]}, "plan": plan, "provenance": {}}
    )
    return {name: table.to_pandas() for name, table in build_tables(store).items()}


def test_a_planted_order_is_found_with_its_exact_p(tmp_path: Path) -> None:
    lost, curvature = [1, 5, 3, 9, 12, 20], [0.1, 0.3, 0.2, 0.4, 0.5, 0.9]
    correlations = fill(tmp_path, lost=lost, curvature=curvature)["correlations"]
    rows = correlations.query("grouping == 'team' and outcome == 'drop_pp'").set_index("statistic")
    assert (rows["n_groups"] == 6).all()
    assert (rows["n_seeds"] == 2).all()
    assert rows.loc["grad_norm", ["rho", "p"]].tolist() == pytest.approx([1, 2 / 720])
    assert rows.loc["margin", "rho"] == pytest.approx(spearman(lost, range(6)).statistic)
    assert rows.loc["hessian_trace", "reason"] == "not measured: `analysis` did not name curvature when the trial ran"
    assert rows.loc["accuracy", "reason"] == "accuracy is the same in every group"


def test_without_a_loss_there_is_no_correlation(tmp_path: Path) -> None:
    correlations = fill(tmp_path, lost=[0] * 6, curvature=None)["correlations"]
    assert correlations["rho"].isna().all()
    margins = correlations.query("grouping == 'team' and statistic == 'margin'")
    assert set(margins["reason"]) == {"drop_pp is the same in every group", "flip_rate is the same in every group"}


def test_classes_of_which_only_two_are_there_are_too_few(tmp_path: Path) -> None:
    correlations = fill(tmp_path, lost=[1, 2, 3, 4, 5, 6], curvature=None)["correlations"]
    reasons = correlations.query("grouping == 'label'")["reason"]
    assert set(reasons) == {"fewer than 5 groups with 50 test images"}


def test_the_mechanism_of_a_reference_is_its_measures_margin_accuracy_and_size(tmp_path: Path) -> None:
    mechanism = fill(tmp_path, lost=[1] * 6, curvature=[1, 2, 3, 4, 5, 6], seeds=1)["mechanism"]
    team = mechanism.query("grouping == 'team'")
    assert set(team["trial_id"]) == {"fp32-0"}
    wide = team.pivot_table(index="group", columns="statistic", values="value")
    assert wide["grad_norm"].tolist() == [1, 2, 3, 4, 5, 6]
    assert wide["margin"].tolist() == pytest.approx([2 + 0.5 * group for group in range(6)])
    assert (wide["accuracy"] == 1).all()
    assert (wide["n_train"] == 0).all()


def test_a_reference_that_measured_no_curvature_says_so(tmp_path: Path) -> None:
    mechanism = fill(tmp_path, lost=[1] * 6, curvature=None, seeds=1)["mechanism"]
    reasons = mechanism[mechanism["statistic"].isna()]["reason"].tolist()
    assert reasons == ["not measured: `analysis` did not name curvature when the trial ran"]


def test_a_statistic_that_one_seed_or_group_lacks_is_not_correlated(tmp_path: Path) -> None:
    fill(tmp_path, lost=[1, 5, 3, 9, 12, 20], curvature=[0.1, 0.3, 0.2, 0.4, 0.5, 0.9])
    store = Store.open(str(tmp_path))

    def find_reasons() -> set[str]:
        rows = build_tables(store)["correlations"].to_pandas()
        return set(rows.query("grouping == 'team' and statistic == 'grad_norm'")["reason"])

    kept = store.read_mechanism("fp32-1")
    assert kept is not None
    store.write_mechanism("fp32-1", kept.to_pylist()[:5])
    assert find_reasons() == {"grad_norm is not known of every group and seed"}
    (tmp_path / "mechanism" / "fp32-1.parquet").unlink()
    assert find_reasons() == {"not measured: `analysis` did not name curvature when the trial ran"}


def test_a_thousand_configurations_are_correlated_as_one_is(tmp_path: Path) -> None:
    correlations = fill(tmp_path, lost=[1, 5, 3, 9, 12, 20], curvature=[0.1, 0.3, 0.2, 0.4, 0.5, 0.9])
    names = ("trials", "paired_metrics", "mechanism")
    trials, pairs, mechanism = (Store.open(str(tmp_path)).read_table(name) for name in names)

    def rename(table: pa.Table, column: str, copy: int) -> pa.Table:
        words = pa.array([f"{word}-{copy}" for word in table[column].to_pylist()])
        return table.set_column(table.column_names.index(column), column, words)

    many = [rename(rename(trials, "trial_id", copy), "config_id", copy) for copy in range(500)]
    paired = [rename(pairs, "trial_id", copy) for copy in range(500)]
    found = build_correlations(pa.concat_tables(many), pa.concat_tables(paired), mechanism).to_pandas()
    once = correlations["correlations"]
    assert len(found) == 500 * len(once)
    assert found["rho"].tolist() == pytest.approx(once["rho"].tolist() * 500, nan_ok=True)
    assert found["p"].tolist() == pytest.approx(once["p"].tolist() * 500, nan_ok=True)
