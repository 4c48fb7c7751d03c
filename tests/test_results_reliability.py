"""The table `reliability`: against sklearn's calibration curve, and intervals that hold though seeds share images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imported_sweep import Pets
from measured_trials import make_outcomes, make_test_set
from scipy.special import expit, ndtr
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from quantfair.results import build_tables, import_predictions, make_predictions
from quantfair.results.schema import RELIABILITY
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import Certainty
from quantfair.results.tables.groups import find_bins
from quantfair.results.tables.reliability import Reliability

Draw = tuple[np.ndarray, np.ndarray]  # confidence and right, N


def pool(seeds: list[Draw], codes_N: np.ndarray, n_groups: int) -> Any:
    """The rows of one configuration, grouped by `codes_N`."""
    labels = np.arange(len(codes_N)) % 2
    test_set = make_test_set(labels, {"group": ([str(group) for group in range(n_groups)], codes_N)})
    rows, trials = TableBuilder(RELIABILITY), [{"trial_id": f"{seed}", "config_id": "c"} for seed in range(len(seeds))]
    reliability = Reliability(test_set, trials)
    for trial, (confidence, right) in zip(trials, seeds, strict=True):
        outcomes = make_outcomes(trial["trial_id"], np.where(right, labels, 1 - labels), labels)
        reliability.add_trial(outcomes, Certainty(confidence, confidence, confidence))
    reliability.add_rows(rows, "torch")
    return rows.table().to_pandas()


def draw_seeds(n: int, n_seeds: int, correlation: float) -> list[Draw]:
    """Answers of models that overstate themselves by 0.1; `correlation` is that of two seeds' doubts about an image."""
    rng = np.random.default_rng(0)

    def share() -> np.ndarray:
        common, own = rng.normal(size=(n, 1)), rng.normal(size=(n, n_seeds))
        return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own

    confidence = 0.5 + 0.5 * expit(1.5 * share())
    return list(zip(confidence.T, (ndtr(share()) < confidence - 0.1).T, strict=True))


def test_curves_are_those_of_sklearn_over_the_images_of_all_seeds() -> None:
    rng = np.random.default_rng(1)
    codes, seeds = rng.choice(3, 900, p=[0.6, 0.3, 0.1]), draw_seeds(900, 3, 0.7)
    rows = pool(seeds, codes, 3)
    for group, here in [("all", codes >= 0), *((str(code), codes == code) for code in range(3))]:
        ours = rows[(rows["group"] == group) & (rows["grouping"] != "label")]
        confidence, right = (np.concatenate([seed[part][here] for seed in seeds]) for part in (0, 1))
        accuracy, mean = calibration_curve(right, confidence, n_bins=10)
        np.testing.assert_allclose(ours["accuracy"], accuracy)
        np.testing.assert_allclose(ours["confidence"], mean)
        assert ours["n"].tolist() == np.histogram(confidence, np.arange(5, 11) / 10)[0].tolist()
        assert ours["bin"].tolist() == [5, 6, 7, 8, 9]
    assert set(rows["n_seeds"]) == {3}
    assert rows["reason"].isna().all()


def test_the_interval_is_wilsons_of_one_seeds_share_of_the_images() -> None:
    (seed,) = draw_seeds(400, 1, 0)
    nobody = np.zeros(400, dtype=np.int64)
    alone, thrice = (pool([seed] * times, nobody, 1).query("grouping == 'group'") for times in (1, 3))
    for row in alone.to_dict("records"):
        expected = binomtest(round(row["accuracy"] * row["n"]), row["n"]).proportion_ci(method="wilson")
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((expected.low, expected.high))
    assert thrice["n"].tolist() == (3 * alone["n"]).tolist()
    for column in ("confidence", "accuracy", "ci_low", "ci_high"):  # what is said thrice is no better known
        np.testing.assert_allclose(thrice[column], alone[column])


@pytest.mark.parametrize("correlation", [0.3, 0.95, 1.0])
def test_intervals_hold_the_true_accuracy_of_a_bin_however_alike_seeds_are(correlation: float) -> None:
    n_draws, seeds = 400, draw_seeds(400 * 100, 3, correlation)
    rows = pool(seeds, np.repeat(np.arange(n_draws), 100), n_draws).query("grouping == 'group'")
    bins, confidence = (np.concatenate(part) for part in zip(*((find_bins(c, 10), c) for c, _ in seeds), strict=True))
    truth = {k: confidence[bins == k].mean() - 0.1 for k in range(5, 10)}
    holds = (rows["ci_low"] <= rows["bin"].map(truth)) & (rows["bin"].map(truth) <= rows["ci_high"])
    assert holds.groupby(rows["bin"]).mean().min() >= 0.92  # 0.944 in more draws, less 2 standard errors


