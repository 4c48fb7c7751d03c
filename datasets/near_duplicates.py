"""Images in, clusters of near duplicates out: copies that differ by re-encoding, size or brightness.

An image is described by its 63 slowest waves: the discrete cosine transform of its grey values, up to 7 half periods in
each direction, without the constant. pHash keeps a bit of each slow wave (Zauner 2010, Implementation and Benchmarking
of Perceptual Image Hash Functions); this file keeps the numbers. Each counts by its squared frequency, so that broad
shading does not decide. All are scaled to one length, so that brightness and contrast do not count. Two images are near
duplicates if their waves correlate by at least `MIN_CORRELATION` and their mean colours agree. Faster waves were tried:
they tell more images apart, but lose the copies that were made smaller.

No limit fits all data, so the data decide in two ways. Copies that we make of a sample must be found. Where many images
are marked, they must stand apart from images that merely look alike. Otherwise the answer is "not judged", and why.
`README.md` has what was measured on MNIST, CIFAR-10 and UTKFace.

Legend: N images asked for, U of them that differ in a byte, B of a block, C channels, H height, W width, V and F
frequencies down and across, K waves, P pairs of images.
"""  # fmt: skip

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from quantfair.datasets.image_copies import COPIES, reduce_images
from quantfair.datasets.progress import Ticker
from quantfair.datasets.types import Images

MIN_CORRELATION = 0.995
MAX_COLOUR_SHIFT = 16  # grey levels between the mean colours of two images, after their brightness is taken off
FREQUENCIES = 8  # in each direction, with the constant
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in JPEG
BLOCK = 1024
VALUES_AT_ONCE = 2**23

# Waves are rounded to whole numbers and scaled to this length. Every partial sum of a product of two images is then a
# whole number below 2**24, which float32 holds exactly: no answer depends on the blocks, the order or the BLAS.
LENGTH = 4000
MIN_CONTRAST = 0.02  # the length below which an image is flat; float32 leaves less than 0.005 of a constant image

# Half a squared distance between two vectors of this length, at the limit and at the ends of two rings around it.
NEAR = (1 - MIN_CORRELATION) * LENGTH**2
GROWTH = np.sqrt(2)
RINGS = np.array([NEAR, GROWTH * NEAR, GROWTH**2 * NEAR], dtype=np.float32)

SAMPLE = 1000
MIN_FOUND = 0.95
HARMLESS_SHARE = 0.005  # so few marked images may merely look alike


@dataclass(frozen=True)
class NearDuplicates:
    """The clusters of near duplicates among N images.

    `clusters_N` (int32) is the same for all images that a chain of near duplicates connects, byte-identical images
    included; an image without any is alone. Clusters are numbered in the order of their first images. `n_images` counts
    the images with a near duplicate that is not byte-identical. Where the data cannot be judged, `reason` says why,
    `n_images` is None, and only byte-identical images share a cluster.
    """

    clusters_N: np.ndarray
    n_images: int | None
    reason: str | None


def find_near_duplicates(images: Images, indices: np.ndarray | None = None) -> NearDuplicates:
    """Find copies that differ by re-encoding, size or brightness among the images at `indices`, or among all.

    Flat images have no near duplicates but identical ones. The time grows with N squared, the memory with N. A line on
    stderr says how far a long search is.
    """
    if indices is None:
        indices = np.arange(len(images))
    traits_N, copy_ids_N = _read_traits(images, indices)
    # In the order of the ids, which is an order by content: no result depends on the order of the images.
    first_U = np.unique(copy_ids_N, return_index=True)[1]
    counts_U3, roots_U = _compare_all(_take(traits_N, first_U))
    counts_N3, roots_N = counts_U3[copy_ids_N], roots_U[copy_ids_N]

    reason = _explain_missed_copies(images, indices[first_U])
    if reason is None:
        reason = _explain_crowd(counts_N3, roots_N)
    if reason is not None:
        return NearDuplicates(_number_by_first(copy_ids_N), n_images=None, reason=reason)
    return NearDuplicates(_number_by_first(roots_N), n_images=int((counts_N3[:, 0] > 0).sum()), reason=None)


# ---- what is compared ----
class _Traits(NamedTuple):
    """The waves of B images, half their squared length (infinite for flat images), and their mean colours."""

    waves_BK: np.ndarray
    halves_B: np.ndarray
    colours_BC: np.ndarray


