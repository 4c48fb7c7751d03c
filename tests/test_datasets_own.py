"""Users' own data: picture folders, CSV files, functions; and the synthetic data whose hard group is known."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torchvision
from data_files import write_class_folders, write_picture
from PIL import Image
from pydantic import ValidationError

from quantfair.datasets import Batches, DataError, DatasetSpec, describe_dataset, find_dataset_id, load_dataset

PETS = DatasetSpec(name="image_folder", task="class", path="pets")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTFAIR_DATA", str(tmp_path))
    return tmp_path


def with_(spec: DatasetSpec, **changes: object) -> DatasetSpec:
    return DatasetSpec(**{**spec.model_dump(), **changes})


def test_class_folders_are_what_torchvision_makes_of_them(folder: Path) -> None:
    write_class_folders(folder / "pets", n=15, classes=("cat", "dog", "eel"))
    data = load_dataset(PETS)
    oracle = torchvision.datasets.ImageFolder(str(folder / "pets"))
    assert list(data.class_names) == oracle.classes
    assert data.labels_N.tolist() == oracle.targets
    pixels = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture, _ in oracle])
    assert np.array_equal(data.images.batch(np.arange(45)), pixels)


def test_pictures_of_any_size_are_resized_where_asked(folder: Path) -> None:
    write_class_folders(folder / "pets")
    odd = write_picture(folder / "pets" / "dog" / "odd.jpg", 7, size=(20, 16))
    with pytest.raises(DataError, match=r"odd.jpg has 20x16 pixels, but 000.png has 12x12: set `dataset.size`"):
        load_dataset(PETS)
    data = load_dataset(with_(PETS, size=8))
    with Image.open(odd) as picture:
        expected = np.asarray(picture.resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(data.images.batch(np.array([40]))[0], expected)


def write_table(folder: Path, rows: list[str], head: str = "path,label,coat,age") -> DatasetSpec:
    (folder / "pets" / "pets.csv").write_text("\n".join([head, *rows]) + "\n")
    return with_(PETS, path="pets/pets.csv", group_by=("coat", "coat*age"))


def pet_rows() -> list[str]:
    return [
        f"{name}/{i:03}.png,{name},{('long', 'short')[i % 2]},{(2, 10)[i // 10]}"
        for name in ("cat", "dog")
        for i in range(20)
    ]


def test_a_csv_gives_labels_and_groups(folder: Path) -> None:
    write_class_folders(folder / "pets")
    data = load_dataset(write_table(folder, pet_rows()))
    assert data.class_names == ("cat", "dog")
    assert data.attributes["age"].names == ("2", "10")  # numbers in their own order
    assert data.groups("coat*age").names == ("long*2", "long*10", "short*2", "short*10")
    assert np.bincount(data.groups("label*coat*age").codes_N).tolist() == [5] * 8
    by_folders = load_dataset(PETS)
    assert np.array_equal(data.images.batch(np.arange(40)), by_folders.images.batch(np.arange(40)))
    assert load_dataset(with_(PETS, path="pets/pets.csv", task="coat")).class_names == ("long", "short")


@pytest.mark.parametrize(
    ("head", "row", "message"),
    [
        (
            "path,label,coat,age",
            "cat/000.png,cat,,3",
            r"pets.csv, line 42: coat is missing. Complete the row or remove it",
        ),
        ("path,label,coat,age", "cat/000.png,cat,long", r"pets.csv, line 42: has 3 columns, must have 4"),
        ("path,label,coat,age", "cat/999.png,cat,long,3", r"row 41: .*999.png does not exist. Paths are relative to"),
        ("path,kind,coat,age", "", r"pets.csv has no column 'label'; it has path, kind, coat, age"),
        ("path,label,coat,coat", "", r"a column cannot be named 'coat'"),
        ("path,label,co*at,age", "", r"a column cannot be named 'co\*at'"),
    ],
)
def test_a_wrong_csv_is_named(head: str, row: str, message: str, folder: Path) -> None:
    write_class_folders(folder / "pets")
    with pytest.raises(DataError, match=message):
        load_dataset(write_table(folder, [*pet_rows(), row], head))


def test_a_csv_without_rows_is_named(folder: Path) -> None:
    write_class_folders(folder / "pets")
    with pytest.raises(DataError, match=r"pets.csv has no rows"):
        load_dataset(write_table(folder, []))


def test_an_unknown_column_to_group_by_is_named_before_a_trial_starts(folder: Path) -> None:
    write_class_folders(folder / "pets")
    spec = write_table(folder, pet_rows())
    with pytest.raises(DataError, match="no attribute 'fur' to group by; it has label, class, coat, age"):
        find_dataset_id(with_(spec, group_by=("fur",)))
    with pytest.raises(DataError, match=r"`dataset.task` must be one of class, coat, age for image_folder, got 'fur'"):
        find_dataset_id(with_(spec, task="fur"))


def test_wrong_folders_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"`dataset.path` is missing: image_folder needs the folder"):
        load_dataset(with_(PETS, path=None))
    with pytest.raises(DataError, match=r"pets does not exist. Relative paths start at the data folder"):
        load_dataset(PETS)
    (folder / "pets").mkdir()
    with pytest.raises(DataError, match=r"pets holds no folders with pictures: it needs one folder for each class"):
        load_dataset(PETS)
    write_class_folders(folder / "pets")
    with pytest.raises(DataError, match=r"pets/cat is a folder, where pictures should be: `path` must name the folder"):
        load_dataset(with_(PETS, path="."))
    (folder / "pets" / "eel").mkdir()
    with pytest.raises(DataError, match=r"eel holds no pictures: every folder is a class"):
        load_dataset(PETS)


def test_a_damaged_picture_is_named(folder: Path) -> None:
    write_class_folders(folder / "pets")
    good = folder / "pets" / "cat" / "005.png"
    good.write_bytes(good.read_bytes()[:60])
    with pytest.raises(DataError, match=r"005.png cannot be read as a picture .*replace it or take it away"):
        load_dataset(PETS)
    good.write_text("no picture")
    with pytest.raises(DataError, match=r"005.png cannot be read as a picture"):
        load_dataset(PETS)


def test_copies_of_a_picture_stay_on_one_side(folder: Path) -> None:
    write_class_folders(folder / "pets", n=30)
    for i in range(30):
        shutil.copy(folder / "pets" / "cat" / f"{i:03}.png", folder / "pets" / "dog" / f"copy{i:03}.png")
    data = load_dataset(PETS)
    sides = [{image.tobytes() for image in data.images.batch(split)} for split in data.splits.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 60
    facts = describe_dataset(PETS)
    assert facts["copies"] == {"sets": 30, "redundant_images": 30, "conflicting_sets": 30}
    clean = load_dataset(with_(PETS, exclude_conflicts=True))
    assert set(np.concatenate(list(clean.splits.values()))) == {*range(30, 60)}


def test_a_factory_is_plugged_in() -> None:
    spec = DatasetSpec(name="user_data:flowers", task="kind", group_by=("garden", "kind*garden"))
    data = load_dataset(spec)
    assert data.class_names == ("iris", "poppy", "rose")
    assert np.array_equal(data.splits["test"], np.arange(90, 120))
    assert load_dataset(spec).dataset_id == data.dataset_id
    assert load_dataset(with_(spec, task="garden")).class_names == ("north", "south")
    images_NCHW, labels_N = next(Batches(data, data.splits["train"], batch_size=16).epoch())
    assert images_NCHW.shape == (16, 3, 8, 8)
    assert labels_N.tolist() == data.labels_N[data.splits["train"][:16]].tolist()


def test_a_torchvision_data_set_is_plugged_in_by_a_factory() -> None:
    data = load_dataset(DatasetSpec(name="user_data:from_torchvision", task="class"))
    assert data.images.batch(np.arange(2)).shape == (2, 3, 10, 10)
    assert sum(map(len, data.splits.values())) == 50


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user_data:nothing", r"`dataset.name` user_data:nothing cannot be imported .*PYTHONPATH"),
        ("no_such_module:flowers", r"no_such_module:flowers cannot be imported"),
        ("user_data:no_raw_data", r"it must return datasets.RawData, got int"),
        ("user_data:empty", r"at least one image and one attribute"),
        ("user_data:floats", r"images must be uint8 of shape N x C x H x W, got float64 of shape \(1, 3, 8, 8\)"),
        ("user_data:short_column", r"kind must have one whole number for each of 120 images, got int64 \(7,\)"),
        ("user_data:wrong_code", r"kind of image 2 must be in 0..1, got 2"),
        ("user_data:reserved_name", r"an attribute cannot be named 'label'"),
        ("user_data:short_test", r"is_test_N must have one value for each of 120 images"),
    ],
)
def test_a_wrong_factory_is_named(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(DatasetSpec(name=name, task="kind"))


def test_an_official_test_set_of_a_factory_has_no_share() -> None:
    with pytest.raises(DataError, match=r"`dataset.test_share`: user_data:flowers has an official test set"):
        load_dataset(DatasetSpec(name="user_data:flowers", task="kind", test_share=0.5))


def contrast(spec: DatasetSpec, group: str) -> np.ndarray:
    """Standard deviation of the pixels of each image of a group: noise and bars."""
    data = load_dataset(spec)
    codes_N, names = data.attributes["group"]
    return data.images.batch(np.flatnonzero(codes_N == names.index(group))).astype(float).std((1, 2, 3))


def test_synthetic_data_makes_exactly_the_chosen_share_of_the_chosen_group_harder() -> None:
    spec = DatasetSpec(name="synthetic", task="class", group_by=("group",), hard_share=0.25, hard_group="b")
    is_hard = contrast(spec, "b") < 45
    assert is_hard.sum() == round(0.25 * 720)
    assert (contrast(spec, "a") > 45).all()
    assert (contrast(spec, "c") > 45).all()
    assert load_dataset(spec).dataset_id == load_dataset(spec).dataset_id
    assert load_dataset(spec).dataset_id != load_dataset(with_(spec, hard_share=0.3)).dataset_id


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "digits", "task": "digit", "path": "x"}, "is not a setting of digits; remove it"),
        ({"name": "utkface", "task": "gender", "hard_share": 0.1}, "is not a setting of utkface; remove it"),
        ({"name": "synthetic", "task": "class", "size": 8}, "is not a setting of synthetic; remove it"),
        ({"name": "utkface", "task": "gender", "size": 1}, "greater than or equal to 4"),
        ({"name": "user-data", "task": "x"}, "'synthetic' or 'package.module:factory'"),
    ],
)
def test_a_setting_of_another_source_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DatasetSpec(**values)


def test_an_unknown_hard_group_is_named() -> None:
    with pytest.raises(DataError, match=r"`dataset.hard_group` must be one of a, b, c, got 'd'"):
        load_dataset(DatasetSpec(name="synthetic", task="class", hard_group="d"))


def test_a_table_that_is_no_text_is_refused(folder: Path) -> None:
    write_class_folders(folder / "pets")
    table = folder / "pets" / "pets.csv"
    table.write_bytes(b"path,label\ncat/000.png,\xff\xfe\n")
    with pytest.raises(DataError, match=r"pets.csv is no CSV file in UTF-8 \(.*0xff.*\): save it as one"):
        load_dataset(with_(PETS, path="pets/pets.csv"))


def test_a_task_with_one_class_is_refused(folder: Path) -> None:
    write_class_folders(folder / "pets", classes=("cat",))
    with pytest.raises(DataError, match=r"`dataset.task` class of image_folder has only one class, cat: a classifier"):
        load_dataset(PETS)
