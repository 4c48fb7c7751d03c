"""UTKFace: the counts of the real files, splits that leak nothing, and every way in which a file can be wrong."""

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_files import csv_row, write_csv, write_picture
from PIL import Image

from quantfair.datasets import DataError, DatasetSpec, GroupedDataset, describe_dataset, load_dataset
from quantfair.datasets.utkface import AGE_BINS, AGE_EDGES, _describe_faces, load

FACES = DatasetSpec(name="utkface", task="gender", group_by=("ethnicity*gender", "age_bin"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTFAIR_DATA", str(tmp_path))
    return tmp_path


def with_(**changes: object) -> DatasetSpec:
    return DatasetSpec(**{**FACES.model_dump(), **changes})


def bytes_of(data: GroupedDataset, split: str) -> set[bytes]:
    return {image.tobytes() for image in data.images.batch(data.splits[split])}


def test_the_real_csv_has_its_published_counts(real_data: Path) -> None:
    facts = describe_dataset(FACES)
    assert facts["n_images"] == 23_704
    assert facts["shape"] == [1, 48, 48]
    assert facts["groups"]["gender"] == {"Male": 12_390, "Female": 11_314}
    assert list(facts["groups"]["ethnicity"].items()) == [
        ("White", 10_078), ("Black", 4_525), ("Asian", 3_434), ("Indian", 3_975), ("Others", 1_692)
    ]  # fmt: skip
    assert facts["copies"] == {"sets": 375, "redundant_images": 390, "conflicting_sets": 259}
    assert facts["notes"] == ["ages 1..116"]


@pytest.mark.parametrize("task", ["gender", "ethnicity", "age"])
def test_no_real_face_is_in_two_splits(task: str, real_data: Path) -> None:
    data = load_dataset(with_(task=task))
    sides = [bytes_of(data, split) for split in ("train", "val", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 23_704 - 390
    assert sum(map(len, data.splits.values())) == 23_704


def test_real_splits_hold_every_combination_of_target_and_groups_in_proportion(real_data: Path) -> None:
    data = load_dataset(with_(task="age"))
    codes_N, names = data.groups("age_bin*gender*ethnicity")
    assert len(names) == 90
    everywhere = np.bincount(codes_N, minlength=90)
    in_test = np.bincount(codes_N[data.splits["test"]], minlength=90)
    assert np.abs(in_test - everywhere * len(data.splits["test"]) / 23_704).max() < 8  # copies come in pairs
    assert in_test[everywhere > 20].min() > 0


def test_conflicting_copies_are_dropped_where_asked(real_data: Path) -> None:
    kept = load_dataset(with_(exclude_conflicts=True))
    indices = np.sort(np.concatenate(list(kept.splits.values())))
    frame = pd.DataFrame({"image": [kept.images.batch(np.array([i])).tobytes() for i in range(23_704)]})
    sizes = frame.groupby("image").image.transform("size")
    dropped = np.setdiff1d(np.arange(23_704), indices)
    assert len(set(frame.image[dropped])) == 259
    assert (sizes[dropped] > 1).all()
    assert not bytes_of(kept, "train") & set(frame.image[dropped])
    assert kept.dataset_id != load_dataset(FACES).dataset_id


def test_the_first_real_rows_are_those_that_pandas_reads(real_data: Path) -> None:
    rows = pd.read_csv(real_data / "UTKFace" / "age_gender.csv.bz2", nrows=300)
    data = load_dataset(FACES)
    pixels = np.array([row.split() for row in rows.pixels], dtype=np.uint8)
    assert np.array_equal(data.images.batch(np.arange(300)).reshape(300, -1), pixels)
    assert np.array_equal(data.attributes["gender"].codes_N[:300], rows.gender)
    assert np.array_equal(data.attributes["ethnicity"].codes_N[:300], rows.ethnicity)
    assert data.attributes["age_bin"].codes_N[:300].tolist() == list(pd.cut(rows.age, list(AGE_EDGES), labels=False))


def test_real_pictures_are_those_that_pillow_reads(real_data: Path) -> None:
    raw = load(real_data, with_(path="UTKFace/images"))
    files = sorted((real_data / "UTKFace" / "images").iterdir())
    assert len(raw.images) == 5_000
    for index in (0, 17, len(files) - 1):
        with Image.open(files[index]) as picture:
            assert np.array_equal(raw.images.batch(np.array([index]))[0], np.asarray(picture).transpose(2, 0, 1))
    for name, place in (("gender", 1), ("ethnicity", 2)):
        assert raw.attributes[name].codes_N.tolist() == [int(file.name.split("_")[place]) for file in files]


def test_age_bins_are_closed_on_the_right_as_pandas_cuts_them() -> None:
    ages = np.arange(1, 121)
    _, known = _describe_faces(np.stack([ages, ages * 0, ages * 0], axis=1), [""] * 120)
    assert known.attributes["age_bin"].codes_N.tolist() == list(pd.cut(ages, list(AGE_EDGES), labels=False))
    assert AGE_BINS[0] == "(0,10]"
    assert AGE_BINS[8] == "(60,120]"


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_a_compressed_csv_gives_the_same_images(suffix: str, folder: Path) -> None:
    plain = write_csv(folder)
    expected = load_dataset(FACES)
    content = plain.read_bytes()
    file = folder / f"age_gender.csv{suffix}"  # in the data folder itself
    if suffix == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("age_gender.csv", content)
    else:
        file.write_bytes({".gz": gzip, ".bz2": bz2, ".xz": lzma}[suffix].compress(content))
    plain.unlink()
    data = load_dataset(FACES)
    assert np.array_equal(data.images.batch(np.arange(60)), expected.images.batch(np.arange(60)))
    assert np.array_equal(data.splits["test"], expected.splits["test"])


GOOD = [csv_row(i) for i in range(1200)]  # more than are parsed at a time


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (csv_row(5, gender=""), r"age_gender.csv, line 1102: gender must be a whole number, but it is missing"),
        (csv_row(5, age="old"), r"line 1102: age must be a whole number, got 'old'. Correct or remove it"),
        (csv_row(5, ethnicity=5), r"line 1102: ethnicity must be one of 0 White, .* 4 Others, got 5"),
        (csv_row(5, gender=2), r"line 1102: gender must be one of 0 Male, 1 Female, got 2"),
        (csv_row(5, age=-3), r"line 1102: age must be at least 0, got -3"),
        (csv_row(5) + " 7", r"line 1102: must have 48x48 = 2304 pixels, got 2305"),
        ("1,0,0,a.jpg,1 2 3", r"line 1102: must have 48x48 = 2304 pixels, got 3"),
        ("1,0,0,a.jpg," + "300 " + "1 " * 2302 + "1", r"line 1102: pixels must be whole numbers in 0..255, got '300'"),
        ("1,0,0,a.jpg," + "x " + "1 " * 2302 + "1", r"line 1102: pixels must be whole numbers in 0..255, got 'x'"),
        ("1,0,0,a.jpg," + "-1 " + "1 " * 2302 + "1", r"line 1102: pixels .*, got '-1'"),
        ("1,0,0,a.jpg,1,2,3", r"is not the CSV file that it should be .*line 1102"),
        ("1,0", r"line 1102: gender must be a whole number, but it is missing"),
    ],
)
def test_a_wrong_row_is_named(row: str, message: str, folder: Path) -> None:
    write_csv(folder, [*GOOD[:1100], row, *GOOD[1100:]])
    with pytest.raises(DataError, match=message):
        load_dataset(FACES)
    assert not list((folder / ".quantfair").glob("utkface*"))


def test_a_lost_column_and_an_empty_file_are_named(folder: Path) -> None:
    write_csv(folder, ["1,0,0,1 2"], head="age,ethnicity,gender,pixel")
    with pytest.raises(DataError, match="has no column pixels; age, gender, ethnicity and pixels are needed"):
        load_dataset(FACES)
    write_csv(folder, [])
    with pytest.raises(DataError, match=r"age_gender.csv has no rows"):
        load_dataset(FACES)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_a_truncated_archive_is_named(suffix: str, folder: Path) -> None:
    content = write_csv(folder, GOOD[:60]).read_bytes()
    (folder / "UTKFace" / "age_gender.csv").unlink()
    file = folder / "UTKFace" / f"age_gender.csv{suffix}"
    with zipfile.ZipFile(folder / "whole.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("age_gender.csv", content)
    packed = (
        (folder / "whole.zip").read_bytes()
        if suffix == ".zip"
        else {".gz": gzip, ".bz2": bz2, ".xz": lzma}[suffix].compress(content)
    )
    file.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=rf"age_gender.csv\{suffix} is damaged or incomplete .*get it again"):
        load_dataset(FACES)


def test_a_truncated_plain_file_is_named(folder: Path) -> None:
    file = write_csv(folder)
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"line 61: must have 48x48 = 2304 pixels"):
        load_dataset(FACES)


def test_ages_without_a_bin_are_skipped_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(folder, [*GOOD[:30], csv_row(2000, age=0), csv_row(2001, age=121), *GOOD[30:60]])
    data = load_dataset(FACES)
    assert len(data.images) == 60
    said = r"skipped 2 faces whose age is in no bin, the first in"
    assert said in capsys.readouterr().err
    assert any(said in note and "line 32" in note for note in describe_dataset(FACES)["notes"])


def test_size_is_for_pictures(folder: Path) -> None:
    write_csv(folder)
    with pytest.raises(DataError, match=r"`dataset.size` is for folders of pictures; age_gender.csv has 48x48"):
        load_dataset(with_(size=32))


def test_missing_utkface_says_where_to_get_it_and_its_terms(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"never downloaded.*non-commercial research.*https://\S+UTKFace.*age_gender.csv.gz"
    ):
        load_dataset(FACES)
    with pytest.raises(DataError, match=r"`dataset.path`: .*nowhere.csv is neither a file nor a folder with pictures"):
        load_dataset(with_(path="nowhere.csv"))


def write_faces(folder: Path, n: int = 40) -> None:
    for i in range(n):
        write_picture(folder / "UTKFace" / f"{1 + i}_{i % 2}_{i % 5}_2017{i:04}.jpg.chip.jpg", i)


def test_pictures_are_found_without_a_csv_and_resized(folder: Path) -> None:
    write_faces(folder)
    data = load_dataset(with_(size=8))
    assert data.images.batch(np.arange(3)).shape == (3, 3, 8, 8)
    assert np.bincount(data.attributes["ethnicity"].codes_N).tolist() == [8] * 5
    assert load_dataset(FACES).images.batch(np.arange(1)).shape == (1, 3, 12, 12)
    assert load_dataset(FACES).dataset_id != data.dataset_id


def test_pictures_without_a_label_are_skipped_and_counted(folder: Path) -> None:
    write_faces(folder)
    write_picture(folder / "UTKFace" / "39_1_20170116174525125.jpg.chip.jpg", 99)
    notes = describe_dataset(FACES)["notes"]
    assert notes[1] == "skipped 1 pictures whose names lack a label, such as 39_1_20170116174525125.jpg.chip.jpg"


def test_a_picture_with_an_unknown_code_is_named(folder: Path) -> None:
    write_faces(folder)
    write_picture(folder / "UTKFace" / "39_3_0_20170116174525125.jpg.chip.jpg", 99)
    with pytest.raises(DataError, match=r"39_3_0_2017.*: gender must be one of 0 Male, 1 Female, got 3"):
        load_dataset(FACES)


def test_a_folder_of_other_pictures_is_refused(folder: Path) -> None:
    write_picture(folder / "UTKFace" / "holiday.jpg", 1)
    with pytest.raises(DataError, match=r"No picture in .*UTKFace is named age_gender_race_time.jpg.chip.jpg"):
        load_dataset(FACES)


def test_all_images_in_no_bin_is_an_error(folder: Path) -> None:
    write_csv(folder, [csv_row(i, age=0) for i in range(5)])
    with pytest.raises(DataError, match=r"no age is in \(0,120\]"):
        load_dataset(FACES)