def _take(traits: _Traits, which: slice | np.ndarray) -> _Traits:
    return _Traits(*(values[which] for values in traits))


def _read_traits(images: Images, indices: np.ndarray) -> tuple[_Traits, np.ndarray]:
    """Return the traits of all images, and copy_ids_N, which are equal for equal bytes."""
    parts: list[_Traits] = []
    digests: list[bytes] = []
    for pixels_BCHW in _chunks(images, indices):
        parts.append(_measure_traits(pixels_BCHW))
        digests += [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in pixels_BCHW]
    traits_N = _Traits(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    return traits_N, np.unique(np.array(digests, dtype="V16"), return_inverse=True)[1]


def _chunks(images: Images, indices: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pixels of a few images at a time: the larger they are, the fewer."""
    n_values = images.batch(indices[:1]).size
    step = max(1, min(BLOCK, VALUES_AT_ONCE // n_values))
    for start in range(0, len(indices), step):
        yield images.batch(indices[start : start + step])


def _measure_traits(pixels_BCHW: np.ndarray) -> _Traits:
    _, n_channels, height, width = pixels_BCHW.shape
    weights_C = np.array(LUMA if n_channels == 3 else [1 / n_channels] * n_channels, dtype=np.float32)
    grey_BHW = sum(weight * pixels_BCHW[:, channel] for channel, weight in enumerate(weights_C))
    means_BC = pixels_BCHW.sum((2, 3), dtype=np.int64) / (height * width)
    colours_BC = (means_BC - (means_BC * weights_C).sum(1, keepdims=True)).astype(np.float32)

    waves_BVF = _cosines(height) @ (grey_BHW @ _cosines(width).T)
    squares_VF = np.arange(waves_BVF.shape[1])[:, None] ** 2 + np.arange(waves_BVF.shape[2]) ** 2
    waves_BK = (waves_BVF * squares_VF.astype(np.float32)).reshape(len(waves_BVF), -1)  # the constant becomes 0

    lengths_B = np.sqrt(np.square(waves_BK).sum(1))
    scales_B = LENGTH / np.maximum(lengths_B, MIN_CONTRAST)
    waves_BK = np.rint(waves_BK * scales_B[:, None])
    halves_B = np.square(waves_BK).sum(1) / 2
    halves_B[lengths_B < MIN_CONTRAST] = np.inf
    return _Traits(waves_BK, halves_B, colours_BC)


def _cosines(n_pixels: int) -> np.ndarray:
    """Return the slowest waves over a line of pixels, scaled so that a longer line has the same transform."""
    frequencies = np.arange(min(FREQUENCIES, n_pixels))
    places = (np.arange(n_pixels) + 0.5) / n_pixels
    return (np.cos(np.pi * frequencies[:, None] * places) / n_pixels).astype(np.float32)


# ---- who is near ----
class _Pairs(NamedTuple):
    """Pairs of images within the widest ring: their rows, their columns, and the index of their ring."""

    rows_P: np.ndarray
    columns_P: np.ndarray
    rings_P: np.ndarray


def _compare_all(traits_U: _Traits) -> tuple[np.ndarray, np.ndarray]:
    """Return how many others are in each ring around each image, and one root for all that near ones connect."""
    n_images = len(traits_U.halves_B)
    counts_U3 = np.zeros((n_images, 3), dtype=np.int64)
    roots_U = np.arange(n_images)
    ticker = Ticker("looking for near duplicates")
    for top in range(0, n_images, BLOCK):
        for left in range(top, n_images, BLOCK):
            one, other = (_take(traits_U, slice(start, start + BLOCK)) for start in (top, left))
            pairs = _find_pairs(one, other)
            ends_2P = np.stack([pairs.rows_P + top, pairs.columns_P + left])
            is_new_P = ends_2P[0] < ends_2P[1]  # on the diagonal, each pair comes twice, and each image meets itself
            for ring in range(3):
                in_ring_2P = ends_2P[:, is_new_P & (pairs.rings_P == ring)]
                counts_U3[:, ring] += np.bincount(in_ring_2P.ravel(), minlength=n_images)
                if ring == 0:
                    _connect(roots_U, *in_ring_2P)
        ticker.tick(1 - (1 - min(1, (top + BLOCK) / n_images)) ** 2)  # later rows have fewer columns left
    return counts_U3, roots_U


def _find_pairs(one: _Traits, other: _Traits) -> _Pairs:
    halves_BB = one.halves_B[:, None] + other.halves_B
    halves_BB -= one.waves_BK @ other.waves_BK.T
    rows_P, columns_P = np.nonzero(halves_BB <= RINGS[-1])
    shifts_PC = np.abs(one.colours_BC[rows_P] - other.colours_BC[columns_P])
    keep_P = (shifts_PC <= MAX_COLOUR_SHIFT).all(1)
    rows_P, columns_P = rows_P[keep_P], columns_P[keep_P]
    return _Pairs(rows_P, columns_P, np.searchsorted(RINGS, halves_BB[rows_P, columns_P]))


def _connect(roots_U: np.ndarray, ones: np.ndarray, others: np.ndarray) -> None:
    """Join the components of each pair, in place. A root is the first image of its component."""
    while len(ones):
        roots_2P = np.sort([roots_U[ones], roots_U[others]], axis=0)
        np.minimum.at(roots_U, roots_2P[1], roots_2P[0])
        while (roots_U != roots_U[roots_U]).any():
            roots_U[:] = roots_U[roots_U]
        is_apart = roots_U[ones] != roots_U[others]
        ones, others = ones[is_apart], others[is_apart]


def _number_by_first(ids_N: np.ndarray) -> np.ndarray:
    """Return int32 numbers in place of any ids, in the order of their first appearance."""
    _, first, codes_N = np.unique(ids_N, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int32)[codes_N]


# ---- whether the data can be judged ----
def _explain_missed_copies(images: Images, indices: np.ndarray) -> str | None:
    """Say which copies of the first images would be missed, or None. Flat images do not count."""
    n_images = 0
    found = dict.fromkeys(COPIES, 0)
    for pixels_BCHW in _chunks(images, indices[:SAMPLE]):
        small_BCHW = reduce_images(pixels_BCHW)  # for the time that it saves: small images lose the most
        traits = _measure_traits(small_BCHW)
        n_images += int(np.isfinite(traits.halves_B).sum())
        for change, make_copies in COPIES.items():
            pairs = _find_pairs(traits, _measure_traits(make_copies(small_BCHW)))
            found[change] += int(((pairs.rows_P == pairs.columns_P) & (pairs.rings_P == 0)).sum())
    if n_images == 0:
        return "all images are flat"
    for change, n_found in found.items():
        if n_found < MIN_FOUND * n_images:
            return f"only {n_found:,} of {n_images:,} copies, {change}, would be found"
    return None


def _explain_crowd(counts_N3: np.ndarray, roots_N: np.ndarray) -> str | None:
    """Say that the limit does not tell copies from images that merely look alike, or None where it does."""
    n_images = len(roots_N)
    is_marked_N = counts_N3[:, 0] > 0
    n_marked = int(is_marked_N.sum())
    if n_marked <= HARMLESS_SHARE * n_images:
        return None
    largest = int(np.bincount(roots_N).max())
    if largest > n_images / 2:
        return f"{largest:,} of {n_images:,} images would be copies of one"

    # Images that merely look alike and vary in d ways grow in number by GROWTH**(d / 2) from ring to ring. Real images
    # vary in more than two. Where they are sparse, those that are not marked tell how many to expect within the limit.
    n_inner, n_outer = counts_N3[~is_marked_N, 1:].sum(0)
    growth = n_outer / max(1, n_inner)
    n_expected = n_inner / (growth - 1) if growth > GROWTH else 0
    # A cluster of any size counts as a pair, lest one picture with a hundred copies hides the others.
    n_paired = 2 * len(np.unique(roots_N[is_marked_N]))
    are_expected = n_expected > max(n_paired / 2, HARMLESS_SHARE * n_images)

    # Where they are dense, most are marked, and have more images around them than near them.
    n_around_N = counts_N3[:, 1:].sum(1)
    is_crowded_N = is_marked_N & (n_around_N > counts_N3[:, 0])

    if are_expected or is_crowded_N.sum() > n_marked / 2:
        n_alike = int((~is_marked_N & (n_around_N > 0)).sum())
        return f"{n_marked:,} of {n_images:,} images would be marked, and {n_alike:,} more are almost as alike"
    return None
