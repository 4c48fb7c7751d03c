"""What is measured beside a trial's predictions: every layer, which layer hurts whom, and the loss of every group.

A quantized model is compared with its twin, the same weights without quantizers. Sensitivity costs as many evaluations
of the val split as there are quantized layers, and one more for QAT, whose twin nobody evaluated.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pyarrow as pa
import torch

from quantfair import quant
from quantfair.datasets import Batches, GroupedDataset
from quantfair.results import Store

MOST_OF_A_GROUP = 128  # training images of which the curvature is measured
Images = Callable[[], Iterable[torch.Tensor]]  # one pass over batches of images_NCHW
BatchesOf = Callable[[np.ndarray], Batches]  # batches of the images at some indices
STATISTICS = ("grad_norm", "hessian_trace", "lambda_max")


def write_layers(
    store: Store, trial_id: str, model: torch.nn.Module, *, twin: torch.nn.Module | None, images: Images | None
) -> None:
    """Write what was done to each layer, with the noise in its weight, and in its output on `images` if they are given.

    A float model has no `twin`.
    """
    if twin is None:
        reports = quant.describe_layers(model)
    else:
        reports = quant.measure_sqnr(model, twin, None if images is None else images())
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


def write_curvature(
    store: Store,
    trial_id: str,
    model: torch.nn.Module,
    *,
    dataset: GroupedDataset,
    groupings: Iterable[str],
    batches: BatchesOf,
) -> None:
    """Write the curvature of the loss of every group of every grouping at the weights of a float model.

    It is measured of at most MOST_OF_A_GROUP training images of a group, the same ones for every model; `batches` makes
    labelled batches of some images. Every group takes as long as 80 training epochs of those images: ten groups, as
    long as two epochs of 50,000.
    """
    rows = []
    train = np.random.default_rng(0).permutation(dataset.splits["train"])
    for grouping in groupings:
        codes_N, names = dataset.groups(grouping)
        for code, group in enumerate(names):
            key = {"trial_id": trial_id, "grouping": grouping, "group": group, "split": "train"}
            rows += _measure_group(model, train[codes_N[train] == code][:MOST_OF_A_GROUP], batches, key)
    store.write_mechanism(trial_id, rows)


def _measure_group(
    model: torch.nn.Module, indices: np.ndarray, batches: BatchesOf, key: Mapping[str, object]
) -> list[dict[str, object]]:
    if not len(indices):
        return [{**key, "statistic": name, "n": 0, "reason": "no training images in this group"} for name in STATISTICS]
    found = quant.measure_curvature(model, batches(indices).epoch)
    rows: dict[str, dict[str, object]] = {name: {"value": getattr(found, name)} for name in STATISTICS}
    rows["hessian_trace"]["standard_error"] = found.trace_error
    if np.isnan(found.lambda_max):
        rows["lambda_max"] = {"reason": "not found: the Lanczos iterations did not converge"}
    return [{**key, "statistic": name, "n": found.n_images, **row} for name, row in rows.items()]
