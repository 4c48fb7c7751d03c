"""What is measured beside a trial's predictions: the report of every layer, and which layer hurts whom.

A quantized model is compared with its twin, the same weights without quantizers. Sensitivity costs as many evaluations
of the val split as there are quantized layers, and one more for QAT, whose twin nobody evaluated.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import torch

import quant
from results import Store

Images = Callable[[], Iterable[torch.Tensor]]  # one pass over batches of images_NCHW


def write_layers(
    store: Store, trial_id: str, model: torch.nn.Module, *, twin: torch.nn.Module | None, images: Images | None
) -> None:
    """Write what was done to each layer, with the noise in its weight, and in its output on `images` if they are given.

    A float model has no `twin`.
    """
    if twin is None:
        reports = quant.describe_layers(model)
    else:
        reports = quant.describe_noise(model, twin, None if images is None else images())
    store.write_layers(trial_id, [{**report._asdict(), "trial_id": trial_id} for report in reports])


def write_sensitivity(
    store: Store,
    trial_id: str,
    model: torch.nn.Module,
    *,
    twin: torch.nn.Module,
    images: Images,
    sample_ids_N: np.ndarray,
    twin_logits_NK: np.ndarray | None,
) -> None:
    """Write what is predicted of `images`, those of `sample_ids_N`, with each layer alone quantized.

    `twin_logits_NK` are those of the reference model where the twin is the same network, as in PTQ.
    """
    if twin_logits_NK is None:
        twin_logits_NK = quant.predict(twin, images()).numpy()
    tables = [
        pa.table(
            {
                "trial_id": pa.repeat(trial_id, len(sample_ids_N)),
                "layer": pa.repeat(layer, len(sample_ids_N)),
                "sample_id": sample_ids_N,
                "predicted": logits_NK.numpy().argmax(1),
                "float_predicted": twin_logits_NK.argmax(1),
            }
        )
        for layer, logits_NK in quant.predict_each_layer(model, twin, images)
    ]
    store.write_layer_predictions(trial_id, tables)
