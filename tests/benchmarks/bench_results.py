"""Cost of `build_tables`: seconds and peak memory, for synthetic predictions of 10,000 test images.

One data set of ten classes; `overall` and 4 groupings with 30 groups in all. Like a real sweep the plan has 3 seeds,
each with one float model and its control, and PTQ and QAT over bits, observers and schemes; a quantized trial differs
from its reference in 0.1 % (16 bits) to 10 % of the images (2 bits). Half of the trials, QAT, have a control: 1.5 pairs
a trial. `python tests/benchmarks/bench_results.py 1000 10000` are the trials and the images of the target.

Also the statistics of one trial's groups, with intervals, against fairlearn's bootstrapped MetricFrame of 100
resamples: taken in turn, as a ratio. One JSON document comes last.
"""

import json
import os
import resource
import sys
import tempfile
import time
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score

from quantfair.results import Store, build_tables
from quantfair.results.schema import GROUP_METRICS, PREDICTIONS
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.answers import read_outcomes
from quantfair.results.tables.groupings import make_test_set
from quantfair.results.tables.groups import add_group_metrics

CLASSES, SEEDS = 10, 3
ATTRIBUTES = {"ethnicity": 6, "gender": 2}
GROUPINGS = ["ethnicity", "gender", "ethnicity*gender"]  # with `label` 4 groupings and 30 groups
FLIPS = {16: 0.001, 8: 0.003, 6: 0.01, 4: 0.03, 3: 0.06, 2: 0.1}  # of the images, by bits
AXES = {
    "bits": list(FLIPS),
    "act_observer": ["minmax", "ema", "percentile", "mse"],
    "weight_observer": ["minmax", "percentile", "mse"],
    "scheme": ["symmetric", "asymmetric"],
    "granularity": ["per_channel", "per_tensor"],
}


