"""MNIST, Fashion-MNIST and CIFAR-10 against torchvision's own reading, and their missing or damaged files."""

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision

from quantfair.datasets import DataError, DatasetSpec, describe_dataset, load_dataset
from quantfair.datasets.cifar10 import FILES as CIFAR_FILES
from quantfair.datasets.mnist import FILES

CIFAR = DatasetSpec(name="cifar10", task="class")
FASHION = DatasetSpec(name="fashion_mnist", task="class")
MNIST = DatasetSpec(name="mnist", task="class")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTFAIR_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("spec", "n_train"), [(MNIST, 60_000), (CIFAR, 50_000)], ids=["mnist", "cifar10"])
def test_images_and_labels_are_torchvisions(spec: DatasetSpec, n_train: int, real_data: Path) -> None:
    data = load_dataset(spec)
    read = {"mnist": torchvision.datasets.MNIST, "cifar10": torchvision.datasets.CIFAR10}[spec.name]
    for train, offset in ((True, 0), (False, n_train)):
        oracle = read(str(real_data), train=train)
        assert data.labels_N[offset : offset + len(oracle)].tolist() == list(map(int, oracle.targets))
        for index in (0, 1234, len(oracle) - 1):
            image_HWC = np.asarray(oracle[index][0]).reshape(*data.images.batch(np.arange(1)).shape[2:], -1)
            assert np.array_equal(data.images.batch(np.array([offset + index]))[0], image_HWC.transpose(2, 0, 1))
    assert np.array_equal(data.splits["test"], np.arange(n_train, n_train + 10_000))


def test_the_class_names_are_those_of_the_files(real_data: Path) -> None:
    assert list(load_dataset(CIFAR).class_names) == torchvision.datasets.CIFAR10(str(real_data)).classes
    assert list(load_dataset(MNIST).class_names) == list("0123456789")


def test_real_splits_share_no_image(real_data: Path) -> None:
    data = load_dataset(CIFAR)
    sides = [{image.tobytes() for image in data.images.batch(split)} for split in data.splits.values()]
    assert sum(map(len, sides)) == len(set.union(*sides))


def test_the_real_files_are_the_published_ones(real_data: Path) -> None:
    for spec in (MNIST, CIFAR):
        assert describe_dataset(spec)["is_published"] is True


def write_fashion(folder: Path, n: int = 100) -> Path:
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, size in zip(FILES, (n, n, n // 2, n // 2), strict=True):
        if "images" in name:
            pixels = random.integers(0, 256, (size, 28, 28), dtype=np.uint8)
            (raw / name).write_bytes(struct.pack(">IIII", 0x803, size, 28, 28) + pixels.tobytes())
        else:
            (raw / name).write_bytes(struct.pack(">II", 0x801, size) + bytes(i % 10 for i in range(size)))
    return raw


def test_fashion_mnist_has_torchvisions_names_and_may_be_flipped(folder: Path) -> None:
    write_fashion(folder)
    data = load_dataset(FASHION)
    assert list(data.class_names) == torchvision.datasets.FashionMNIST(str(folder)).classes
    assert data.may_flip
    assert len(data.splits["test"]) == 50
    assert describe_dataset(FASHION)["is_published"] is None


def test_damaged_files_are_named(folder: Path) -> None:
    raw = write_fashion(folder)
    images = raw / FILES[0]
    images.write_bytes(images.read_bytes()[:-10])
    message = r"The files in .*FashionMNIST/raw are damaged \(train-images-idx3-ubyte of the wrong size\): remove them"
    with pytest.raises(DataError, match=message):
        load_dataset(FASHION)
    images.write_bytes(b"")
    with pytest.raises(DataError, match=r"The files in .*FashionMNIST/raw are damaged"):
        load_dataset(FASHION)
    shutil.rmtree(raw)
    labels = write_fashion(folder) / FILES[1]
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x0b")
    with pytest.raises(DataError, match=r"damaged \(150 images, 150 labels up to 11\)"):
        load_dataset(FASHION)


def test_missing_fashion_mnist_says_where_to_put_what(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["file:///no/such/folder/"])
    with pytest.raises(DataError, match=r"FashionMNIST is not in .* could not be downloaded .*holds FashionMNIST/raw"):
        load_dataset(FASHION)


def test_missing_cifar10_says_where_to_put_what(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "file:///no/such/file.tar.gz")
    with pytest.raises(DataError, match=r"CIFAR-10 is not in .* could not be downloaded .*seven files.*batches.meta"):
        load_dataset(CIFAR)


def test_an_altered_cifar10_is_refused(folder: Path, real_data: Path) -> None:
    target = folder / "cifar-10-batches-py"
    target.mkdir()
    for name in CIFAR_FILES:
        os.symlink(real_data / "cifar-10-batches-py" / name, target / name)
    (target / "test_batch").unlink()
    (target / "test_batch").write_bytes(b"altered")
    with pytest.raises(DataError, match=r"are not the published ones \(test_batch\): .*md5 does not fit. Remove them"):
        load_dataset(CIFAR)


def test_a_cifar10_without_one_file_is_fetched_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("quantfair.datasets.cifar10.download", lambda folder, spec: asked.append(folder))
    with pytest.raises(DataError, match=r"CIFAR-10 is not complete: .*data_batch_1 is missing"):
        load_dataset(CIFAR)
    assert asked == [folder]
