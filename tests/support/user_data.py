"""Data sets as users write them, for `name = "user_data:NAME"`."""

import numpy as np
import torchvision

from quantfair.datasets import ArrayImages, Attribute, RawData


def make_images(n: int = 120) -> ArrayImages:
    return ArrayImages(np.random.default_rng(0).integers(0, 256, (n, 3, 8, 8), dtype=np.uint8))


def flowers() -> RawData:
    kind = Attribute(np.arange(120) % 3, ("iris", "poppy", "rose"))
    garden = Attribute(np.arange(120) // 60, ("north", "south"))
    return RawData(make_images(), {"kind": kind, "garden": garden}, is_test_N=np.arange(120) >= 90)


def from_torchvision() -> RawData:
    fake = torchvision.datasets.FakeData(50, (3, 10, 10), num_classes=2)
    pictures, codes = zip(*(fake[index] for index in range(len(fake))), strict=True)
    images_NCHW = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in pictures])
    return RawData(ArrayImages(images_NCHW), {"class": Attribute(np.array(codes), ("a", "b"))})


def no_raw_data() -> int:
    return 3


def empty() -> RawData:
    return RawData(make_images(0), {"kind": Attribute(np.arange(0), ("iris",))})


def floats() -> RawData:
    images = ArrayImages(np.zeros((4, 3, 8, 8)))
    return RawData(images, {"kind": Attribute(np.zeros(4, int), ("iris",))})


def short_column() -> RawData:
    return RawData(make_images(), {"kind": Attribute(np.zeros(7, int), ("iris",))})


def wrong_code() -> RawData:
    return RawData(make_images(), {"kind": Attribute(np.arange(120) % 3, ("iris", "poppy"))})


def reserved_name() -> RawData:
    return RawData(make_images(), {"label": Attribute(np.zeros(120, int), ("iris",))})


def short_test() -> RawData:
    return flowers()._replace(is_test_N=np.zeros(3, bool))
