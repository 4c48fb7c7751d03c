"""Cost of `build_tables`: seconds a trial and peak memory, for synthetic predictions of 10,000 test images.

One data set, 4 groupings besides `overall` and `label` (46 groups in all), ten classes; one float trial in ten, the
others compared with it and every other one with a control too. One JSON document comes last.
"""

import json
import os
import resource
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa

from results import Store, build_tables
from results.schema import PREDICTIONS

CLASSES, FAMILY = 10, 10  # a family: one fp32, one fp32_ft, and eight that are compared with them
ATTRIBUTES = {"ethnicity": 5, "gender": 2, "age_bin": 9}
GROUPINGS = ["ethnicity", "gender", "age_bin", "ethnicity*gender"]


def write_samples(store: Store, n_images: int, rng: np.random.Generator) -> np.ndarray:
    """Describe as many test images, uneven groups among them; return their labels."""
    names = {"label": [str(k) for k in range(CLASSES)]}
    names |= {attribute: [f"{attribute}{g}" for g in range(n)] for attribute, n in ATTRIBUTES.items()}
    labels_N = rng.integers(0, CLASSES, n_images)
    columns: dict[str, Any] = {
        "dataset_id": pa.repeat("d", n_images),
        "sample_id": np.arange(n_images),
        "split": pa.repeat("test", n_images),
        "label": labels_N,
        "source": pa.nulls(n_images, pa.string()),
    }
    for attribute, n in ATTRIBUTES.items():
        shares = 1 / np.arange(1, n + 1)
        columns[attribute] = np.array(names[attribute])[rng.choice(n, n_images, p=shares / shares.sum())]
    store.write_samples("d", pa.table(columns), names)
    return labels_N


def write_trial(store: Store, planned: dict[str, Any], labels_N: np.ndarray, rng: np.random.Generator) -> None:
    """Write the predictions, 90 % of them right, the layers and the row of one trial."""
    n_images = len(labels_N)
    wrong_N = rng.random(n_images) < 0.1
    floats = {f"{name}_nats": rng.exponential(0.3, n_images) for name in ("loss", "entropy", "kl")}
    columns: dict[str, Any] = {
        "trial_id": pa.repeat(planned["trial_id"], n_images),
        "runtime": pa.repeat("torch", n_images),
        "sample_id": np.arange(n_images),
        "split": pa.repeat("test", n_images),
        "predicted": (labels_N + wrong_N) % CLASSES,
        "predicted_refit": (labels_N + wrong_N * (rng.random(n_images) < 0.9)) % CLASSES,
        "confidence": rng.random(n_images),
        "margin": rng.random(n_images),
        "logits": pa.nulls(n_images),
        **floats,
    }
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in PREDICTIONS]
    store.write_predictions(planned["trial_id"], "torch", pa.Table.from_arrays(arrays, schema=PREDICTIONS))
    store.write_layers(planned["trial_id"], [{"trial_id": planned["trial_id"], "layer": "fc"}])
    store.write_trial({**{k: v for k, v in planned.items() if k != "needs"}, "status": "ok", "n_test": n_images})


def plan_trial(index: int) -> dict[str, Any]:
    """The planned trial of this index: fp32, its control, then PTQ and QAT in turn."""
    place, first = index % FAMILY, index - index % FAMILY
    method = "fp32" if place == 0 else "fp32_ft" if place == 1 else ("ptq", "qat")[place % 2]
    planned: dict[str, Any] = {"trial_id": f"{index:016x}", "dataset_id": "d", "method": method, "needs": []}
    planned["reference_trial_id"] = f"{first:016x}" if place else None
    planned["control_trial_id"] = f"{first + 1:016x}" if method == "qat" else None
    return planned


def main(n_trials: int, n_images: int) -> None:
    """Fill a store, build its tables once, and print what that took."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder)
        plan = [plan_trial(index) for index in range(n_trials)]
        store.write_manifest({"name": "bench", "groupings": {"d": GROUPINGS}, "plan": plan, "provenance": {}})
        labels_N = write_samples(store, n_images, rng)
        for planned in plan:
            write_trial(store, planned, labels_N, rng)
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        tables = build_tables(store)
        seconds = time.perf_counter() - started
    result = {
        "n_trials": n_trials,
        "n_images": n_images,
        "n_groups": tables["groups"]["split"].to_pylist().count("test"),
        "total_s": round(seconds, 2),
        "per_trial_ms": round(1e3 * seconds / n_trials, 2),
        "for_1000_trials_s": round(1e3 * seconds / n_trials, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_before_mib": before_kib // 1024,
        "rows": {name: table.num_rows for name, table in tables.items()},
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    trials, images = (int(argument) for argument in (sys.argv[1:] or ["100", "10000"]))
    main(trials, images)
