"""Whole stores, and their tables, from simulated logits: what a sweep leaves behind, without training anything.

Two data sets: "digits", ten classes of 90 test images each, and "faces", two classes in six unequal ethnic groups with
hostile names, one of them too small to be ranked. Damage is planted: it grows as bits fall, and the later groups have
more of it. All tables come from the project's own builders, so they agree with each other.
"""

import functools
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from quantfair.results import Store, build_tables, make_predictions
from quantfair.results.schema import EXACT

LONG_NAME: Final = "A group whose name nobody shortened " * 8 + "and its end"
GROUP_NAMES: Final = (
    '<b>"Ann & Bob"</b>',
    "Ōkami 🐺",
    LONG_NAME,
    "</script><script>alert(1)</script>",
    "=O'Neil",
    "Few",
)
GROUP_SIZES: Final = (420, 210, 160, 120, 90, 36)
ERROR: Final = "DivergedError: loss became nan at epoch 2, step 31 (first in layer '<features.3>'); lower `train.lr`"
Row = dict[str, Any]


class Images:
    """The images of one data set: labels, splits and groups; and how much the groups suffer."""

    def __init__(self, name: str, *, mixture: str | None, sizes: Sequence[int], names: Sequence[str]):
        rng = np.random.default_rng(sum(map(ord, name)))
        self.name, self.task = name, {"digits": "digit", "faces": "gender"}[name]
        self.mixture = mixture
        self.dataset_id = _hash([name, mixture, list(sizes), list(names)])
        if name == "digits":
            self.classes, self.n_test = [str(digit) for digit in range(10)], 900
            groups = labels = np.concatenate([np.arange(900) % 10, rng.integers(0, 10, 300)])
            self.attributes: dict[str, tuple[list[str], np.ndarray]] = {}
            self.groupings: list[str] = []
        else:
            self.classes, self.n_test = ["male", "female"], sum(sizes)
            groups = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.arange(300) % len(sizes)])
            labels = rng.integers(0, 2, len(groups))
            self.attributes = {"ethnicity": (list(names), groups), "gender": (self.classes, labels)}
            self.groupings = ["ethnicity", "gender", "ethnicity*gender"]
        self.labels, n = labels, len(labels)
        self.splits = np.array(["test"] * self.n_test + ["val"] * 100 + ["train"] * (n - self.n_test - 100))
        self.asked = np.flatnonzero(self.splits != "train")
        hurt = 0.5 + groups / max(groups.max(), 1)
        self.hurt_N = hurt if mixture is None else hurt**2

    def columns(self) -> Row:
        """What every trial's row says of its data."""
        config = {"name": self.name, "task": self.task}
        config |= {"imbalance": self.mixture, "imbalance_by": "ethnicity"} if self.mixture else {}
        row = {"dataset_id": self.dataset_id, "dataset": self.name, "task": self.task, "model": "small_cnn"}
        return {**row, "imbalance": self.mixture or "none", "config": config}

    def write(self, store: Store) -> None:
        """Write who the images are."""
        n = len(self.labels)
        columns: Row = {"dataset_id": [self.dataset_id] * n, "sample_id": np.arange(n), "split": self.splits}
        columns |= {"label": self.labels, "source": pa.nulls(n, pa.string())}
        columns |= {name: np.array(names, dtype=object)[codes] for name, (names, codes) in self.attributes.items()}
        names = {"label": self.classes, **{name: names for name, (names, _) in self.attributes.items()}}
        store.write_samples(self.dataset_id, pa.table(columns), names)


