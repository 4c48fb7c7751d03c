"""What two rooms have each for itself, as they may not import each other, behaves alike."""

import ast
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from pydantic import BaseModel, ValidationError

from quantfair.datasets import DatasetSpec
from quantfair.datasets.cache import open_or_convert
from quantfair.datasets.spec import _setting_error as dataset_error  # pyright: ignore[reportPrivateUsage]
from quantfair.datasets.types import ArrayImages, Attribute, RawData
from quantfair.orchestrator.config.errors import describe_errors
from quantfair.orchestrator.config.spec import Resources, Retry, SweepHead
from quantfair.quant import ModelSpec, PtqSpec, TrainSpec
from quantfair.quant.deploy.onnx_export import _save  # pyright: ignore[reportPrivateUsage]
from quantfair.quant.deploy.tensorrt.engine_file import write_aside
from quantfair.quant.specs.base import Spec, setting_error
from quantfair.results.store.files import Files

ROOT = Path(__file__).resolve().parent.parent

# Specs are frozen values that convert nothing: datasets, quant and orchestrator have a base of their own each.

VALID: dict[type[BaseModel], dict[str, Any]] = {
    DatasetSpec: {"name": "digits", "task": "digit", "val_share": 0.2},
    ModelSpec: {"name": "small_cnn", "width": 8},
    TrainSpec: {"epochs": 2, "lr": 0.1},
    PtqSpec: {"method": "ptq", "percentile": 0.99},
    Retry: {"crash": 2, "timeout_s": 3.5},
    Resources: {"cpu": 2.0},
    SweepHead: {"name": "sweep", "seeds": (0,)},
}
NUMBERS = {DatasetSpec: "val_share", TrainSpec: "lr", PtqSpec: "percentile", Retry: "timeout_s", Resources: "cpu"}


@pytest.mark.parametrize("spec", VALID, ids=lambda spec: spec.__name__)
def test_specs_of_all_rooms_are_frozen_and_strict_alike(spec: type[BaseModel]) -> None:
    assert {name: spec.model_config.get(name) for name in ("frozen", "extra", "strict", "allow_inf_nan")} == {
        "frozen": True,
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
    }
    value = spec.model_validate(VALID[spec])
    assert hash(value) == hash(spec.model_validate(VALID[spec]))
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        spec.model_validate({**VALID[spec], "nonsense": 1})
    field = next(iter(VALID[spec]))
    with pytest.raises(ValidationError, match="Instance is frozen"):
        setattr(value, field, getattr(value, field))


@pytest.mark.parametrize("spec", NUMBERS, ids=lambda spec: spec.__name__)
@pytest.mark.parametrize(
    ("value", "said"), [("0.5", "Input should be a valid number"), (float("nan"), "Input should be a finite number")]
)
def test_specs_of_all_rooms_take_no_text_and_no_nan_for_a_number(spec: Any, value: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec.model_validate({**VALID[spec], NUMBERS[spec]: value})


def test_a_setting_that_does_not_fit_is_the_same_error_in_both_rooms() -> None:
    ours = setting_error("size", "must be small, got 9", value=9, known=["1"])
    theirs = dataset_error("size", "must be small, got 9", value=9, known=["1"])
    assert (ours.type, ours.message(), ours.context) == (theirs.type, theirs.message(), theirs.context)


@pytest.mark.parametrize(
    ("spec", "values", "path"),
    [
        (DatasetSpec, {"name": "digits", "task": "digit", "size": 8}, "dataset.size"),
        (ModelSpec, {"name": "torchvision:resnet18", "width": 8}, "dataset.width"),
        (PtqSpec, {"method": "ptq", "base": "fp32", "epochs": 3, "lr": 0.1}, "dataset.epochs"),
        (Resources, {"gpu": 1.5}, "dataset.gpu"),
    ],
)
def test_errors_of_all_rooms_are_told_with_the_path_of_their_field(spec: Any, values: Any, path: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec.model_validate(values)
    (problem, *_) = describe_errors(caught.value, spec, "dataset", values)
    assert problem.path == path
    assert "{" not in problem.message
    assert problem.message.endswith(".")


def test_quant_specs_have_one_base() -> None:
    assert all(issubclass(spec, Spec) for spec in (ModelSpec, TrainSpec, PtqSpec))


# Files are written aside, synced and renamed: results, quant (engine and ONNX) and datasets do so each for itself.


def write_with_store(path: Path, text: str) -> None:
    Files.open(str(path.parent)).write(path.name, text.encode())


def write_engine(path: Path, text: str) -> None:
    write_aside(path, text.encode())


def write_onnx(path: Path, text: str) -> None:
    graph = ir.Graph([], [], nodes=[], name=text, opset_imports={"": 21})
    _save(ir.Model(graph, ir_version=10), path)


WRITERS: dict[str, Callable[[Path, str], None]] = {
    "store": write_with_store,
    "engine": write_engine,
    "onnx": write_onnx,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_is_synced_before_it_takes_its_name(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    WRITERS[writer](path, "before")
    seen: list[bytes] = []
    real_sync = os.fsync

    def watch(descriptor: int) -> None:
        seen.append(path.read_bytes())
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    WRITERS[writer](path, "after")
    assert b"before" in seen[0]
    assert b"after" in path.read_bytes()
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [path]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_cannot_be_written_stays_as_it_was_and_nothing_is_left_beside_it(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    WRITERS[writer](path, "before")
    content = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(5, "no such luck")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Exception, match="no such luck"):
        WRITERS[writer](path, "after")
    assert path.read_bytes() == content
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [path]


def test_a_conversion_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTFAIR_DATA", str(tmp_path))
    images = ArrayImages(np.zeros((4, 1, 8, 8), np.uint8))
    raw = RawData(images, {"digit": Attribute(np.zeros(4, np.int64), ("0",))})

    def fail(descriptor: int) -> None:
        raise OSError(5, "no such luck")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no such luck"):
            open_or_convert("made", "key", lambda: raw)
    assert list(tmp_path.rglob("made*")) == []
    assert len(open_or_convert("made", "key", lambda: raw).raw.images) == 4
    assert len(list(tmp_path.rglob("made-key"))) == 1


# Programs that are shipped with a model import nothing of ours.


def test_shipped_programs_read_images_alike() -> None:
    texts = set()
    for runtime in ("onnxruntime", "tensorrt"):
        path = ROOT / "orchestrator" / "shipped" / f"predict_{runtime}.py"
        functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        texts.add(next(ast.unparse(node) for node in functions if node.name == "read_image"))
    assert len(texts) == 1
