"""Contrasts pair the right trials of real plans: by comparison, like for like, one setting apart, over shared seeds."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from quantfair.orchestrator.config.spec import parse_sweep
from quantfair.orchestrator.planning.plan import make_plan
from quantfair.results.configurations import find_configs
from quantfair.results.contrasts.pairing import NO_SEED, ONE_SEED, Contrast, find_contrasts

DATASET = {"name": "digits", "task": "digit", "test_share": 0.5}
PTQ = {"method": "ptq", "bits": 8}
QAT = {"method": "qat", "bits": 8, "epochs": 2, "lr": 0.001}


def rows_of(quant: Sequence[dict[str, Any]], *, dataset: dict[str, Any] | None = None, seeds: Any = (0, 1)) -> Any:
    """The rows of a plan, as if all trials had finished; each data set has an id of its own."""
    experiment = {"dataset": {**DATASET, **(dataset or {})}, "model": {"name": "small_cnn"}}
    experiment["train"] = {"epochs": 3, "lr": 0.003}
    sweep = parse_sweep({"name": "s", "seeds": list(seeds), "experiments": [experiment], "quant": list(quant)})
    ids = {one.dataset: f"data {index}" for index, one in enumerate(sweep.experiments)}
    return [trial.columns() for trial in make_plan(sweep, ids)]


def contrasts_of(rows: Any, kind: str | None = None) -> list[Contrast]:
    found = find_contrasts(find_configs(rows))
    return [contrast for contrast in found if kind in (None, contrast.kind)]


def sides(rows: Any, contrast: Contrast, *names: str) -> list[tuple[Any, ...]]:
    """For each match these columns of the trial, then of the other one."""
    by_id = {row["trial_id"]: row for row in rows}
    return [tuple(by_id[trial_id][name] for trial_id in match for name in names) for match in contrast.matches]


def test_every_trial_is_set_against_its_own_reference_and_its_own_control() -> None:
    rows = rows_of([PTQ, QAT])
    by_id = {row["trial_id"]: row for row in rows}
    found = [contrast for contrast in contrasts_of(rows) if contrast.is_comparison]
    kinds = {(contrast.kind, contrast.comparison) for contrast in found}
    assert kinds == {
        *(("ptq_vs_fp32", "reference"), ("qat_vs_fp32", "reference")),
        *(("qat_vs_control", "control"), ("control_vs_fp32", "reference")),
    }
    for contrast in found:
        assert contrast.seeds == (0, 1)
        for match in contrast.matches:
            assert match.other_id == by_id[match.trial_id][f"{contrast.comparison}_trial_id"]


def test_qat_from_scratch_and_ptq_of_the_control_have_kinds_of_their_own() -> None:
    rows = rows_of([{**PTQ, "base": "fp32_ft", "epochs": 2, "lr": 0.001}, {"method": "qat", "init": "scratch"}])
    kinds = {(contrast.kind, contrast.comparison) for contrast in contrasts_of(rows) if contrast.is_comparison}
    assert ("ptq_vs_control", "reference") in kinds
    assert {("scratch_vs_fp32", "reference"), ("scratch_vs_fp32", "control")} <= kinds


def test_qat_is_set_against_ptq_of_its_control_only_where_every_shared_setting_is_equal() -> None:
    based = {"base": "fp32_ft", "epochs": 2, "lr": 0.001}
    alike = {"bn_fold": "none", "act_observer": "minmax"}
    rows = rows_of([
        {"method": "ptq", "bits": [8, 4], **alike, **based},
        {"method": "ptq", "bits": 8, "bn_fold": "fold", "act_observer": "minmax", **based},
        {"method": "ptq", "bits": 8, **alike, **{**based, "epochs": 1}},
        {"method": "ptq", "bits": 8, **alike},
        {"method": "qat", "bits": [8, 4], **alike, "epochs": 2, "lr": 0.001},
    ])  # fmt: skip
    found = contrasts_of(rows, "qat_vs_ptq")
    assert len(found) == 2
    for contrast in found:
        for one in sides(rows, contrast, "method", "weight_bits", "act_bits", "bn_fold", "act_observer", "seed"):
            assert one[0] == "qat"
            assert one[6] == "ptq"
            assert one[1:6] == one[7:]
        controls = sides(rows, contrast, "control_trial_id", "reference_trial_id")
        assert all(one[0] == one[3] for one in controls)
    assert not contrasts_of(rows_of([{**PTQ, **based}, QAT]), "qat_vs_ptq")


def test_bits_are_adjacent_levels_falling() -> None:
    rows = rows_of([{"method": "ptq", "bits": [4, 16, 8], "act_observer": ["minmax", "ema"]}])
    found = contrasts_of(rows, "bits")
    assert sorted((c.level, c.other_level) for c in found) == [("4", "8")] * 2 + [("8", "16")] * 2
    for contrast in found:
        for one in sides(rows, contrast, "act_observer", "seed"):
            assert one[:2] == one[2:]
    apart = contrasts_of(rows_of([{"method": "ptq", "weight_bits": [8, 4], "act_bits": [8, 4]}]))
    levels = {(c.kind, c.level, c.other_level) for c in apart if "bits" in c.kind}
    assert levels == {("bits", "4", "8"), ("weight_bits", "4", "8"), ("act_bits", "4", "8")}
    assert sum(c.kind == "weight_bits" for c in apart) == 2


@pytest.mark.parametrize(
    ("setting", "values", "levels"),
    [
        ("scheme", ["asymmetric", "symmetric"], {("asymmetric", "symmetric")}),
        ("granularity", ["per_channel", "per_tensor"], {("per_tensor", "per_channel")}),
        ("act_observer", ["ema", "minmax", "mse"], {("ema", "minmax"), ("mse", "minmax")}),
        ("act_observer", ["ema", "mse"], {("mse", "ema")}),
        ("weight_observer", ["minmax", "mse"], {("mse", "minmax")}),
        ("bn_fold", ["none", "fold"], {("none", "fold")}),
        ("act_signed", ["always", "auto"], {("always", "auto")}),
        ("rounding", ["nearest", "adaround"], {("adaround", "default")}),
        ("bias_correction", [True, False], {("true", "default")}),
        ("calib_images", [64, 1024, 256], {("64", "default"), ("256", "default")}),
    ],
)
def test_one_setting_apart_each_value_is_set_against_the_default_or_else_the_first(
    setting: str, values: list[Any], levels: set[tuple[str, str]]
) -> None:
    rows = rows_of([{"method": "ptq", "bits": [8, 4], setting: values}])
    found = [c for c in contrasts_of(rows) if not c.is_comparison and c.kind != "bits"]
    assert {c.kind for c in found} == {setting}
    assert {(c.level, c.other_level) for c in found} == levels
    assert len(found) == 2 * len(levels)
    for contrast in found:
        for one in sides(rows, contrast, "weight_bits", "seed"):
            assert one[:2] == one[2:]


def test_seeds_of_calibration_are_no_levels() -> None:
    assert all(c.is_comparison for c in contrasts_of(rows_of([{**PTQ, "calib_seed": [0, 1, 2]}])))


def test_imbalanced_data_are_set_against_balanced_data_of_equal_size_for_each_comparison() -> None:
    dataset = {"train_size": 400, "imbalance": ["none", "longtail:10"], "task": "digit"}
    rows = rows_of([PTQ, QAT], dataset=dataset)
    by_id = {row["trial_id"]: row for row in rows}
    found = contrasts_of(rows, "data")
    assert {(by_id[c.matches[0].trial_id]["method"], c.comparison) for c in found} == {
        *(("ptq", "reference"), ("qat", "reference"), ("qat", "control"), ("fp32_ft", "reference")),
    }
    for contrast in found:
        assert (contrast.level, contrast.other_level) == ("longtail:10 by label", "none")
        for match, subtracted in zip(contrast.matches, contrast.subtracted, strict=True):
            imbalanced, balanced = by_id[match.trial_id], by_id[subtracted.trial_id]
            assert (imbalanced["imbalance"], balanced["imbalance"]) == ("longtail:10", "none")
            assert imbalanced["seed"] == balanced["seed"]
            assert match.other_id == imbalanced[f"{contrast.comparison}_trial_id"]
            assert subtracted.other_id == balanced[f"{contrast.comparison}_trial_id"]
    unequal = rows_of([PTQ], dataset={**dataset, "imbalance": "none", "train_size": [400, 500]})
    assert not contrasts_of(unequal, "data")


def test_equal_shares_are_the_balanced_data_where_the_sweep_has_them() -> None:
    mixtures = ["none", "shares:0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1", "longtail:10"]
    dataset = {"train_size": 400, "imbalance": mixtures, "task": "digit"}
    found = contrasts_of(rows_of([PTQ], dataset=dataset), "data")
    assert {(c.level, c.other_level) for c in found} == {
        ("none", f"{mixtures[1]} by label"),
        ("longtail:10 by label", f"{mixtures[1]} by label"),
    }


def test_predictions_from_elsewhere_are_set_against_those_of_their_own_name_and_kind_of_reference() -> None:
    rows = rows_of([PTQ, QAT], dataset={"train_size": 400, "imbalance": ["none", "longtail:10"]})
    floats = [row for row in rows if row["method"] in ("fp32", "fp32_ft")]
    for parent in floats:
        known = {part: json.loads(parent["config"])[part] for part in ("dataset", "model", "train")}
        for name in ("theirs", "others"):
            config = json.dumps({**known, "imported": {"name": name, "file": "x.csv"}})
            own = {"trial_id": f"{name} {parent['trial_id']}", "config_id": f"{name} {parent['config_id']}"}
            shared = {column: parent[column] for column in ("dataset_id", "task", "seed", "imbalance")}
            links = {"reference_trial_id": parent["trial_id"], "control_trial_id": None}
            rows.append({**own, **shared, **links, "method": "imported", "config": config})
    by_id = {row["trial_id"]: row for row in rows}
    imported = [c for c in contrasts_of(rows, "data") if by_id[c.matches[0].trial_id]["method"] == "imported"]
    assert len(imported) == 4  # two names, of fp32 and of the control
    for contrast in imported:
        assert (contrast.level, contrast.other_level) == ("longtail:10 by label", "none")
        for match, subtracted in zip(contrast.matches, contrast.subtracted, strict=True):
            assert match.trial_id.split()[0] == subtracted.trial_id.split()[0]
            assert by_id[match.other_id]["method"] == by_id[subtracted.other_id]["method"]


def test_scratch_is_set_against_float_models_of_other_seeds_beside_their_own_churn() -> None:
    rows = rows_of([{"method": "qat", "init": "scratch"}], seeds=(0, 1, 2))
    by_id = {row["trial_id"]: row for row in rows}
    (contrast,) = contrasts_of(rows, "scratch_vs_churn")
    flips = [(by_id[m.trial_id]["init"], by_id[m.other_id]["method"]) for m in contrast.flips]
    assert flips == [("scratch", "fp32")] * 6
    assert all(by_id[m.trial_id]["seed"] != by_id[m.other_id]["seed"] for m in (*contrast.flips, *contrast.churn))
    assert {by_id[trial_id]["method"] for match in contrast.churn for trial_id in match} == {"fp32"}
    assert len(contrast.churn) == 3
    (alone,) = contrasts_of(rows_of([{"method": "qat", "init": "scratch"}], seeds=[0]), "scratch_vs_churn")
    assert (alone.seeds, alone.reason) == ((), ONE_SEED)


def test_a_trial_that_is_missing_drops_its_seed_on_both_sides_and_a_contrast_without_seeds_says_so() -> None:
    rows = rows_of([{"method": "ptq", "bits": [8, 4]}], seeds=(0, 1, 2))
    lost = next(row for row in rows if row["weight_bits"] == 4 and row["seed"] == 1)
    found = contrasts_of([row for row in rows if row is not lost])
    assert {c.kind: c.seeds for c in found if c.config_id == lost["config_id"]} == {
        "ptq_vs_fp32": (0, 2), "bits": (0, 2),
    }  # fmt: skip
    (orphan,) = contrasts_of([lost])
    assert (orphan.seeds, orphan.other_config_id, orphan.reason) == ((), None, NO_SEED)
    reduced = [row for row in rows if row["seed"] == (2 if row["weight_bits"] == 4 else 1)]
    (bits,) = contrasts_of(reduced, "bits")
    assert (bits.seeds, bits.reason) == ((), NO_SEED)


def test_rows_without_a_configuration_are_in_no_contrast() -> None:
    assert not contrasts_of([{**row, "config_id": None} for row in rows_of([PTQ])])