def make_store(
    folder: Path | str,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    bits: Sequence[int] = (16, 8, 4),
    observers: Sequence[str] = ("minmax", "percentile"),
    schemes: Sequence[str] = ("symmetric",),
    datasets: Sequence[str] = ("digits", "faces"),
    mixtures: Sequence[str | None] = (None,),
    runtimes: Sequence[str] = ("torch",),
    sizes: Sequence[int] = GROUP_SIZES,
    names: Sequence[str] = GROUP_NAMES,
    accuracy: float = 0.93,
    n_failed: int = 1,
    n_missing: int = 0,
    fails_reference: bool = False,
) -> Store:
    """Write the store of a sweep: fp32, fp32_ft, PTQ of both, and QAT, over all axes.

    Of each data set's trials the first `n_failed` QAT trials failed and the last `n_missing` have not run.
    """
    store, plan = Store.open(str(folder)), []
    images = [
        Images(name, mixture=mixture, sizes=sizes, names=names)
        for name in datasets
        for mixture in (mixtures if name == "faces" else (None,))
    ]
    for one in images:
        one.write(store)
        rows = [row for seed in seeds for row in _plan(one, seed, bits, observers, schemes)]
        plan += [{**row, "needs": []} for row in rows]
        failed = {row["trial_id"] for row in [row for row in rows if row["method"] == "qat"][:n_failed]}
        failed |= {row["trial_id"] for row in rows if row["method"] == "fp32" and fails_reference}
        _write_trials(store, one, rows[: len(rows) - n_missing], failed, runtimes, accuracy)
    sweep = {"name": "simulated <sweep>", "seeds": list(seeds)}
    manifest = {"name": "simulated <sweep>", "sweep": sweep, "runtimes": list(runtimes), "plan": plan, "command": ""}
    groupings = {one.dataset_id: one.groupings for one in images}
    store.write_manifest({**manifest, "groupings": groupings, "provenance": {"torch": "2.14.1", "python": "3.12"}})
    return store


@functools.cache
def make_tables(**settings: Any) -> Mapping[str, pa.Table]:
    """Return the tables of such a store; equal arguments share them."""
    with tempfile.TemporaryDirectory() as folder:
        return build_tables(make_store(folder, **settings))


def _plan(
    images: Images, seed: int, bits: Sequence[int], observers: Sequence[str], schemes: Sequence[str]
) -> Iterator[Row]:
    fp32 = _row(images, seed, "fp32")
    control = _row(images, seed, "fp32_ft", reference_trial_id=fp32["trial_id"], epochs=1)
    yield fp32
    yield control
    for n_bits, observer, scheme in itertools.product(bits, observers, schemes):
        settings = {"weight_bits": n_bits, "act_bits": n_bits, "act_observer": observer, "scheme": scheme}
        settings |= {"granularity": "per_channel", "weight_observer": "minmax"}
        yield _row(images, seed, "ptq", base="fp32", reference_trial_id=fp32["trial_id"], **settings)
        yield _row(images, seed, "ptq", base="fp32_ft", reference_trial_id=control["trial_id"], **settings)
        others = {"reference_trial_id": fp32["trial_id"], "control_trial_id": control["trial_id"], "epochs": 1}
        yield _row(images, seed, "qat", init="fp32", **others, **settings)


_ID_COLUMNS: Final = ("reference_trial_id", "control_trial_id")


def _row(images: Images, seed: int, method: str, *, epochs: int | None = None, **columns: Any) -> Row:
    quant = {name: value for name, value in columns.items() if name not in _ID_COLUMNS}
    quant |= {"method": method} | ({"epochs": epochs} if epochs else {})
    own = images.columns()
    config = {"dataset": own.pop("config"), "model": {"name": "small_cnn"}, "train": {"epochs": 15}, "quant": quant}
    ids = {"config_id": _hash([config]), "trial_id": _hash([config, seed])}
    empty = dict.fromkeys((*_ID_COLUMNS, "control_reason", "base", "init", "weight_bits", "act_bits", "scheme"))
    empty |= dict.fromkeys(("granularity", "weight_observer", "act_observer", "bn_fold", "act_signed", "preset"))
    return {**empty, **own, **ids, "method": method, "seed": seed, "config": json.dumps(config), **columns}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _write_trials(
    store: Store, images: Images, rows: Sequence[Row], failed: set[str], runtimes: Sequence[str], accuracy: float
) -> None:
    logits: dict[str, np.ndarray] = {}
    for row in rows:
        if row["trial_id"] in failed or row["reference_trial_id"] in failed:
            failed.add(row["trial_id"])
            store.write_trial({**row, "status": "failed", "error": ERROR, "traceback": "Traceback ..."})
            continue
        before = logits.get(row["reference_trial_id"] or "")
        own = logits[row["trial_id"]] = _simulate(images, row, before, accuracy)
        _write_answers(store, images, row, "torch", own, before)
        store.write_layers(row["trial_id"], [])
        if row["weight_bits"]:
            store.write_layer_predictions(row["trial_id"], _simulate_layers(images, row, own))
        for runtime in runtimes[1:]:
            _write_runtime(store, images, row, runtime, own, before)
        right = (own.argmax(1) == images.labels)[: images.n_test]
        measured = {"n_test": images.n_test, "accuracy": float(right.mean()), "total_s": 1 + row["seed"] / 8}
        store.write_trial({**row, "status": "ok", "device": "cpu", "size_bytes": 12_000, **measured})


