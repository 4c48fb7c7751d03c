"""`data list | prepare | check`: what people and programs read."""

import json
from pathlib import Path

import pytest
from data_files import write_csv
from typer.testing import CliRunner, Result

from quantfair.datasets import SOURCES
from quantfair.orchestrator.commands.app import app


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["data", *words])


def test_list_says_what_is_there_and_where_to_get_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTFAIR_DATA", str(tmp_path))
    write_csv(tmp_path)
    said = run("list").stdout
    for line in ("digits: found", "utkface: found", "cifar10: missing", "synthetic: generated", "image_folder: yours"):
        assert line in said
    assert "non-commercial research only" in said
    listed = json.loads(run("list", "--json").stdout)
    assert listed["data_folder"] == str(tmp_path)
    by_name = {source["name"]: source for source in listed["sources"]}
    assert by_name["utkface"]["tasks"] == ["gender", "ethnicity", "age"]
    assert by_name["mnist"]["get"] == "downloaded at first use"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["UTKFace"]  # nothing was fetched or converted


def test_check_prints_the_published_counts_of_the_real_faces(real_data: Path) -> None:
    said = run("check", "utkface")
    assert said.exit_code == 0
    text = " ".join(said.stdout.split())
    for fact in (
        "23,704 images, 48x48, grey",
        "ages 1..116",
        "375 sets of byte-identical images (390 redundant), 259 with conflicting labels",
        "White 10,078", "Black 4,525", "Asian 3,434", "Indian 3,975", "Others 1,692", "Male 12,390", "Female 11,314",
        "Terms: non-commercial research only",
    ):  # fmt: skip
        assert fact in text


def test_check_counts_every_split_and_group() -> None:
    facts = json.loads(run("check", "synthetic", "train_size=400", "--json").stdout)
    assert facts["splits"]["train"]["n_images"] == 400
    for split in facts["splits"].values():
        for groups in split["groups"].values():
            assert sum(groups.values()) == split["n_images"]
    assert facts["groups"]["group"] == {"a": 1440, "b": 720, "c": 240}


def test_check_of_the_real_mnist_knows_the_published_files(real_data: Path) -> None:
    assert "These are the published files." in run("check", "mnist").stdout


def test_check_counts_near_duplicates_or_says_why_not(real_data: Path) -> None:
    assert (
        "\nnear duplicates: 6 of 10,000 test images have a copy that differs by re-encoding, size or brightness\n"
        in run("check", "mnist").stdout
    )
    near = json.loads(run("check", "mnist", "--json").stdout)["near_duplicates"]
    assert near == {"n_test_images": 10_000, "n_images": 6, "reason": None}
    reason = "only 0 of 359 copies, resized by 10 %, would be found"
    assert f"\nnear duplicates: not judged, since {reason}\n" in run("check", "digits").stdout
    near = json.loads(run("check", "digits", "--json").stdout)["near_duplicates"]
    assert near == {"n_test_images": 359, "n_images": None, "reason": reason}


def test_prepare_converts_and_names_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTFAIR_DATA", str(tmp_path))
    write_csv(tmp_path)
    prepared = json.loads(run("prepare", "utkface", "task=age", "--json").stdout)
    assert prepared["dataset_id"] == json.loads(run("check", "utkface", "task=age", "--json").stdout)["dataset_id"]
    assert len(list((tmp_path / ".quantfair").glob("utkface-*/images.npy"))) == 1
    assert "utkface is ready" in run("prepare", "utkface").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "utkfaces"], f"`name` must be one of {', '.join(SOURCES)},"),
        (["check", "utkfaces"], "Did you mean 'utkface'?"),
        (["check", "utkface", "task=sex"], "`task` must be one of ['gender', 'ethnicity', 'age'], got 'sex'"),
        (["check", "digits", "train_sice=5"], "Did you mean 'train_size'?"),
        (["prepare", "digits", "train_size=5000"], "`dataset.train_size` asks for"),
        (["check", "image_folder"], "`dataset.path` is missing"),
    ],
)
def test_a_wrong_request_exits_with_2_and_says_why(words: list[str], message: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr
