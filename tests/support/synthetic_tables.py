"""Tables as a sweep would leave them, made from simulated answers, with group names that test escaping.

Two data sets: "digits", ten classes of about 90 test images, and "faces", two classes in six unequal groups, one of
which is too small to be ranked. Every number follows from the simulated answers, so the tables agree with each other.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from quantfair.results.schema import TABLES

LONG_NAME = "A group whose name nobody shortened " * 8 + "and its end"
GROUP_NAMES = ('<b>"Ann & Bob"</b>', "Ōkami 🐺", LONG_NAME, "</script><script>alert(1)</script>", "O'Neil", "Few")
GROUP_SIZES = (420, 210, 160, 120, 90, 36)
QUANTIZED = ("ptq", "qat")
Row = dict[str, Any]


def make_tables(
    *,
    seeds: Sequence[int] = (0, 1, 2),
    bits: Sequence[int] = (16, 8, 4),
    observers: Sequence[str] = ("minmax", "ema", "percentile"),
    schemes: Sequence[str] = ("symmetric",),
    granularities: Sequence[str] = ("per_channel",),
    weight_observers: Sequence[str] = ("minmax",),
    datasets: Sequence[str] = ("digits", "faces"),
    fail_first_qat: bool = True,
) -> dict[str, pa.Table]:
    """Return every table of `results.schema.TABLES`; per data set 1 fp32, 1 fp32_ft, and ptq and qat over all axes."""
    rows: dict[str, list[Row]] = {name: [] for name in TABLES}
    grid = list(itertools.product(bits, observers, schemes, granularities, weight_observers))
    for dataset in datasets:
        _add_dataset(rows, dataset, seeds, grid)
    if fail_first_qat:
        _fail(rows, next(row["trial_id"] for row in rows["trials"] if row["method"] == "qat"))
    states = [row["status"] for row in rows["trials"]]
    counts = {"n_planned": len(states), "n_ok": states.count("ok"), "n_failed": states.count("failed"), "n_missing": 0}
    facts = {"sweep": "synthetic <sweep>", **counts, "git_commit": "0123abc", "python": "3.12.3", "torch": "2.14.1"}
    rows["provenance"] = [{"key": key, "value": str(value)} for key, value in facts.items()]
    return tables_from_rows(rows)


def tables_from_rows(rows: dict[str, list[Row]]) -> dict[str, pa.Table]:
    """Return tables with the final schemas; columns that a row lacks are null."""
    return {
        name: pa.table({c: pa.array([row.get(c) for row in rows[name]], schema.field(c).type) for c in schema.names})
        if rows[name]
        else schema.empty_table()
        for name, schema in TABLES.items()
    }


def rows_from_tables(tables: dict[str, pa.Table]) -> dict[str, list[Row]]:
    """Return the rows of tables, to be changed and put back with `tables_from_rows`."""
    return {name: table.to_pylist() for name, table in tables.items()}


def _add_dataset(rows: dict[str, list[Row]], dataset: str, seeds: Sequence[int], grid: list[tuple[Any, ...]]) -> None:
    rng = np.random.default_rng(len(dataset))
    groupings, task = _make_groupings(rng, dataset), {"digits": "digit", "faces": "gender"}[dataset]
    dataset_id = hashlib.sha256(dataset.encode()).hexdigest()[:16]
    for grouping, (names, codes) in groupings.items():
        for index, name in enumerate(names):
            n = int((codes == index).sum())
            row = {"dataset_id": dataset_id, "split": "test", "grouping": grouping, "group": name}
            rows["groups"].append({**row, "group_index": index, "n": n})
            rows["groups"].append({**row, "group_index": index, "n": 3 * n, "split": "train"})
    hardness = _make_hardness(groupings)
    identity = {"dataset_id": dataset_id, "dataset": dataset, "task": task, "model": "small_cnn"}
    for seed in seeds:
        answers: dict[str, np.ndarray] = {}
        trials = {"fp32": {**identity, "method": "fp32", "seed": seed}}
        trials["fp32_ft"] = {**identity, "method": "fp32_ft", "seed": seed}
        for settings in (_settings(method, *point) for method in QUANTIZED for point in grid):
            trials[json.dumps(settings)] = {**identity, **settings, "seed": seed}
        for trial in trials.values():
            _finish(trial)
        for key, trial in trials.items():
            right = _simulate(rng, trial, hardness, answers)
            answers[key] = right
            trial |= {"accuracy": float(right.mean()), "n_test": len(right)}
            partners = {}
            if trial["method"] != "fp32":
                trial["reference_trial_id"] = trials["fp32"]["trial_id"]
                partners["reference"] = (trials["fp32"]["trial_id"], answers["fp32"])
            if trial["method"] == "qat":
                trial["control_trial_id"] = trials["fp32_ft"]["trial_id"]
                partners["control"] = (trials["fp32_ft"]["trial_id"], answers["fp32_ft"])
            rows["trials"].append(trial)
            for grouping, (names, codes) in groupings.items():
                _add_measures(rows, trial["trial_id"], grouping, names, [right[codes == i] for i in range(len(names))])
                for comparison, (other_id, other) in partners.items():
                    keys = {"trial_id": trial["trial_id"], "comparison": comparison, "grouping": grouping}
                    _add_pairs(rows, {**keys, "other_trial_id": other_id}, names, codes, right, other)


def _make_groupings(rng: np.random.Generator, dataset: str) -> dict[str, tuple[list[str], np.ndarray]]:
    if dataset == "digits":
        labels = np.repeat(np.arange(10), [89, 91, 88, 92, 90, 91, 90, 89, 87, 90])
        classes = [str(digit) for digit in range(10)]
        return {"overall": (["all"], np.zeros_like(labels)), "label": (classes, labels)}
    people = np.repeat(np.arange(len(GROUP_SIZES)), GROUP_SIZES)
    labels = rng.integers(0, 2, len(people))
    return {
        "overall": (["all"], np.zeros_like(labels)),
        "ethnicity": (list(GROUP_NAMES), people),
        "label": (["male", "female"], labels),
    }


def _make_hardness(groupings: dict[str, tuple[list[str], np.ndarray]]) -> np.ndarray:
    """Return for each image how easily it is lost: the later the group, the harder."""
    names, codes = groupings.get("ethnicity", groupings["label"])
    return 0.5 + 1.5 * ((codes * 7) % len(names)) / len(names)


def _settings(method: str, bits: int, observer: str, scheme: str, granularity: str, weight_observer: str) -> Row:
    return {
        "method": method, "weight_bits": bits, "act_bits": bits, "act_observer": observer, "scheme": scheme,
        "granularity": granularity, "weight_observer": weight_observer,
    }  # fmt: skip


def _finish(trial: Row) -> None:
    """Fill in ids and the columns that every trial has."""
    config = {key: value for key, value in trial.items() if key != "seed"}
    trial["config_id"] = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:16]
    trial["trial_id"] = hashlib.sha256(json.dumps(trial).encode()).hexdigest()[:16]
    real = {"model": {"name": trial["model"]}, "train": {"epochs": 15}, "quant": {"method": trial["method"]}}
    trial |= {"status": "ok", "attempt": 0, "config": json.dumps(real), "total_s": 1 + trial["seed"] / 8}
    trial["base"] = "fp32" if trial["method"] == "ptq" else None
    trial["init"] = "fp32" if trial["method"] == "qat" else None


def _simulate(rng: np.random.Generator, trial: Row, hardness: np.ndarray, answers: dict[str, np.ndarray]) -> np.ndarray:
    """Return which images a trial gets right: the reference's answers, some of them turned."""
    if trial["method"] == "fp32":
        return rng.random(len(hardness)) < 1 - 0.05 * hardness
    lost = {None: 0.006, 16: 0.001, 8: 0.008, 4: 0.09}.get(trial.get("weight_bits"), 0.3)
    lost *= {"minmax": 1.4, "percentile": 0.6}.get(trial.get("act_observer", ""), 1.0)
    lost *= 0.4 if trial["method"] == "qat" else 1.0
    before, luck = answers["fp32"], rng.random(len(hardness))
    won = 0.25 if trial["method"] in ("qat", "fp32_ft") else 0.1
    return np.where(before, luck >= lost * hardness**2, luck < won)


