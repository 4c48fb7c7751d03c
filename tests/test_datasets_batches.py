"""Augmented batches: what torchvision's transforms would give, from one generator, in training alone."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional
from torchvision.transforms.v2 import functional as v2

from quantfair.datasets import Batches, DataError, DatasetSpec, load_dataset
from quantfair.datasets.augment import crop, find_augmentations, flip

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (64, 3, 32, 32), dtype=np.uint8))
STRIPES = DatasetSpec(name="synthetic", task="class")
FLOWERS = DatasetSpec(name="user_data:flowers", task="kind")


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


def test_images_are_resized_and_normalised_as_by_torchvision() -> None:
    data = load_dataset(FLOWERS)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    indices = data.splits["test"][:20]
    pixels = torch.from_numpy(data.images.batch(indices)).float() / 255
    height = pixels.shape[2]
    for side in (height // 2, height, 2 * height):
        batches = Batches(data, indices, batch_size=8, resize=side, mean=mean, std=std)
        resized = v2.resize(pixels, [side, side], antialias=True)
        expected = v2.normalize(resized, mean=list(mean), std=list(std))
        torch.testing.assert_close(torch.cat(list(batches.images())), expected)
    assert not torch.allclose(
        v2.resize(pixels, [height // 2] * 2, antialias=False), v2.resize(pixels, [height // 2] * 2)
    )


def test_what_is_left_out_of_the_normalisation_is_that_of_the_training_split() -> None:
    data = load_dataset(FLOWERS)
    pixels = torch.from_numpy(data.images.batch(data.splits["test"])).float() / 255
    (images,) = Batches(data, data.splits["test"], batch_size=len(pixels), mean=(0.1, 0.2, 0.3)).images()
    expected = v2.normalize(pixels, mean=[0.1, 0.2, 0.3], std=data.std_C.tolist())
    torch.testing.assert_close(images, expected)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_statistics_for_other_channels_name_both_sides(name: str) -> None:
    data = load_dataset(DatasetSpec(name="digits", task="digit"))
    message = f"`{name}` must have a number for each channel, got 3; the images of digits have 1"
    with pytest.raises(DataError, match=message):
        data.normalization(**{name: (0.5, 0.5, 0.5)})
    with pytest.raises(DataError, match="`mean` must have a number"):
        Batches(data, data.splits["train"], batch_size=8, mean=(0.5, 0.5, 0.5))
