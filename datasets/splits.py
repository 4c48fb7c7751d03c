"""Seeded, stratified splits that keep byte-identical images on one side.

The trick: `stratified_order` puts the images in an order of which *every* prefix is stratified. Test, validation and
training sets, and every subset of them, are then consecutive slices of it.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from datasets.spec import TEST_SHARE, DatasetSpec
from datasets.types import DataError, Images


def stratified_order(strata_N: np.ndarray, seed: int) -> np.ndarray:
    """Return a permutation of 0..N-1 in which the images of every stratum are spread evenly.

    A stratum of n images has one in each n-th of the order, at a random offset of its own: every prefix holds each
    stratum in proportion, to within one image of that stratum, and an image of a tiny stratum may stand anywhere.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(strata_N))
    strata = strata_N[shuffled]
    by_stratum = np.argsort(strata, kind="stable")
    sizes = np.bincount(strata, minlength=strata.max(initial=0) + 1)
    rank = np.arange(len(strata)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    position = np.empty(len(strata))
    position[by_stratum] = (rank + np.repeat(rng.random(len(sizes)), sizes)) / np.repeat(sizes, sizes)
    return shuffled[np.argsort(position, kind="stable")]


def find_copies(images: Images) -> np.ndarray:
    """Return copy_ids_N: images with equal bytes have equal ids."""
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in _each(images)]
    return np.unique(np.array(digests, dtype="S16"), return_inverse=True)[1]


def cross(codes: Iterable[np.ndarray]) -> np.ndarray:
    """Return cells_N: images that agree in all attributes have equal numbers, from 0 up."""
    return np.unique(np.stack(list(codes)), axis=1, return_inverse=True)[1].reshape(-1)


def _each(images: Images, chunk: int = 4096) -> Iterator[np.ndarray]:
    for start in range(0, len(images), chunk):
        yield from images.batch(np.arange(start, min(start + chunk, len(images))))


def make_splits(
    spec: DatasetSpec, *, cells_N: np.ndarray, copy_ids_N: np.ndarray, is_test_N: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return sorted indices of train, val and test, stratified by `cells_N`, the attributes of the images crossed.

    Training images with a copy in an official test set are left out.

    Raises:
        DataError: more images are asked for than there are, or a split would be empty.
    """
    units = np.unique(copy_ids_N, return_index=True)[1]  # the first image of every set of copies
    if spec.exclude_conflicts:
        units = units[~_has_conflict(cells_N, copy_ids_N)]
    if is_test_N is None:
        units = _shuffle(units, cells_N, spec)
        n_test = round((spec.test_share or TEST_SHARE) * len(units))
        test_units, pool = units[:n_test], units[n_test:]
    else:
        in_test = np.isin(copy_ids_N, copy_ids_N[is_test_N])[units]
        test_units, pool = (_shuffle(units[side], cells_N, spec) for side in (in_test, ~in_test))
    test_units = _first(test_units, spec.test_size, f"`dataset.test_size` asks for {spec.test_size} images")
    n_val, n_train = round(spec.val_share * len(pool)), spec.train_size
    if n_train is not None:
        n_val = min(n_val, round(n_train / (1 - spec.val_share)) - n_train)
        wanted = f"`dataset.train_size` asks for {n_train} training images and {n_val} for validation"
        _first(pool, n_train + n_val, wanted)
    chosen = {"train": pool[: len(pool) - n_val][:n_train], "val": pool[len(pool) - n_val :], "test": test_units}
    for name, split in chosen.items():
        if len(split) == 0:
            raise DataError(f"The {name} split of `{spec.name}` would be empty: ask for a larger share or size.")
    splits = {name: np.flatnonzero(np.isin(copy_ids_N, copy_ids_N[split])) for name, split in chosen.items()}
    if is_test_N is not None:
        splits["test"] = splits["test"][is_test_N[splits["test"]]]
    return splits


def _has_conflict(cells_N: np.ndarray, copy_ids_N: np.ndarray) -> np.ndarray:
    """For each set of copies, whether its images disagree in an attribute."""
    n_cells = np.bincount(np.unique(np.stack([copy_ids_N, cells_N]), axis=1)[0])
    return n_cells > 1


def _shuffle(units: np.ndarray, cells_N: np.ndarray, spec: DatasetSpec) -> np.ndarray:
    return units[stratified_order(cells_N[units], spec.split_seed)]


def _first(units: np.ndarray, n: int | None, wanted: str) -> np.ndarray:
    if n is not None and n > len(units):
        raise DataError(f"{wanted}, but there are {len(units)}.")
    return units[:n]