def test_bins_own_their_lower_edge_and_the_last_one_both() -> None:
    assert find_bins(np.arange(11) / 10, 10).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert find_bins(np.arange(1, 11) / 10 - 1e-9, 10).tolist() == list(range(10))


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pets, Any, dict[str, str]]:
    """A sweep with predictions from elsewhere: seeds 1 and 2 with logits, 3 without; and others, never with."""
    pets = Pets(tmp_path_factory.mktemp("store"))
    given = [("theirs", 1, True), ("theirs", 2, True), ("theirs", 3, False), ("bare", 1, False)]
    configs = {}
    for name, seed, has_logits in given:
        data = pets.frame(logits=has_logits).to_csv(index=False).encode()
        trial_id = import_predictions(pets.store, data, source="their.csv", name=name, reference="float", seed=seed)
        configs[name] = (pets.store.read_trial(trial_id) or {})["config_id"]
    return pets, build_tables(pets.store)["reliability"].to_pandas(), configs


def test_images_of_all_bins_are_those_of_the_group_in_every_seed(imported: tuple[Pets, Any, dict[str, str]]) -> None:
    pets, rows, configs = imported
    sizes: dict[str, int] = {}
    for grouping, codes in (("sex", pets.sex), ("label", pets.labels), ("overall", 0 * pets.labels)):
        names = {"sex": ["f", "m"], "label": pets.names, "overall": ["all"]}[grouping]
        sizes |= {f"{grouping} {n}": int(((codes == k) & (pets.splits == "test")).sum()) for k, n in enumerate(names)}
    known = rows.query("grouping != 'sex*label' and n_seeds > 0")
    totals = known.groupby(["config_id", "grouping", "group"])[["n", "n_seeds"]].agg({"n": "sum", "n_seeds": "first"})
    assert len(totals) == 4 * len(sizes)
    for (config_id, grouping, group), row in totals.iterrows():
        assert row["n_seeds"] == (2 if config_id == configs["theirs"] else 1)
        assert row["n"] == sizes[f"{grouping} {group}"] * row["n_seeds"]
    assert (known["n"] > 0).all()
    assert known["confidence"].between(known["bin"] / 10, (known["bin"] + 1) / 10).all()
    assert (known["accuracy"].between(known["ci_low"], known["ci_high"]) & (known["ci_low"] < known["ci_high"])).all()


def test_without_logits_every_group_is_a_row_with_a_reason(imported: tuple[Pets, Any, dict[str, str]]) -> None:
    _, rows, configs = imported
    bare = rows[rows["config_id"] == configs["bare"]]
    assert bare.groupby("grouping")["group"].nunique().to_dict() == {"label": 3, "overall": 1, "sex": 2, "sex*label": 6}
    assert len(bare) == 12
    assert bare[["bin", "confidence", "accuracy", "ci_low", "ci_high"]].isna().to_numpy().all()
    assert set(bare["reason"]) == {"imported without logits"}
    assert (bare[["n", "n_seeds"]] == 0).to_numpy().all()


def test_a_group_without_images_is_a_row_with_a_reason() -> None:
    rows = pool(draw_seeds(60, 2, 0), np.zeros(60, dtype=np.int64), 2).query("grouping == 'group' and group == '1'")
    (row,) = rows.to_dict("records")
    assert (row["n"], row["n_seeds"], row["reason"]) == (0, 2, "no test images in this group")
    assert rows[["bin", "confidence", "accuracy", "ci_low", "ci_high"]].isna().to_numpy().all()


def test_a_deployed_runtime_has_rows_of_its_own(tmp_path: Path) -> None:
    pets = Pets(tmp_path)
    ids = np.flatnonzero(pets.splits != "train")
    table = make_predictions(
        5 * pets.quantized[ids], pets.labels[ids], trial_id="small", runtime="onnxruntime", sample_ids_N=ids,
        splits_N=pets.splits[ids], reference_logits_NK=None, keep_logits=False,
    )  # fmt: skip
    for runtime in ("onnxruntime", "onnxruntime_exact"):  # the exact one is for comparisons alone
        pets.store.write_predictions("small", runtime, table)
    pets.store.write_runtime("small", "onnxruntime", [{"session": "fast", "batch": 1, "status": "ok"}])
    rows = build_tables(pets.store)["reliability"].to_pandas().query("config_id == 'small-config' and group == 'all'")
    mean = {name: (row["confidence"] * row["n"]).sum() / 240 for name, row in rows.groupby("runtime")}
    assert list(mean) == ["onnxruntime", "torch"]
    assert mean["onnxruntime"] > mean["torch"] + 0.1  # five times the logits, the same answers
    right = {name: (row["accuracy"] * row["n"]).sum() for name, row in rows.groupby("runtime")}
    assert right["onnxruntime"] == pytest.approx(right["torch"])
