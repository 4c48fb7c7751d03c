"""How many answers are right: of all images, and of the mean class. Legend: N images, K classes."""

import numpy as np


def score_answers(
    predicted_N: np.ndarray, labels_N: np.ndarray, *, loss_nats_N: np.ndarray | None
) -> dict[str, float | None]:
    """Return how many images there are, accuracy, mean recall over the classes that occur, and mean loss.

    The loss is None where there are no losses.
    """
    right_N = predicted_N == labels_N
    n_K = np.bincount(labels_N)
    right_K = np.bincount(labels_N, weights=right_N)
    occurs_K = n_K > 0
    return {
        "n_test": len(labels_N),
        "accuracy": right_N.mean(),
        "macro_accuracy": (right_K[occurs_K] / n_K[occurs_K]).mean(),
        "loss_nats": None if loss_nats_N is None else loss_nats_N.astype(np.float64).mean(),
    }
