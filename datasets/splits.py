"""Seeded, stratified splits that keep byte-identical images on one side.

The trick: `stratified_order` puts the images in an order of which *every* prefix is stratified. Test, validation and
training sets, and every subset of them, are then consecutive slices of it. A *unit* is the first image of a set of
byte-identical copies: splits are made of units, and the copies follow.
"""

from collections.abc import Mapping

import numpy as np

from quantfair.datasets.imbalance import find_shares, round_to_total
from quantfair.datasets.spec import TEST_SHARE, DatasetSpec
from quantfair.datasets.types import Attribute, DataError, RawData, cross_attributes, rank_within


def stratified_order(strata_N: np.ndarray, seed: int) -> np.ndarray:
    """Return a permutation of 0..N-1 in which the images of every stratum are spread evenly.

    A stratum of n images has one in each n-th of the order, at a random offset of its own: every prefix holds each
    stratum in proportion, to within one image of that stratum, and an image of a tiny stratum may stand anywhere.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(strata_N))
    strata = strata_N[shuffled]
    sizes = np.bincount(strata)
    position = (rank_within(strata) + rng.random(len(sizes))[strata]) / sizes[strata]
    return shuffled[np.argsort(position, kind="stable")]


def find_conflicts(raw: RawData, copy_ids_N: np.ndarray) -> np.ndarray:
    """Return is_conflicting_N: byte-identical images of which two differ in an attribute, or in a number behind it."""
    is_conflicting_N = np.zeros(len(copy_ids_N), dtype=bool)
    n_copies = copy_ids_N.max(initial=-1) + 1
    for values_N in [*(attribute.codes_N for attribute in raw.attributes.values()), *raw.numbers.values()]:
        lowest, highest = np.full(n_copies, np.iinfo(np.int64).max), np.full(n_copies, -1)
        np.minimum.at(lowest, copy_ids_N, values_N)
        np.maximum.at(highest, copy_ids_N, values_N)
        is_conflicting_N |= (lowest < highest)[copy_ids_N]
    return is_conflicting_N


def make_splits(
    spec: DatasetSpec,
    attributes: Mapping[str, Attribute],
    *,
    copy_ids_N: np.ndarray,
    is_test_N: np.ndarray | None = None,
    is_conflicting_N: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return sorted indices of train, val and test, stratified by all attributes together.

    Training images with a copy in an official test set are left out.

    Raises:
        DataError: more images are asked for than there are, or a split would be empty.
    """
    units = np.unique(copy_ids_N, return_index=True)[1]
    if spec.exclude_conflicts and is_conflicting_N is not None:
        units = units[~is_conflicting_N[units]]
    strata_N = _find_strata(attributes)
    test, pool = _divide(spec, units, strata_N, copy_ids_N=copy_ids_N, is_test_N=is_test_N)
    test = _first(test, spec.test_size, f"`dataset.test_size` asks for {spec.test_size} images")
    n_val, n_train = round(spec.val_share * len(pool)), spec.train_size
    if n_train is not None:
        n_val = min(n_val, round(n_train / (1 - spec.val_share)) - n_train)
        _first(
            pool, n_train + n_val, f"`dataset.train_size` asks for {n_train} training images and {n_val} for validation"
        )
    head, val = pool[: len(pool) - n_val], pool[len(pool) - n_val :]
    train = head[:n_train] if spec.imbalance == "none" else _imbalanced(spec, attributes, head)
    splits = {"train": train, "val": val, "test": test}
    for name, split in splits.items():
        if len(split) == 0:
            raise DataError(f"The {name} split of `{spec.name}` would be empty: ask for a larger share or size.")
        size = spec.test_size if name == "test" else spec.train_size
        splits[name] = np.sort(split) if size else np.flatnonzero(np.isin(copy_ids_N, copy_ids_N[split]))
    if is_test_N is not None:
        splits["test"] = splits["test"][is_test_N[splits["test"]]]
    return splits


def _find_strata(attributes: Mapping[str, Attribute]) -> np.ndarray:
    columns = np.stack([attribute.codes_N for attribute in attributes.values()], axis=1)
    return np.unique(columns, axis=0, return_inverse=True)[1]


def _divide(
    spec: DatasetSpec,
    units: np.ndarray,
    strata_N: np.ndarray,
    *,
    copy_ids_N: np.ndarray,
    is_test_N: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the units for the test split and the others, each in stratified order."""

    def shuffle(some: np.ndarray) -> np.ndarray:
        return some[stratified_order(strata_N[some], spec.split_seed)]

    if is_test_N is None:
        units = shuffle(units)
        n_test = round((spec.test_share or TEST_SHARE) * len(units))
        return units[:n_test], units[n_test:]
    if spec.test_share is not None:
        raise DataError(f"`dataset.test_share`: {spec.name} has an official test set; remove it, or use test_size.")
    tests = np.flatnonzero(is_test_N)
    in_test = np.isin(copy_ids_N[units], copy_ids_N[tests])
    first_test = tests[np.unique(copy_ids_N[tests], return_index=True)[1]]
    first_test = first_test[np.isin(copy_ids_N[first_test], copy_ids_N[units])]
    return shuffle(first_test), shuffle(units[~in_test])


def _first(units: np.ndarray, n: int | None, wanted: str) -> np.ndarray:
    if n is not None and n > len(units):
        raise DataError(f"{wanted}, but there are {len(units)}.")
    return units[:n]


def _imbalanced(spec: DatasetSpec, attributes: Mapping[str, Attribute], pool: np.ndarray) -> np.ndarray:
    """Return `train_size` units of the pool, as many of each group as the profile asks for."""
    assert spec.train_size is not None
    codes_N, names = cross_attributes(attributes, spec.imbalance_by)
    shares = find_shares(spec.imbalance, len(names))
    if len(shares) != len(names):
        raise DataError(
            f"`dataset.imbalance` has {len(shares)} shares, but {spec.imbalance_by} has {len(names)} groups: "
            f"{', '.join(names)}."
        )
    wanted = round_to_total(shares, spec.train_size)
    there = np.bincount(codes_N[pool], minlength=len(names))
    for name, n_wanted, n_there in zip(names, wanted, there, strict=True):
        if n_wanted > n_there:
            largest = min(int(n / share) for n, share in zip(there, shares, strict=True) if share > 0)
            raise DataError(
                f"`dataset.imbalance` {spec.imbalance} needs {n_wanted} training images of {spec.imbalance_by} "
                f"'{name}', but there are {n_there}: a `train_size` of up to {largest} would do."
            )
    return pool[rank_within(codes_N[pool]) < np.array(wanted)[codes_N[pool]]]
