"""The sources on disk: converted once, shared afterwards, strict about what is in them."""

import bz2
import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torchvision

from datasets import DataError, DatasetSpec, find_dataset_id, load_dataset, utkface

UTKFACE = DatasetSpec(name="utkface", task="gender", group_by=("ethnicity", "ethnicity*gender"))
HEAD = "age,ethnicity,gender,img_name,pixels"


def csv_of(rows: list[tuple[object, object, object]], *, seed: int = 0, pixels: str | None = None) -> str:
    rng = np.random.default_rng(seed)
    lines = []
    for number, (age, ethnicity, gender) in enumerate(rows):
        values = pixels or " ".join(map(str, rng.integers(0, 256, 48 * 48)))
        lines.append(f"{age},{ethnicity},{gender},{number}.jpg,{values}")
    return "\n".join([HEAD, *lines, ""])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTFAIR_DATA", str(tmp_path))
    return tmp_path


def test_real_utkface_has_its_published_counts(real_data: Path) -> None:
    data = load_dataset(UTKFACE)
    counts = {name: np.bincount(column.codes_N).tolist() for name, column in data.attributes.items()}
    assert len(data.images) == 23_704
    assert dict(zip(data.attributes["gender"].names, counts["gender"], strict=True)) == {"male": 12390, "female": 11314}
    assert counts["ethnicity"] == [10078, 4525, 3434, 3975, 1692]
    assert data.class_names == ("male", "female")


def test_real_utkface_equals_what_pandas_reads(real_data: Path) -> None:
    data = load_dataset(UTKFACE)
    table = pd.read_csv(utkface._find_csv(real_data), nrows=50)
    images = np.stack([np.array(text.split(), dtype=np.uint8).reshape(1, 48, 48) for text in table["pixels"]])
    assert np.array_equal(data.images.batch(np.arange(50)), images)
    bins: Any = pd.cut(table["age"], list(utkface.AGE_EDGES))
    assert np.array_equal(data.attributes["age_bin"].codes_N[:50], bins.cat.codes)


def test_real_utkface_leaks_no_copies_and_can_drop_those_with_conflicts(real_data: Path) -> None:
    for exclude in (False, True):
        data = load_dataset(UTKFACE.model_copy(update={"exclude_conflicts": exclude}))
        faces = {name: [image.tobytes() for image in data.images.batch(split)] for name, split in data.splits.items()}
        total = sum(len(set(part)) for part in faces.values())
        assert total == len(set().union(*faces.values()))  # no face in two splits
        n_images = sum(map(len, faces.values()))
        assert n_images == 23_704 if not exclude else n_images < 23_704
        cells = {}
        for split in data.splits.values():
            codes = np.stack([data.attributes[name].codes_N[split] for name in ("gender", "ethnicity", "age_bin")], 1)
            for image, code in zip(data.images.batch(split), codes, strict=True):
                cells.setdefault(image.tobytes(), set()).add(tuple(code))
        conflicts = sum(len(values) > 1 for values in cells.values())
        assert conflicts == (0 if exclude else 192)


def test_real_utkface_is_stratified_by_every_attribute(real_data: Path) -> None:
    data = load_dataset(UTKFACE)
    cells = data.attributes["ethnicity"].codes_N * 2 + data.attributes["gender"].codes_N
    shares = [np.bincount(cells[data.splits[name]]) / len(data.splits[name]) for name in ("train", "test")]
    assert np.abs(shares[0] - shares[1]).max() < 0.005


def test_real_cifar10_equals_torchvisions(real_data: Path) -> None:
    data = load_dataset(DatasetSpec(name="cifar10", task="class", train_size=1000))
    test = torchvision.datasets.CIFAR10(str(real_data), train=False)
    assert np.array_equal(data.images.batch(np.arange(50_000, 50_100)), test.data[:100].transpose(0, 3, 1, 2))
    assert data.labels_N[50_000:50_100].tolist() == test.targets[:100]
    assert list(data.class_names) == test.classes
    assert data.n_channels == 3


def test_a_second_load_maps_the_converted_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "age_gender.csv").write_text(csv_of([(20, 0, 0)] * 40))
    first = utkface.load(folder)
    monkeypatch.setattr(utkface, "_convert", None)
    second = utkface.load(folder)
    assert isinstance(second.images.images_NCHW, np.memmap)  # type: ignore[attr-defined]
    assert np.array_equal(first.images.batch(np.arange(40)), second.images.batch(np.arange(40)))


