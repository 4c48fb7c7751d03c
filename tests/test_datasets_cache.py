"""Conversions: opened at once, shared, noticed when the source changes, and never left half done."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data_files import csv_row, write_class_folders, write_csv
from processes import start_process

from quantfair.datasets import DatasetSpec, cache, find_dataset_id, load_dataset, utkface
from quantfair.datasets.cache import SourceFiles, cache_folder, fingerprint_files

FACES = DatasetSpec(name="utkface", task="gender")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTFAIR_DATA", str(tmp_path))
    return tmp_path


def forbid(*_args: object) -> None:
    raise AssertionError("the source was read again")


def conversions(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".quantfair").iterdir() if path.name not in ("index", "lock"))


def test_a_second_load_reads_no_source_and_gives_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(folder)
    first = load_dataset(FACES)
    monkeypatch.setattr(utkface, "load", forbid)
    again = load_dataset(FACES)
    assert np.array_equal(first.images.batch(np.arange(60)), again.images.batch(np.arange(60)))
    assert np.array_equal(first.splits["train"], again.splits["train"])
    assert first.attributes["age_bin"].names == again.attributes["age_bin"].names
    assert first.dataset_id == again.dataset_id


def test_the_real_utkface_opens_in_a_second(real_data: Path) -> None:
    load_dataset(FACES)
    started = time.process_time()
    load_dataset(FACES)
    assert time.process_time() - started < 1


def test_images_are_pages_of_one_file_that_workers_share(folder: Path) -> None:
    write_csv(folder)
    data = load_dataset(FACES)
    data.images.batch(np.arange(60))
    (name,) = conversions(folder)
    assert f"{name}/images.npy" in Path("/proc/self/maps").read_text()
    with pytest.raises(ValueError, match="read-only"):
        data.images.images_NCHW[0] = 0  # type: ignore[attr-defined]


def test_files_are_hashed_once_until_they_change(folder: Path) -> None:
    file = folder / "a.bin"
    file.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert fingerprint_files(SourceFiles([file])) == expected
    seen = file.stat()
    file.write_bytes(b"abd")
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert fingerprint_files(SourceFiles([file])) == expected  # nothing that `stat` shows has changed
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))
    assert fingerprint_files(SourceFiles([file])) != expected


def test_a_changed_source_is_noticed(folder: Path) -> None:
    file = write_csv(folder)
    before = load_dataset(FACES)
    file.write_text(file.read_text().replace(csv_row(7), csv_row(7, age=99)))
    after = load_dataset(FACES)
    assert after.dataset_id != before.dataset_id
    assert after.attributes["age_bin"].codes_N[7] == 8 != before.attributes["age_bin"].codes_N[7]
    assert len(conversions(folder)) == 2


def test_a_renamed_class_folder_is_a_change_though_no_picture_changed(folder: Path) -> None:
    spec = DatasetSpec(name="image_folder", task="class", path="pets")
    write_class_folders(folder / "pets")
    before = find_dataset_id(spec)
    (folder / "pets" / "dog").rename(folder / "pets" / "wolf")
    assert find_dataset_id(spec) != before
    assert load_dataset(spec).class_names == ("cat", "wolf")


def test_an_interrupted_conversion_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(folder)

    def interrupt(*_args: object, **_settings: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cache, "measure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_dataset(FACES)
    assert conversions(folder) == []
    assert len(load_dataset(FACES).images) == 60


KILLED = """
import sys, time
from quantfair.datasets import DatasetSpec, cache, load_dataset
cache._sync = lambda files: (print("halfway", flush=True), time.sleep(60))
load_dataset(DatasetSpec(name="utkface", task="gender"))
"""


def test_what_a_killed_conversion_left_is_removed_by_the_next(folder: Path) -> None:
    write_csv(folder)
    process = start_process([sys.executable, "-c", KILLED], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "halfway\n"
        process.send_signal(signal.SIGKILL)
    assert [name.endswith(".tmp") for name in conversions(folder)] == [True]
    assert len(load_dataset(FACES).images) == 60
    assert [name.endswith(".tmp") for name in conversions(folder)] == [False]


def test_a_folder_that_cannot_be_written_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder / "home"
    monkeypatch.setenv("HOME", str(home))
    data = folder / "data"
    write_csv(data)
    (data / ".quantfair").write_text("in the way")  # tests may run as root, whom no permission stops
    load_dataset(FACES.model_copy(update={"path": str(data / "UTKFace" / "age_gender.csv")}))
    monkeypatch.setenv("QUANTFAIR_DATA", str(data))
    assert len(load_dataset(FACES).images) == 60
    assert cache_folder() == home / ".cache" / "quantfair" / ".quantfair"
    assert sorted(path.name for path in data.iterdir()) == [".quantfair", "UTKFace"]


def test_large_sets_stream_through_the_same_methods(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_folders(folder / "pets")
    spec = DatasetSpec(name="image_folder", task="class", path="pets")
    in_memory = load_dataset(spec)
    (name,) = conversions(folder)
    for file in (folder / ".quantfair" / name).iterdir():
        file.unlink()
    (folder / ".quantfair" / name).rmdir()
    monkeypatch.setattr(cache, "STREAM_ABOVE_BYTES", 100)
    streamed = load_dataset(spec)
    assert not (folder / ".quantfair" / name / "images.npy").exists()
    order = np.random.default_rng(0).permutation(40)
    assert np.array_equal(streamed.images.batch(order), in_memory.images.batch(order))
    assert np.array_equal(streamed.mean_C, in_memory.mean_C)
    assert {split: list(ids) for split, ids in streamed.splits.items()} == {
        split: list(ids) for split, ids in in_memory.splits.items()
    }


def test_mean_and_std_are_those_of_the_training_pixels(folder: Path) -> None:
    write_class_folders(folder / "pets")
    data = load_dataset(DatasetSpec(name="image_folder", task="class", path="pets"))
    pixels = data.images.batch(data.splits["train"]) / 255
    assert data.mean_C == pytest.approx(pixels.mean((0, 2, 3)), rel=1e-6)
    assert data.std_C == pytest.approx(pixels.std((0, 2, 3)), rel=1e-6)


def test_a_long_conversion_shows_progress(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(folder)
    monkeypatch.setattr("quantfair.datasets.progress.EVERY_S", 0)
    load_dataset(FACES)
    said = capsys.readouterr()
    assert "parsing age_gender.csv: 100%, about 0 s left" in said.err
    assert "converting utkface: 100%" in said.err
    assert said.out == ""
