"""How far two populations of models agree on each image: their most frequent answers, and how these are spread.

Legend: S models (seeds) of a population, N images, K classes.
"""

from typing import NamedTuple

import numpy as np


class Disagreement(NamedTuple):
    """Of each image: whether the two most frequent answers differ, and the taxicab distance of all answers, 0 to 1."""

    is_exemplar_N: np.ndarray
    taxicab_N: np.ndarray


def compare_populations(predicted_SN: np.ndarray, other_SN: np.ndarray, n_classes: int) -> Disagreement:
    """Return where two populations disagree. Of equally frequent answers the largest label counts.

    Sources: compression-identified exemplars and their taxicab variant, Hooker et al., arXiv 1911.05248 and 2010.03058;
    the distance is half the sum of |share in one - share in the other| over classes.
    """
    counts_NK, others_NK = (_count_answers(answers_SN, n_classes) for answers_SN in (predicted_SN, other_SN))
    shares_NK, other_shares_NK = counts_NK / len(predicted_SN), others_NK / len(other_SN)
    taxicab_N = np.abs(shares_NK - other_shares_NK).sum(axis=1) / 2
    return Disagreement(_find_mode(counts_NK) != _find_mode(others_NK), taxicab_N)


def _count_answers(answers_SN: np.ndarray, n_classes: int) -> np.ndarray:
    n_images = answers_SN.shape[1]
    cells = np.arange(n_images) * n_classes + answers_SN
    return np.bincount(cells.ravel(), minlength=n_images * n_classes).reshape(n_images, n_classes)


def _find_mode(counts_NK: np.ndarray) -> np.ndarray:
    return counts_NK.shape[1] - 1 - counts_NK[:, ::-1].argmax(axis=1)
