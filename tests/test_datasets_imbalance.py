"""Imbalance of the training split, and calibration sets that are balanced: counts are exact, and only train changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from quantfair.datasets import DataError, DatasetSpec, GroupedDataset, load_dataset
from quantfair.datasets.imbalance import find_fault, find_shares, round_to_total


def synthetic(**changes: object) -> DatasetSpec:
    return DatasetSpec(**{"name": "synthetic", "task": "class", "train_size": 400, **changes})  # type: ignore[arg-type]


def count_train(data: GroupedDataset, attribute: str = "label") -> list[int]:
    codes_N, names = data.groups(attribute)
    return np.bincount(codes_N[data.splits["train"]], minlength=len(names)).tolist()


def test_a_long_tail_falls_geometrically_to_its_ratio() -> None:
    shares = find_shares("longtail:100", 5)
    ratios = np.array(shares[:-1]) / np.array(shares[1:])
    assert ratios == pytest.approx(100 ** (1 / 4))
    assert sum(shares) == pytest.approx(1)
    assert find_shares("longtail:100:reversed", 5) == shares[::-1]


@given(weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=12), total=st.integers(1, 100_000))
def test_rounded_counts_add_up_and_stay_within_one(weights: list[float], total: int) -> None:
    shares = [weight / sum(weights) for weight in weights]
    counts = round_to_total(shares, total)
    assert sum(counts) == total
    assert max(abs(n - share * total) for n, share in zip(counts, shares, strict=True)) < 1 + 1e-6


@pytest.mark.parametrize(
    ("profile", "by", "expected"),
    [
        ("longtail:8", "label", [213, 107, 53, 27]),
        ("longtail:8:reversed", "label", [27, 53, 107, 213]),
        ("shares:0.4,0.3,0.2,0.1", "label", [160, 120, 80, 40]),
        ("shares:0.6,0.3,0.1", "group", [240, 120, 40]),
        ("shares:0.7,0.3,0", "group", [280, 120, 0]),
    ],
)
def test_training_images_follow_the_profile_exactly(profile: str, by: str, expected: list[int]) -> None:
    assert count_train(load_dataset(synthetic(imbalance=profile, imbalance_by=by)), by) == expected


def test_only_train_changes_and_its_total_stays() -> None:
    plain, skewed = (load_dataset(synthetic(imbalance=profile)) for profile in ("none", "longtail:20"))
    assert len(plain.splits["train"]) == len(skewed.splits["train"]) == 400
    for split in ("val", "test"):
        assert np.array_equal(plain.splits[split], skewed.splits[split])
    everything = np.concatenate(list(skewed.splits.values()))
    assert len(set(everything)) == len(everything)
    assert plain.dataset_id != skewed.dataset_id


def test_what_has_no_effect_changes_no_id() -> None:
    assert load_dataset(synthetic(imbalance_by="group")).dataset_id == load_dataset(synthetic()).dataset_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_size": 1200, "imbalance": "longtail:20"},
            r"needs 772 training .*'horizontal', but there are 447: a `train_size` of up to 694 would",
        ),
        ({"imbalance": "shares:0.5,0.5"}, r"has 2 shares, but label has 4 groups: horizontal, vertical"),
    ],
)
def test_an_impossible_profile_says_what_is_possible(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(synthetic(**changes))


def test_the_largest_size_that_the_error_names_works() -> None:
    assert len(load_dataset(synthetic(train_size=694, imbalance="longtail:20")).splits["train"]) == 694


@pytest.mark.parametrize(
    ("profile", "fault"),
    [
        ("long", 'must be like "none"'),
        ("longtail:", 'must be like "none"'),
        ("longtail:0.5", "must name a ratio of at least 1"),
        ("shares:0.5,0.4", "add up to 1, got 'shares:0.5,0.4', which adds up to 0.9"),
        ("shares:1", 'must be like "none"'),
    ],
)
def test_a_profile_that_cannot_be_read_is_refused(profile: str, fault: str) -> None:
    assert fault in str(find_fault(profile))
    with pytest.raises(ValidationError, match=fault.split('"')[0].split(",")[0]):
        synthetic(imbalance=profile)


def test_a_profile_without_a_size_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs `train_size`: the training set has that many images under every"):
        synthetic(imbalance="longtail:2", train_size=None)
    with pytest.raises(ValidationError, match=r"must be one of .*'group', 'label'.*, got 'gender'"):
        synthetic(imbalance="longtail:2", imbalance_by="gender")


def test_calibration_balances_the_groups_and_fills_up_from_the_others() -> None:
    data = load_dataset(synthetic(train_size=1000))
    codes_N = data.attributes["group"].codes_N
    assert np.bincount(codes_N[data.calibration_indices(90, 0, "group")]).tolist() == [30, 30, 30]
    n_small = int((codes_N[data.splits["train"]] == 2).sum())
    counts = np.bincount(codes_N[data.calibration_indices(600, 0, "group")])
    assert counts[2] == n_small == 100
    assert counts.sum() == 600
    assert abs(int(counts[0]) - int(counts[1])) <= 1
    crossed = data.groups("label*group").codes_N
    assert np.bincount(crossed[data.calibration_indices(120, 0, "label*group")]).tolist() == [10] * 12


def test_a_balanced_draw_follows_its_seed_and_stays_in_train() -> None:
    data = load_dataset(synthetic())
    first, again, other = (data.calibration_indices(60, seed, "group") for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert set(first) < set(data.splits["train"])
    assert np.array_equal(np.sort(data.calibration_indices(10_000, 0, "group")), data.splits["train"])


def test_an_unknown_grouping_is_named() -> None:
    data = load_dataset(synthetic())
    with pytest.raises(DataError, match="no attribute 'gender' to group by; it has label, class, group"):
        data.calibration_indices(10, 0, "group*gender")
