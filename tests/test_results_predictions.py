"""Predictions: every measurement of an image, against torch and scipy."""

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from scipy.stats import entropy

from quantfair.results import make_predictions

N, K = 200, 7


def make(reference: bool) -> tuple[dict[str, np.ndarray], torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    logits, other = rng.normal(0, 3, (2, N, K)).astype(np.float32)
    labels = rng.integers(0, K, N)
    table = make_predictions(
        logits,
        labels,
        trial_id="a",
        runtime="torch",
        sample_ids_N=np.arange(N),
        splits_N=np.array(["val", "test"] * (N // 2)),
        reference_logits_NK=other if reference else None,
        keep_logits=True,
    )
    names = ("predicted", "loss_nats", "confidence", "margin", "entropy_nats", "kl_nats")
    columns = {name: table[name].to_numpy() for name in names}
    columns["logits"] = np.stack(table["logits"].to_numpy())
    assert set(table["trial_id"].to_pylist()) == {"a"}
    return columns, torch.from_numpy(logits), torch.from_numpy(other), torch.from_numpy(labels)


def test_every_measurement_equals_torchs_and_scipys() -> None:
    ours, logits, other, labels = make(reference=True)
    log_p, log_r = logits.double().log_softmax(1), other.double().log_softmax(1)
    top = logits.topk(2).values
    assert np.array_equal(ours["predicted"], logits.argmax(1))
    assert np.allclose(ours["loss_nats"], F.cross_entropy(logits.double(), labels, reduction="none"), rtol=1e-5)
    assert np.allclose(ours["confidence"], log_p.exp().max(1).values, rtol=1e-5)
    assert np.allclose(ours["margin"], top[:, 0] - top[:, 1], rtol=1e-5)
    assert np.allclose(ours["entropy_nats"], entropy(log_p.exp().numpy(), axis=1), rtol=1e-5)
    assert np.allclose(ours["kl_nats"], F.kl_div(log_p, log_r, log_target=True, reduction="none").sum(1), rtol=1e-5)
    assert np.abs(ours["logits"] - logits.numpy()).max() < 0.01  # kept as float16


def test_without_a_reference_there_is_no_divergence() -> None:
    ours, *_ = make(reference=False)
    assert np.isnan(ours["kl_nats"]).all()


def predict(logits: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> pa.ChunkedArray:
    table = make_predictions(
        logits,
        labels,
        trial_id="a",
        runtime="torch",
        sample_ids_N=np.arange(len(labels)),
        splits_N=splits,
        reference_logits_NK=None,
        keep_logits=False,
    )
    return table["predicted_refit"]


def test_answers_are_refitted_by_what_the_val_images_say_alone() -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(3000, K)).astype(np.float32)
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    splits = np.repeat(["val", "test"], [2000, 1000])
    shifted = logits + np.array([3, 0, -2, 0, 0, 0, 0], np.float32)
    refitted = predict(shifted, labels, splits).to_numpy()
    assert (shifted.argmax(1) != logits.argmax(1)).mean() > 0.15
    assert (refitted != predict(logits, labels, splits).to_numpy()).mean() < 0.001
    labels[2000:] = 0  # what is known of the test images is not used
    assert np.array_equal(predict(shifted, labels, splits), refitted)


def test_without_val_images_no_answer_is_refitted() -> None:
    logits = np.eye(K, dtype=np.float32)
    assert predict(logits, np.arange(K), np.repeat("test", K)).null_count == K