def plan_trials(n_trials: int) -> list[dict[str, Any]]:
    """The rows of `trials` of as many trials, known before they run, seed by seed."""
    plan: list[dict[str, Any]] = []
    for seed in range(SEEDS):
        float_ids = [f"{seed:08x}{place:08x}" for place in range(2)]
        for place in range(n_trials // SEEDS):
            row: dict[str, Any] = {"seed": seed, "dataset_id": "d", "dataset": "bench", "task": "digit"}
            row |= {
                "model": "small_cnn",
                "needs": [],
                "trial_id": f"{seed:08x}{place:08x}",
                "config_id": f"{place:016x}",
            }
            method = ("fp32", "fp32_ft")[place] if place < 2 else ("ptq", "qat")[place % 2]
            settings = choose_settings(place // 2) if place >= 2 else {}
            row |= {"method": method, **settings, "reference_trial_id": float_ids[0] if place else None}
            row["control_trial_id"] = float_ids[1] if method == "qat" else None
            config = {"model": {"name": "small_cnn"}, "train": {"epochs": 15}, "quant": {"method": method, **settings}}
            plan.append({**row, "config": json.dumps(config)})
    return plan


def choose_settings(index: int) -> dict[str, Any]:
    """One point of the axes; the bits vary fastest."""
    points = list(product(*reversed(AXES.values())))
    point = dict(zip(reversed(AXES), points[index % len(points)], strict=True))
    bits = point.pop("bits")
    return {"weight_bits": bits, "act_bits": bits, **point}


def write_samples(store: Store, n_images: int, rng: np.random.Generator) -> np.ndarray:
    """Describe as many test images and a tenth of val images, uneven groups among them; return the labels of all."""
    names = {"label": [str(k) for k in range(CLASSES)]}
    names |= {attribute: [f"{attribute}{g}" for g in range(n)] for attribute, n in ATTRIBUTES.items()}
    split_N = np.repeat(["test", "val"], [n_images, n_images // 10])
    labels_N = rng.integers(0, CLASSES, len(split_N))
    columns: dict[str, Any] = {
        "dataset_id": pa.repeat("d", len(split_N)),
        "sample_id": np.arange(len(split_N)),
        "split": split_N,
        "label": labels_N,
        "source": pa.nulls(len(split_N), pa.string()),
    }
    for attribute, n in ATTRIBUTES.items():
        shares = 1 / np.arange(1, n + 1)
        columns[attribute] = np.array(names[attribute])[rng.choice(n, len(split_N), p=shares / shares.sum())]
    store.write_samples("d", pa.table(columns), names)
    return labels_N


def simulate(
    row: dict[str, Any], reference: dict[str, np.ndarray] | None, labels_N: np.ndarray
) -> dict[str, np.ndarray]:
    """Return predictions and losses: those of a float model, or a reference's with some images changed."""
    rng = np.random.default_rng(int(row["trial_id"], 16))
    if reference is None:
        wrong_N, loss_N = rng.random(len(labels_N)) < 0.1, rng.exponential(0.3, len(labels_N))
        return {
            "predicted": (labels_N + wrong_N * rng.integers(1, CLASSES, len(labels_N))) % CLASSES,
            "loss_nats": loss_N,
        }
    flips = FLIPS[row["weight_bits"]] if "weight_bits" in row else 0.005
    changed_N = rng.random(len(labels_N)) < flips * 2 * rng.random()
    predicted_N = np.where(changed_N, rng.integers(0, CLASSES, len(labels_N)), reference["predicted"])
    noise_N = rng.exponential(flips, len(labels_N))
    return {"predicted": predicted_N, "loss_nats": reference["loss_nats"] + noise_N + changed_N}


def write_trial(store: Store, row: dict[str, Any], answers: dict[str, np.ndarray], n_images: int) -> None:
    """Write the predictions, the layers and the row of one trial; float models keep their logits."""
    predicted_N, n = answers["predicted"], len(answers["predicted"])
    rng = np.random.default_rng(n)
    keeps_logits = row["method"] in ("fp32", "fp32_ft")
    columns: dict[str, Any] = {
        "trial_id": pa.repeat(row["trial_id"], n),
        "runtime": pa.repeat("torch", n),
        "sample_id": np.arange(n),
        "split": np.repeat(["test", "val"], [n_images, n - n_images]),
        "predicted": predicted_N,
        "predicted_refit": predicted_N,
        "loss_nats": answers["loss_nats"],
        "confidence": rng.random(n),
        "margin": rng.random(n),
        "entropy_nats": rng.exponential(0.3, n),
        "kl_nats": rng.exponential(0.01, n) if row["reference_trial_id"] else pa.nulls(n),
        "logits": list(rng.normal(size=(n, CLASSES)).astype(np.float16)) if keeps_logits else pa.nulls(n),
    }
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in PREDICTIONS]
    store.write_predictions(row["trial_id"], "torch", pa.Table.from_arrays(arrays, schema=PREDICTIONS))
    store.write_layers(row["trial_id"], [{"trial_id": row["trial_id"], "layer": "fc"}])
    store.write_trial({**{k: v for k, v in row.items() if k != "needs"}, "status": "ok", "n_test": n_images})


def fill(store: Store, n_trials: int, n_images: int) -> None:
    """Write a finished sweep."""
    plan = plan_trials(n_trials)
    store.write_manifest({"name": "bench", "groupings": {"d": GROUPINGS}, "plan": plan, "provenance": {}})
    labels_N = write_samples(store, n_images, np.random.default_rng(0))
    kept: dict[str, dict[str, np.ndarray]] = {}
    for row in plan:
        answers = simulate(row, kept.get(row["reference_trial_id"]), labels_N)
        if row["method"] == "fp32":
            kept[row["trial_id"]] = answers
        write_trial(store, row, answers, n_images)


def compare_with_fairlearn(store: Store) -> dict[str, Any]:
    """Time one trial's group statistics, all groupings, against fairlearn's accuracy in one of them, in turn."""
    table, attributes = store.read_samples("d")
    test_set = make_test_set("d", table, attributes, GROUPINGS)
    outcomes, certainty = read_outcomes(store, plan_trials(SEEDS * 3)[2]["trial_id"], "torch", test_set)
    grouping = test_set.grouping("ethnicity")

    def ours() -> None:
        add_group_metrics(outcomes, certainty, test_set, TableBuilder(GROUP_METRICS))

    def theirs() -> None:
        MetricFrame(
            metrics=accuracy_score,
            y_true=test_set.labels_N,
            y_pred=outcomes.predicted_N,
            sensitive_features=grouping.test_N,
            n_boot=100,
            ci_quantiles=[0.025, 0.975],
            random_state=0,
        )

    seconds = {name: [] for name in ("ours", "theirs")}
    for _ in range(3):
        for name, run in (("ours", ours), ("theirs", theirs)):
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    ours_s, theirs_s = (float(np.median(seconds[name])) for name in ("ours", "theirs"))
    return {
        "ours_ms": round(1e3 * ours_s, 2),
        "fairlearn_ms": round(1e3 * theirs_s, 1),
        "ratio": round(theirs_s / ours_s),
    }


def main(n_trials: int, n_images: int) -> None:
    """Fill a store, build its tables once, and print what that took."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        fill(store, n_trials, n_images)
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        tables = build_tables(store)
        seconds = time.perf_counter() - started
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        fairlearn = compare_with_fairlearn(store)
    n_trials = tables["trials"].num_rows
    result = {
        "n_trials": n_trials,
        "n_images": n_images,
        "n_groups": tables["groups"]["split"].to_pylist().count("test") - 1,
        "total_s": round(seconds, 2),
        "per_trial_ms": round(1e3 * seconds / n_trials, 2),
        "for_1000_trials_s": round(1e3 * seconds / n_trials, 1),
        "peak_mib": peak_kib // 1024,
        "peak_before_mib": before_kib // 1024,
        "one_trial_against_fairlearn": fairlearn,
        "rows": {name: table.num_rows for name, table in tables.items()},
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    trials, images = (int(argument) for argument in (sys.argv[1:] or ["100", "10000"]))
    main(trials, images)
