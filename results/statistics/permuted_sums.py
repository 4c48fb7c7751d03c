"""Sums over permuted groups, for many columns at once: values and groups in, sums and sums of squares out.

Legend: N images, G groups, C columns (whatever has one value for each image), B permutations, K segments of ranks.

Nothing is summed image by image. Permuted groups fall on values at random, so each column may as well be sorted: then
how many of the first ranks each group has, counted once for all columns, says what every group gets. For outcomes of
-1, 0 and 1 that is exact. Other values are known by the means of segments of ranks: single ranks at both ends, where
the few large losses are, and wider ones in between (of the variance of exponential, normal, log-normal and Cauchy
values that loses 0.01 % and less).
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np

_CELLS_IN_CACHE: Final = 100  # columns x groups, of 1000 permutations each
_CELLS: Final = 5000  # of which ranks are counted at once: 80 MB
_COLUMNS: Final = 64  # of any values, that are multiplied at once
_GROWTH: Final = 0.03  # a segment holds this share of the ranks between it and the nearer end

Sums: TypeAlias = tuple[slice, np.ndarray, np.ndarray]  # some columns, their sums and sums of squares: C x G x B


def permute(codes_N: np.ndarray, n_permutations: int, seed: int) -> np.ndarray:
    """Return the codes under random permutations, B x N, not to be written to: the last ones are kept."""
    return _permute(codes_N.astype(np.int16).tobytes(), n_permutations, seed)


@lru_cache(maxsize=1)
def _permute(codes: bytes, n_permutations: int, seed: int) -> np.ndarray:
    codes_BN = np.tile(np.frombuffer(codes, dtype=np.int16), (n_permutations, 1))
    np.random.default_rng(seed).permuted(codes_BN, axis=1, out=codes_BN)
    codes_BN.flags.writeable = False
    return codes_BN


def is_outcome(values_NC: np.ndarray) -> np.ndarray:
    """Return for each column whether all of its values are -1, 0 or 1."""
    return ((values_NC == 0) | (np.abs(values_NC) == 1)).all(axis=0)


def sum_outcomes(values_NC: np.ndarray, permuted_BN: np.ndarray, groups_G: np.ndarray) -> Iterator[Sums]:
    """Yield a few columns of -1, 0 and 1 at a time, and the sums in the groups whose codes are `groups_G`."""
    n_images, n_columns = values_NC.shape
    n_G = _count_by_rank(permuted_BN, np.zeros(n_images, dtype=np.int64), groups_G)[0, :, :1]
    step = max(1, _CELLS // len(groups_G))
    for at in range(0, n_columns, step):
        block_NC = values_NC[:, at : at + step]
        edges_2C = np.stack([(block_NC == -1).sum(axis=0), n_images - (block_NC == 1).sum(axis=0)])
        edges_E, (low_C, high_C) = np.unique(edges_2C, return_inverse=True)
        segment_N = np.searchsorted(edges_E, np.arange(n_images), side="right")
        first_EGB = _count_by_rank(permuted_BN, segment_N, groups_G, n_segments=len(edges_E) + 1).cumsum(axis=0)
        for few in _split(block_NC.shape[1], len(groups_G)):
            minus, plus = first_EGB[low_C[few]], n_G - first_EGB[high_C[few]]
            yield slice(at + few.start, at + few.stop), plus - minus, plus + minus


def sum_ranked(values_NC: np.ndarray, permuted_BN: np.ndarray, groups_G: np.ndarray) -> Iterator[Sums]:
    """Yield a few columns of any values at a time, and the sums in the groups whose codes are `groups_G`."""
    starts_K = _cut(len(values_NC))
    width_K = np.diff(starts_K, append=len(values_NC))
    counts_KGB = _count_by_rank(permuted_BN, np.repeat(np.arange(len(starts_K)), width_K), groups_G)
    shape, counts = counts_KGB.shape[1:], counts_KGB.reshape(len(starts_K), -1)
    for at in range(0, values_NC.shape[1], _COLUMNS):
        ranked_CN = np.sort(values_NC[:, at : at + _COLUMNS].T.astype(np.float64), axis=1)
        means = (np.add.reduceat(part_CN, starts_K, axis=1) / width_K for part_CN in (ranked_CN, ranked_CN**2))
        totals, squares = ((mean_CK.astype(np.float32) @ counts).reshape(-1, *shape) for mean_CK in means)
        for few in _split(len(ranked_CN), len(groups_G)):
            yield slice(at + few.start, at + few.stop), totals[few], squares[few]


def _split(n_columns: int, n_groups: int) -> Iterator[slice]:
    step = max(1, _CELLS_IN_CACHE // n_groups)
    return (slice(at, min(at + step, n_columns)) for at in range(0, n_columns, step))


def _cut(n_images: int) -> np.ndarray:
    """Return the ranks at which segments start, alike from both ends."""
    starts = [0]
    while starts[-1] < n_images / 2:
        starts.append(starts[-1] + 1 + int(_GROWTH * starts[-1]))
    half = np.array([start for start in starts if start < n_images / 2], dtype=np.int64)
    return np.unique(np.concatenate([half, n_images - half[half > 0]]))


def _count_by_rank(
    permuted_BN: np.ndarray, segment_N: np.ndarray, groups_G: np.ndarray, *, n_segments: int | None = None
) -> np.ndarray:
    """Return how many ranks of each segment each group has under every permutation, K x G x B, float32."""
    n_codes, n_segments = int(permuted_BN.max()) + 1, n_segments or int(segment_N[-1]) + 1
    counts_BKG = np.empty((len(permuted_BN), n_segments, len(groups_G)), dtype=np.float32)
    for counts_KG, codes_N in zip(counts_BKG, permuted_BN, strict=True):
        cells = np.bincount(segment_N * n_codes + codes_N, minlength=n_segments * n_codes)
        counts_KG[:] = cells.reshape(n_segments, n_codes)[:, groups_G]
    return np.ascontiguousarray(counts_BKG.transpose(1, 2, 0))