def _add_measures(
    rows: dict[str, list[Row]], trial_id: str, grouping: str, names: list[str], right: list[np.ndarray]
) -> None:
    values = [float(answers.mean()) for answers in right]
    for name, answers, value in zip(names, right, values, strict=True):
        row = {"trial_id": trial_id, "runtime": "torch", "grouping": grouping, "group": name, "metric": "accuracy"}
        rows["group_metrics"].append({**row, "n": len(answers), "value": value, "ci_method": "wilson"})
        others = {"class": "3"}, {"runtime": "onnxruntime"}, {"metric": "confidence"}  # not for the first page
        rows["group_metrics"] += [{**row, "value": 0.123, **other} for other in others]
    gap = 100 * (max(values) - min(values)) if len(values) > 1 else None
    row = {"trial_id": trial_id, "runtime": "torch", "grouping": grouping, "metric": "acc_gap_maxmin_pp"}
    rows["disparity"].append({**row, "value": gap, "reason": None if gap is not None else "only one group"})


def _add_pairs(
    rows: dict[str, list[Row]], keys: Row, names: list[str], codes: np.ndarray, right: np.ndarray, other: np.ndarray
) -> None:
    overall = 100 * float(other.mean() - right.mean())
    drops = []
    for index, name in enumerate(names):
        mine, theirs = right[codes == index], other[codes == index]
        n, n_rw, n_wr = len(mine), int((theirs & ~mine).sum()), int((~theirs & mine).sum())
        drops.append(100 * (n_rw - n_wr) / n)
        center, half_width = _agresti_min(n, n_rw, n_wr)
        ci = {"drop_ci_low_pp": center - half_width, "drop_ci_high_pp": center + half_width}
        row = {**keys, "runtime": "torch", "group": name, "n": n, "n_rw": n_rw, "n_wr": n_wr, **ci}
        rows["paired_metrics"].append({**row, "drop_pp": drops[-1], "eag_pp": drops[-1] - overall})
    disparity = max(drops) - min(drops) if len(drops) > 1 else None
    row = {**{key: keys[key] for key in ("trial_id", "comparison", "grouping")}, "metric": "drop_disparity_pp"}
    rows["disparity"].append({**row, "runtime": "torch", "value": disparity})


def _agresti_min(n: int, n_rw: int, n_wr: int) -> tuple[float, float]:
    lost, won, total = n_rw + 0.5, n_wr + 0.5, n + 2
    center = (lost - won) / total
    return 100 * center, 196 * math.sqrt((lost + won) / total - center**2) / math.sqrt(total)


def _fail(rows: dict[str, list[Row]], trial_id: str) -> None:
    """Turn a finished trial into a failed one, without measures."""
    trial = next(row for row in rows["trials"] if row["trial_id"] == trial_id)
    error = "DivergedError: loss became nan at epoch 2, step 31 (first in layer '<features.3>'); lower `train.lr`"
    trial |= {"status": "failed", "error": error, "traceback": "Traceback ...", "accuracy": None, "n_test": None}
    for name in ("group_metrics", "paired_metrics", "disparity"):
        rows[name] = [row for row in rows[name] if row["trial_id"] != trial_id]


def trial_rows(tables: dict[str, pa.Table]) -> Iterator[Row]:
    """Yield the rows of the table `trials`."""
    yield from tables["trials"].to_pylist()
