"""Augmented batches: what torchvision's transforms would give, from one generator, in training alone."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from datasets import Batches, DataError, DatasetSpec, load_dataset
from datasets.augment import crop, find_augmentations, flip

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (64, 3, 32, 32), dtype=np.uint8))
STRIPES = DatasetSpec(name="synthetic", task="class")


def test_a_crop_is_one_of_torchvisions_crops_of_the_padded_image() -> None:
    cropped = crop(IMAGES, torch.Generator().manual_seed(0))
    padded = functional.pad(IMAGES, [4])
    shifts = [(down, right) for down in range(9) for right in range(9)]
    found = []
    for before, after in zip(padded, cropped, strict=True):
        fits = [s for s in shifts if torch.equal(functional.crop(before, *s, 32, 32), after)]
        assert len(fits) == 1
        found += fits
    assert {down for down, _ in found} == {right for _, right in found} == set(range(9))


def test_about_half_of_a_batch_is_mirrored() -> None:
    flipped = flip(IMAGES, torch.Generator().manual_seed(0))
    is_same = (flipped == IMAGES).flatten(1).all(1)
    is_mirrored = (flipped == functional.hflip(IMAGES)).flatten(1).all(1)
    assert torch.equal(is_same, ~is_mirrored)
    assert 20 <= int(is_same.sum()) <= 44


@pytest.mark.parametrize("side", [8, 28, 48, 200])
def test_a_crop_reaches_an_eighth_of_the_height(side: int) -> None:
    images = torch.arange(1, side + 1, dtype=torch.uint8).reshape(1, 1, side, 1).expand(300, 1, side, side)
    cropped = crop(images, torch.Generator().manual_seed(0))
    tops = cropped[:, 0, side // 2].amax(1)
    tops = tops[tops > 0].int() - (side // 2 + 1)
    assert int(tops.max()) == -int(tops.min()) == side // 8


def test_augmented_epochs_follow_their_generator() -> None:
    data = load_dataset(STRIPES)
    batches = Batches(data, data.splits["train"], batch_size=64, augment=("flip", "crop"))
    plain = Batches(data, data.splits["train"], batch_size=64)

    def epoch(of: Batches, seed: int) -> torch.Tensor:
        return torch.cat([images for images, _ in of.epoch(torch.Generator().manual_seed(seed))])

    assert torch.equal(epoch(batches, 0), epoch(batches, 0))
    assert not torch.equal(epoch(batches, 0), epoch(batches, 1))
    assert not torch.equal(epoch(batches, 0), epoch(plain, 0))
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.cat([images for images, _ in batches.epoch(generator)]) for _ in range(2))
    assert not torch.equal(first, second)


def test_passes_in_order_are_never_augmented() -> None:
    data = load_dataset(STRIPES)
    augmented, plain = (
        torch.cat(list(Batches(data, data.splits["val"], batch_size=64, augment=names).images()))
        for names in (("crop", "flip"), ())
    )
    assert torch.equal(augmented, plain)


def test_black_moves_in_before_normalisation() -> None:
    data = load_dataset(STRIPES)
    batches = Batches(data, data.splits["train"], batch_size=64, augment=("crop",))
    images = torch.cat([images for images, _ in batches.epoch(torch.Generator().manual_seed(0))])
    assert images.min().item() == pytest.approx(float(-data.mean_C[0] / data.std_C[0]), rel=1e-5)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_digits_are_never_flipped(name: str) -> None:
    with pytest.raises(DataError, match=rf"`train.augment` must not hold 'flip' for {name}: .*mirrored"):
        find_augmentations(("flip",), dataset=name, may_flip=False)
    data = load_dataset(DatasetSpec(name="digits", task="digit"))
    with pytest.raises(DataError, match="hold 'flip' for digits"):
        Batches(data, data.splits["train"], batch_size=8, augment=("crop", "flip"))


def test_an_unknown_augmentation_is_named() -> None:
    with pytest.raises(DataError, match=r"`train.augment` must hold only crop, flip, got 'rotate'"):
        find_augmentations(("rotate",), dataset="cifar10", may_flip=True)
