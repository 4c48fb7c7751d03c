"""Logits -> the rows of the table `predictions`: what each image got, and how sure the model was.

Legend: N images, K classes. All arithmetic in float64; the table keeps float32.
"""

import numpy as np
import pyarrow as pa
from scipy.special import log_softmax

from quantfair.results.schema import PREDICTIONS
from quantfair.results.statistics.offsets import fit_offsets


def make_predictions(
    logits_NK: np.ndarray,
    labels_N: np.ndarray,
    *,
    trial_id: str,
    runtime: str,
    sample_ids_N: np.ndarray,
    splits_N: np.ndarray,
    reference_logits_NK: np.ndarray | None,
    keep_logits: bool,
) -> pa.Table:
    """Return one row per image, in the given order.

    loss is cross-entropy in nats, confidence the largest probability, margin the difference of the two largest logits,
    entropy that of the predicted distribution, and kl is KL(reference || this model), null without a reference.
    `predicted_refit` is the class after offsets that were fitted on the val images, null where there are none.
    """
    log_p_NK = log_softmax(logits_NK.astype(np.float64), axis=1)
    p_NK = np.exp(log_p_NK)
    top_two = np.partition(logits_NK, -2, axis=1)[:, -2:]
    columns = {
        "trial_id": pa.repeat(trial_id, len(labels_N)),
        "runtime": pa.repeat(runtime, len(labels_N)),
        "sample_id": sample_ids_N,
        "split": splits_N,
        "predicted": logits_NK.argmax(1),
        "predicted_refit": _predict_refitted(logits_NK, labels_N, splits_N == "val"),
        "loss_nats": -log_p_NK[np.arange(len(labels_N)), labels_N],
        "confidence": p_NK.max(1),
        "margin": top_two[:, 1] - top_two[:, 0],
        "entropy_nats": -(p_NK * log_p_NK).sum(1),
        "kl_nats": pa.nulls(len(labels_N)) if reference_logits_NK is None else _kl(reference_logits_NK, log_p_NK),
        "logits": pa.array(list(logits_NK.astype(np.float32))) if keep_logits else pa.nulls(len(labels_N)),
    }
    arrays = [pa.array(columns[field.name]).cast(field.type, safe=False) for field in PREDICTIONS]
    return pa.Table.from_arrays(arrays, schema=PREDICTIONS)


def _predict_refitted(logits_NK: np.ndarray, labels_N: np.ndarray, is_val_N: np.ndarray) -> np.ndarray | pa.Array:
    if not is_val_N.any():
        return pa.nulls(len(labels_N))
    return (logits_NK + fit_offsets(logits_NK[is_val_N], labels_N[is_val_N])).argmax(1)


def _kl(reference_logits_NK: np.ndarray, log_p_NK: np.ndarray) -> np.ndarray:
    log_r_NK = log_softmax(reference_logits_NK.astype(np.float64), axis=1)
    return np.maximum((np.exp(log_r_NK) * (log_r_NK - log_p_NK)).sum(1), 0)