def _simulate(images: Images, row: Row, before: np.ndarray | None, accuracy: float) -> np.ndarray:
    """Return logits: of FP32 right at a rate of about `accuracy`, of others the reference's with noise by bits."""
    rng = np.random.default_rng(int(row["trial_id"], 16))
    n, n_classes = len(images.labels), len(images.classes)
    if before is None:
        right = rng.random(n) < accuracy
        logits = rng.normal(0, 0.5, (n, n_classes))
        said = np.where(right, images.labels, (images.labels + 1) % n_classes)
        logits[np.arange(n), said] += 2.5 + rng.exponential(1.0, n)
        return logits
    size = {None: 0.15, 16: 0.001, 8: 0.12, 4: 1.1}.get(row["weight_bits"], 0.5)
    size *= {"qat": 0.6}.get(row["method"], 1.0) * (0.8 if row["act_observer"] == "percentile" else 1.0)
    return before + rng.normal(0, 1, before.shape) * size * images.hurt_N[:, None]


def _simulate_layers(images: Images, row: Row, logits: np.ndarray) -> Iterator[pa.Table]:
    """Yield what the val images get with one layer alone quantized."""
    rng = np.random.default_rng(int(row["trial_id"], 16) + 2)
    val = np.flatnonzero(images.splits == "val")
    for layer in ("features.<0>", "fc"):
        predicted = (logits + rng.normal(0, 0.5, logits.shape))[val].argmax(1)
        columns = {"trial_id": [row["trial_id"]] * len(val), "layer": [layer] * len(val), "sample_id": val}
        columns |= {"predicted": predicted, "float_predicted": logits[val].argmax(1)}
        yield pa.table(columns)


def _write_answers(
    store: Store, images: Images, row: Row, runtime: str, logits: np.ndarray, before: np.ndarray | None
) -> None:
    ids = images.asked
    predictions = make_predictions(
        logits[ids],
        images.labels[ids],
        trial_id=row["trial_id"],
        runtime=runtime,
        sample_ids_N=ids,
        splits_N=images.splits[ids],
        reference_logits_NK=None if before is None else before[ids],
        keep_logits=row["method"] in ("fp32", "fp32_ft"),
    )
    store.write_predictions(row["trial_id"], runtime, predictions)


def _write_runtime(
    store: Store, images: Images, row: Row, runtime: str, logits: np.ndarray, before: np.ndarray | None
) -> None:
    if runtime == "tensorrt":
        store.write_runtime(row["trial_id"], runtime, [{"status": "unsupported", "reason": "no GPU; run it on one"}])
        return
    rng = np.random.default_rng(int(row["trial_id"], 16) + 1)
    other = logits + rng.normal(0, 0.2, logits.shape) * (1 if row["weight_bits"] else 0)
    _write_answers(store, images, row, EXACT, logits, before)
    _write_answers(store, images, row, runtime, other, before)
    n_flip = int((other.argmax(1) != logits.argmax(1))[: images.n_test].sum())
    measured = {"status": "ok", "file_bytes": 34_000, "threads": 1, "n_test": images.n_test, "kernels": "QLinearConv 3"}
    rows = [
        {**measured, "session": session, "batch": batch, "p50_ms": 0.1 * batch, "p95_ms": 0.2 * batch, "n_flip": flips}
        for session, flips in (("fast", n_flip), ("exact", 0))
        for batch in (1, 256)
    ]
    store.write_runtime(row["trial_id"], runtime, rows)
