"""A small store with a reference, a control and a quantized trial, and files of predictions for it."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from quantfair.results import Store, make_predictions

NAMES, SEXES = ["cat", "dog", "eel"], ["f", "m"]
N_TEST, N_VAL, N_TRAIN = 240, 30, 30
N = N_TEST + N_VAL + N_TRAIN
CONFIG = {"dataset": {"name": "pets"}, "model": {"name": "small_cnn"}, "train": {"epochs": 3}}


class Pets:
    """300 pets of 3 classes, in random order of their splits; `logits` are those of the reference."""

    def __init__(self, folder: Path, *, names: list[str] | None = None):
        rng = np.random.default_rng(0)
        self.names = names or NAMES
        self.store = Store.open(str(folder))
        self.labels, self.sex = rng.integers(0, 3, N), rng.integers(0, 2, N)
        self.splits = rng.permutation(["test"] * N_TEST + ["val"] * N_VAL + ["train"] * N_TRAIN)
        self.logits = rng.normal(size=(N, 3)) + 2 * np.eye(3)[self.labels]
        self.plan: list[dict[str, Any]] = []
        columns = {"dataset_id": ["d"] * N, "sample_id": np.arange(N), "split": self.splits, "label": self.labels}
        columns |= {"source": pa.nulls(N, pa.string()), "sex": np.array(SEXES)[self.sex]}
        self.store.write_samples("d", pa.table(columns), {"label": self.names, "sex": SEXES})
        self.add("float", "fp32", self.logits)
        self.add("tuned", "fp32_ft", self.logits + rng.normal(size=(N, 3)) / 4, reference_trial_id="float")
        self.quantized = self.logits + rng.normal(size=(N, 3)) / 2
        self.add("small", "ptq", self.quantized, reference_trial_id="float", weight_bits=4, act_bits=4)
        manifest = {
            "name": "pets",
            "runtimes": ["torch"],
            "groupings": {"d": ["sex", "sex*label"]},
            "plan": self.plan,
            "provenance": {},
            "command": "",
        }
        self.store.write_manifest(manifest)

    def add(self, trial_id: str, method: str, logits: np.ndarray, **columns: Any) -> None:
        row = {"trial_id": trial_id, "config_id": f"{trial_id}-config", "method": method, "seed": 7, "dataset_id": "d"}
        row |= {"reference_trial_id": None, "control_trial_id": None, "imbalance": None}
        row |= {"dataset": "pets", "task": "class", "model": "small_cnn", "config": json.dumps(CONFIG), **columns}
        self.plan.append({**row, "needs": []})
        ids = np.flatnonzero(self.splits != "train")
        predictions = make_predictions(
            logits[ids],
            self.labels[ids],
            trial_id=trial_id,
            runtime="torch",
            sample_ids_N=ids,
            splits_N=self.splits[ids],
            reference_logits_NK=self.logits[ids] if row["reference_trial_id"] else None,
            keep_logits=method != "ptq",
        )
        self.store.write_predictions(trial_id, "torch", predictions)
        self.store.write_layers(trial_id, [])
        right = float((logits.argmax(1) == self.labels)[self.splits == "test"].mean())
        measured = {"n_test": N_TEST, "accuracy": right, "total_s": 1.0, "device": "cpu"}
        self.store.write_trial({**row, "status": "ok", **measured})

    def frame(self, *, logits: bool = False, splits: tuple[str, ...] = ("test",)) -> pd.DataFrame:
        """What another tool says of its quantized model, which is ours: `small`."""
        ids = np.flatnonzero(np.isin(self.splits, splits))
        frame = pd.DataFrame({"sample_id": ids, "predicted": self.quantized[ids].argmax(1)})
        for index in range(3 if logits else 0):
            frame[f"logit_{index}"] = self.quantized[ids, index]
        return frame


def to_csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def to_parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()
