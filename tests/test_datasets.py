"""Data sets: splits that leak nothing, ids that follow the content, batches that are normalised."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.datasets import load_digits

from quantfair.datasets import (
    ArrayImages,
    Attribute,
    Batches,
    DataError,
    DatasetSpec,
    RawData,
    find_dataset_id,
    load_dataset,
)
from quantfair.datasets.cache import measure
from quantfair.datasets.splits import make_splits, stratified_order

DIGITS = DatasetSpec(name="digits", task="digit", test_share=0.5)
GOLDEN_SPLITS = "b811e7e7b9a93c33"
MNIST = DatasetSpec(name="mnist", task="class", train_size=6000)


def label(codes_N: np.ndarray) -> dict[str, Attribute]:
    return {"label": Attribute(codes_N, tuple(map(str, range(codes_N.max() + 1))))}


def find_copies(images_NCHW: np.ndarray) -> np.ndarray:
    return measure(RawData(ArrayImages(images_NCHW), {})).copy_ids_N


def test_digits_are_scikit_learns_own_images_and_labels() -> None:
    data = load_dataset(DIGITS)
    pixels, digits = load_digits(return_X_y=True)
    assert np.array_equal(data.labels_N, digits)
    restored = data.images.batch(np.arange(len(digits)))[:, 0].reshape(len(digits), -1) * (16 / 255)
    assert np.abs(restored - pixels).max() < 0.05


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=st.integers(0, 99), data=st.data())
def test_every_prefix_of_a_stratified_order_holds_each_stratum_in_proportion(sizes, seed, data) -> None:
    strata = np.repeat(np.arange(len(sizes)), sizes)
    order = stratified_order(strata, seed)
    assert np.array_equal(np.sort(order), np.arange(len(strata)))
    n = data.draw(st.integers(0, len(strata)))
    counts = np.bincount(strata[order[:n]], minlength=len(sizes))
    # There is one share of which every stratum holds its part, to within one image.
    assert ((counts - 1) / sizes).max() <= ((counts + 1) / sizes).min()


def test_tiny_strata_come_into_the_test_set_as_often_as_their_share() -> None:
    strata = np.repeat(np.arange(201), [1000] + [1] * 100 + [2] * 100)
    n_test = round(0.2 * len(strata))
    rare = [(strata[stratified_order(strata, seed)[:n_test]] > 0).sum() for seed in range(200)]
    assert np.mean(rare) == pytest.approx(0.2 * 300, rel=0.05)


def test_splits_are_disjoint_complete_and_stratified() -> None:
    data = load_dataset(DIGITS)
    train, val, test = (data.splits[name] for name in ("train", "val", "test"))
    assert np.array_equal(np.sort(np.concatenate([train, val, test])), np.arange(1797))
    assert len(test) == 898
    counts = np.bincount(data.labels_N[test])
    assert np.abs(counts - np.bincount(data.labels_N) / 2).max() <= 1.5


def test_byte_identical_images_stay_on_one_side() -> None:
    images = np.random.default_rng(0).integers(0, 255, (300, 1, 4, 4), dtype=np.uint8)
    images[150:] = images[:150]
    labels = np.random.default_rng(1).integers(0, 3, 300)
    splits = make_splits(DIGITS, label(labels), copy_ids_N=find_copies(images))
    sides = [{images[i].tobytes() for i in splits[name]} for name in ("train", "val", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 150
    assert sum(len(split) for split in splits.values()) == 300


def test_copies_of_official_test_images_leave_the_training_set() -> None:
    images = np.random.default_rng(0).integers(0, 255, (100, 1, 4, 4), dtype=np.uint8)
    images[5] = images[95]
    spec = DatasetSpec(name="mnist", task="class")
    is_test = np.arange(100) >= 80
    splits = make_splits(spec, label(np.zeros(100, int)), copy_ids_N=find_copies(images), is_test_N=is_test)
    assert np.array_equal(splits["test"], np.arange(80, 100))
    assert sorted([*splits["train"], *splits["val"]]) == [i for i in range(80) if i != 5]


def test_a_smaller_subset_is_part_of_a_larger_one() -> None:
    copies, labels = np.arange(1000), np.arange(1000) % 10
    is_test = np.arange(1000) >= 800

    def split(n: int) -> dict[str, np.ndarray]:
        spec = DatasetSpec(name="mnist", task="class", test_size=n)
        return make_splits(spec, label(labels), copy_ids_N=copies, is_test_N=is_test)

    assert set(split(50)["test"]) < set(split(100)["test"])
    assert np.bincount(labels[split(50)["test"]]).tolist() == [5] * 10


def test_a_smaller_training_set_is_part_of_a_larger_one_and_of_no_validation_set() -> None:
    small, large = (load_dataset(DIGITS.model_copy(update={"train_size": n})).splits for n in (200, 400))
    assert set(small["train"]) < set(large["train"])
    assert set(small["val"]) < set(large["val"])
    assert not set(small["train"]) & set(large["val"])


def test_the_splits_are_those_of_yesterday() -> None:
    """They may change only when `ENGINE_VERSION` is raised: every stored result rests on them."""
    splits = load_dataset(DIGITS).splits
    digest = hashlib.sha256(b"".join(splits[name].astype("<i8").tobytes() for name in ("train", "val", "test")))
    assert digest.hexdigest()[:16] == GOLDEN_SPLITS


def test_train_size_is_exact() -> None:
    data = load_dataset(DIGITS.model_copy(update={"train_size": 300}))
    assert len(data.splits["train"]) == 300
    assert len(data.splits["val"]) == 33


def test_more_images_than_there_are_is_an_error() -> None:
    with pytest.raises(
        DataError, match=r"`dataset.train_size` asks for 1001 training images and 90 for validation, but there are 899"
    ):
        load_dataset(DIGITS.model_copy(update={"train_size": 1001}))


def test_an_empty_split_is_an_error() -> None:
    with pytest.raises(DataError, match=r"The val split of `digits` would be empty"):
        load_dataset(DIGITS.model_copy(update={"val_share": 0.0001}))


def test_the_id_follows_the_split_but_not_the_grouping() -> None:
    base = find_dataset_id(DIGITS)
    assert base == find_dataset_id(DIGITS.model_copy(update={"group_by": ("digit",)}))
    others = {find_dataset_id(DIGITS.model_copy(update=change)) for change in ({"test_share": 0.4}, {"split_seed": 1})}
    assert len({base, *others}) == 3
    assert load_dataset(DIGITS).dataset_id == base


def test_calibration_images_are_training_images_and_follow_their_seed() -> None:
    data = load_dataset(DIGITS)
    first, again, other = (data.calibration_indices(64, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(set(first)) == 64
    assert set(first) < set(data.splits["train"])
    assert len(data.calibration_indices(10_000, 0)) == len(data.splits["train"])


def test_training_batches_are_normalised_and_shuffled_by_their_generator() -> None:
    data = load_dataset(DIGITS)
    batches = Batches(data, data.splits["train"], batch_size=64)
    in_order = torch.cat([images for images, _ in batches.epoch()])
    assert in_order.mean().item() == pytest.approx(0, abs=1e-4)
    assert in_order.std().item() == pytest.approx(1, abs=1e-3)
    orders = [
        torch.cat([labels for _, labels in batches.epoch(torch.Generator().manual_seed(seed))]) for seed in (0, 0, 1)
    ]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert len(orders[0]) == len(batches) * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "age"}, "must be one of .'digit'., got 'age'"),
        ({"group_by": ("ethnicity",)}, "got 'ethnicity'"),
        ({"group_by": ("label*gender",)}, "got 'gender'"),
        ({"test_share": 1.5}, "less than 1"),
    ],
)
def test_a_data_set_spec_refuses_what_its_source_lacks(change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DatasetSpec(**{**DIGITS.model_dump(), **change})


def test_an_official_test_set_stays_whole() -> None:
    with pytest.raises(ValidationError, match="mnist has an official test set"):
        DatasetSpec(name="mnist", task="class", test_share=0.5)


def test_missing_mnist_says_where_to_put_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setenv("QUANTFAIR_DATA", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["file:///no/such/folder/"])
    with pytest.raises(DataError, match=r"MNIST is not in .*MNIST/raw and could not be downloaded .*four files"):
        find_dataset_id(MNIST)


def test_a_changed_source_file_changes_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_data: Path) -> None:
    before = find_dataset_id(MNIST)
    shutil.copytree(real_data / "MNIST", tmp_path / "MNIST")
    monkeypatch.setenv("QUANTFAIR_DATA", str(tmp_path))
    assert find_dataset_id(MNIST) == before
    labels = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    os.chmod(labels, 0o644)
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x00")
    assert find_dataset_id(MNIST) != before


def test_real_mnist_has_its_published_counts(real_data: Path) -> None:
    data = load_dataset(MNIST)
    assert len(data.images) == 70_000
    assert np.array_equal(data.splits["test"], np.arange(60_000, 70_000))
    assert np.bincount(data.labels_N[60_000:]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.images.batch(np.arange(2)).shape == (2, 1, 28, 28)


@given(
    n=st.integers(60, 150),
    seed=st.integers(0, 9999),
    is_official=st.booleans(),
    sizes=st.sampled_from([{}, {"train_size": 5, "test_size": 3}]),
)
def test_no_split_shares_a_copy_and_sizes_are_exact(n: int, seed: int, is_official: bool, sizes: dict) -> None:
    random = np.random.default_rng(seed)
    copy_ids = random.integers(0, n, n)
    attributes = {
        name: Attribute(random.integers(0, k, n), tuple("abcde"[:k])) for name, k in (("label", 3), ("group", 5))
    }
    is_test_N = np.arange(n) >= n - 10 if is_official else None
    spec = DatasetSpec(name="synthetic", task="class", split_seed=seed, val_share=0.3).model_copy(update=sizes)
    splits = make_splits(spec, attributes, copy_ids_N=copy_ids, is_test_N=is_test_N)
    sides = [set(copy_ids[split]) for split in splits.values()]
    assert sum(map(len, sides)) == len(set.union(*sides))
    if sizes:
        assert (len(splits["train"]), len(splits["test"])) == (5, 3)
    elif is_test_N is not None:
        assert np.array_equal(splits["test"], np.flatnonzero(is_test_N))
    else:
        assert sum(map(len, splits.values())) == n