def test_a_changed_source_is_noticed(folder: Path) -> None:
    file = folder / "age_gender.csv"
    file.write_text(csv_of([(20, 0, 0)] * 40))
    before = find_dataset_id(UTKFACE)
    utkface.load(folder)
    file.write_text(csv_of([(20, 1, 0)] * 40))
    assert find_dataset_id(UTKFACE) != before
    assert utkface.load(folder).attributes["ethnicity"].codes_N.tolist() == [1] * 40


def test_a_conversion_that_fails_leaves_nothing(folder: Path) -> None:
    (folder / "age_gender.csv").write_text(csv_of([(20, 0, 0), (20, 7, 0)]))
    with pytest.raises(DataError, match=r"row 2: `ethnicity` must be in 0..4, got 7; mend it"):
        utkface.load(folder)
    assert [path.name for path in (folder / ".quantfair").iterdir()] == ["index.json"]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zip"])
def test_compressed_files_are_read_as_they_are(folder: Path, suffix: str) -> None:
    text = csv_of([(age, 0, 1) for age in (1, 10, 11, 60, 61, 116)]).encode()
    packed = {".gz": gzip.compress, ".bz2": bz2.compress, ".zip": _zip}[suffix](text)
    (folder / "UTKFace").mkdir()
    (folder / "UTKFace" / f"age_gender.csv{suffix}").write_bytes(packed)
    assert utkface.load(folder).attributes["age_bin"].codes_N.tolist() == [0, 0, 1, 7, 8, 8]


def _zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("age_gender.csv", data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (csv_of([(20, 0, 0), ("", 0, 0)]), r"age_gender.csv, row 2: `age` must be in 1..120, got nan"),
        (csv_of([(121, 0, 0)]), r"row 1: `age` must be in 1..120, got 121"),
        (csv_of([(20, 0, 0), (20, 0, 0), (20, 0, "x")]), r"row 3: `gender` must be in 0..1, got x"),
        (csv_of([(20, 0, 0)], pixels="1 2 3"), r"row 1: `pixels` must hold 2304 numbers, got 3"),
        (csv_of([(20, 0, 0)], pixels=" ".join(["256"] * 2304)), r"row 1: `pixels` must be in 0..255"),
        ("a,b\n1,2\n", r"lacks the columns \['age', 'ethnicity', 'gender', 'pixels'\]"),
    ],
)
def test_a_wrong_row_is_named_with_its_remedy(folder: Path, text: str, message: str) -> None:
    (folder / "age_gender.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        utkface.load(folder)


def test_a_truncated_file_is_named(folder: Path) -> None:
    packed = bz2.compress(csv_of([(20, 0, 0)] * 40).encode())
    (folder / "age_gender.csv.bz2").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"age_gender.csv.bz2 cannot be read .*truncated"):
        utkface.load(folder)


def test_missing_utkface_says_where_to_get_it_and_its_terms(folder: Path) -> None:
    with pytest.raises(DataError, match=r"UTKFace is not in .*never downloaded.*non-commercial research"):
        find_dataset_id(UTKFACE)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_missing_files_that_cannot_be_downloaded_say_where_to_put_them(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "file:///no/such/file")
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["file:///no/such/folder/"])
    with pytest.raises(DataError, match=r"could not be downloaded .*point QUANTFAIR_DATA to the folder that holds"):
        find_dataset_id(DatasetSpec(name=name, task="class"))


def test_gzipped_idx_files_are_unpacked(folder: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (real_data / "MNIST" / "raw").glob("*.gz"):
        (raw / packed.name).write_bytes(packed.read_bytes())
    spec = DatasetSpec(name="mnist", task="class", train_size=100)
    here = find_dataset_id(spec)
    monkeypatch.setenv("QUANTFAIR_DATA", str(real_data))
    assert find_dataset_id(spec) == here


def test_a_damaged_gzip_is_named(folder: Path) -> None:
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is damaged or cannot be unpacked"):
        find_dataset_id(DatasetSpec(name="fashion_mnist", task="class"))
