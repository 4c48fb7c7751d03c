"""Predictions from elsewhere -> a finished trial: another tool's quantized model beside those of the sweep.

The trial is compared with a reference that the user names, so it shares that one's data set, network and training.
Which bits and settings made it nobody here knows: it has a name.
"""

import hashlib
import json
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa

from quantfair.results.predictions import make_predictions
from quantfair.results.schema import IMPORTED, PREDICTIONS
from quantfair.results.statistics.scores import score_answers
from quantfair.results.store.files import StoreError
from quantfair.results.store.store import Store
from quantfair.results.user_data.predictions_file import Given, read_given

SHARED = ("dataset_id", "dataset", "task", "model", "imbalance")  # columns that it has from its reference
NO_CONTROL = "no control was named when the predictions were imported"


def import_predictions(
    store: Store,
    data: bytes,
    *,
    source: str,
    name: str,
    reference: str,
    control: str | None = None,
    seed: int | None = None,
) -> str:
    """Check a file (`predictions_file.py` says which), make it a finished trial of the store and return its trial_id.

    The same predictions of the same name, seed and reference are the same trial, however often they are imported; the
    seeds of one name and one configuration of the reference are one configuration. `seed` is the reference's where it
    is None. KL is from the reference's stored logits.

    Raises:
        StoreError: the file or a trial is not what it must be, or other predictions have that name and seed.
    """
    if not (name := name.strip()):
        raise StoreError("`--name` must be a name by which the page shows the predictions, got none.")
    parent = _find_trial(store, reference, "--reference")
    if control is not None and _find_trial(store, control, "--control")["dataset_id"] != parent["dataset_id"]:
        raise StoreError(f"`--control` must be of the data set of `--reference`, got {control} of another one.")
    samples, attributes = store.read_samples(parent["dataset_id"])
    given = read_given(data, samples, attributes["label"], source=source)
    seed = parent["seed"] if seed is None else seed
    identity = {IMPORTED: name, "dataset_id": parent["dataset_id"], "reference": parent["config_id"]}
    trial_id = _short_hash({**identity, "reference": reference, "seed": seed, "predictions": given.digest})
    row = {
        **{column: parent[column] for column in SHARED},
        "trial_id": trial_id,
        "config_id": _short_hash(identity),
        "status": "ok",
        "method": IMPORTED,
        "seed": seed,
        "reference_trial_id": reference,
        "control_trial_id": control,
        "control_reason": NO_CONTROL if control is None else None,
        "config": _make_config(parent, name, source, given.not_used),
    }
    _refuse_another(store, row, name)
    table = _make_table(store, given, trial_id, reference)
    store.write_predictions(trial_id, "torch", table)
    store.write_layers(trial_id, [])
    store.write_trial({**row, **_score(given, table)})
    return trial_id


def _find_trial(store: Store, trial_id: str, option: str) -> dict[str, Any]:
    """Return the row of a finished trial, after the manifest has said that there is a sweep."""
    store.read_manifest()
    row = store.read_trial(trial_id)
    if row is None or row["status"] != "ok":
        state = "is not finished" if row is None else "failed"
        raise StoreError(
            f"`{option}` must be the id of a finished trial of {store.location}, and {trial_id} {state}: the page "
            "and the table `trials` list the ids."
        )
    return row


def _refuse_another(store: Store, row: dict[str, Any], name: str) -> None:
    """Two trials of one configuration and seed would count as two seeds."""
    for other in store.read_trials().to_pylist():
        same = (other["config_id"], other["seed"]) == (row["config_id"], row["seed"])
        if same and other["trial_id"] != row["trial_id"]:
            raise StoreError(
                f"Other predictions of the name {name!r} and seed {row['seed']} were imported before (trial "
                f"{other['trial_id']}): choose another `--name` or `--seed`, or delete "
                f"trials/{other['trial_id']}.parquet."
            )


def _make_table(store: Store, given: Given, trial_id: str, reference: str) -> pa.Table:
    """Return the predictions; what only logits tell is null without them."""
    n = len(given.sample_ids_N)
    if given.logits_NK is None:
        columns = {
            "trial_id": pa.repeat(trial_id, n),
            "runtime": pa.repeat("torch", n),
            "sample_id": given.sample_ids_N,
            "split": given.splits_N,
            "predicted": given.predicted_N,
        }
        return pa.table(
            {
                f.name: pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(n, f.type)
                for f in PREDICTIONS
            }
        )
    table = make_predictions(
        given.logits_NK,
        given.labels_N,
        trial_id=trial_id,
        runtime="torch",
        sample_ids_N=given.sample_ids_N,
        splits_N=given.splits_N,
        reference_logits_NK=_read_logits(store, reference, given.sample_ids_N),
        keep_logits=True,
    )
    place = table.column_names.index("predicted")  # as the file says, where two logits are the largest
    return table.set_column(place, PREDICTIONS.field("predicted"), pa.array(given.predicted_N, pa.int16()))


def _read_logits(store: Store, trial_id: str, sample_ids_N: np.ndarray) -> np.ndarray | None:
    """Return the stored logits of these images, or None for a trial whose logits were not kept."""
    table = store.read_predictions(trial_id, "torch", ["sample_id", "logits"]).sort_by("sample_id")
    table = table.filter(pa.array(np.isin(table["sample_id"].to_numpy(), sample_ids_N)))
    if table["logits"].null_count or len(table) != len(sample_ids_N):
        return None
    return np.array(table["logits"].to_pylist(), dtype=np.float64)


def _score(given: Given, table: pa.Table) -> dict[str, Any]:
    """Return the score of the test images; without logits their loss is null."""
    test_N = given.splits_N == "test"
    loss_nats_N = None if given.logits_NK is None else table["loss_nats"].to_numpy()[test_N]
    return score_answers(given.predicted_N[test_N], given.labels_N[test_N], loss_nats_N=loss_nats_N)


def _make_config(parent: dict[str, Any], name: str, source: str, not_used: tuple[str, ...]) -> str:
    """Return the settings that are known: those of the reference's data, network and training, and the name."""
    known = json.loads(parent["config"] or "{}")
    shared = {part: known[part] for part in ("dataset", "model", "train") if part in known}
    about = {"name": name, "file": PurePath(source).name, **({"columns_not_used": not_used} if not_used else {})}
    return json.dumps({**shared, IMPORTED: about}, sort_keys=True)


def _short_hash(parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
