"""The commands export, which writes what is to be shipped of a trial, and trt-check: TensorRT without a GPU."""

import json
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli_status import AsJson, StoreArgument
from orchestrator.exit_codes import exit_codes
from orchestrator.problems import Problem, RequestError
from results import Store


class Target(StrEnum):
    """What an export is for."""

    onnxruntime, tensorrt = "onnxruntime", "tensorrt"


def export(
    store: StoreArgument,
    trial_id: Annotated[str, typer.Argument(metavar="TRIAL_ID", help="A finished trial, or how its id begins.")],
    runtime: Annotated[Target, typer.Option(help="Where the model is going to run.")] = Target.onnxruntime,
    half: Annotated[bool, typer.Option("--half", help="Compute in float16: of a float model only.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Default: artifacts/TRIAL_ID/RUNTIME in the store.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a trial's model for a runtime, with a small program that classifies images with it."""
    with exit_codes():
        from orchestrator.artifacts import write_artifacts

        paths = [str(path) for path in write_artifacts(Store.open(store), trial_id, runtime.value, output, half=half)]
        print(json.dumps({"files": paths}) if as_json else "\n".join(paths))


def trt_check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="ONNX files, such as `export` writes.")],
    as_json: AsJson = False,
) -> None:
    """Say whether TensorRT would take ONNX files: its rules, then a build with tensorrt-rtx, which needs no GPU.

    The engines are thrown away: to deploy, `export --runtime tensorrt` builds one on the GPU that will run it.
    """
    with exit_codes():
        missing = [str(path) for path in files if not path.is_file()]
        if missing:
            raise RequestError([Problem("FILE", f"names no file: {', '.join(missing)}.")])
        import quant

        try:
            checks = {str(path): quant.check_ahead_of_time(path) for path in files}
        except quant.TensorRtError as error:
            raise RequestError([Problem("trt-check", str(error))]) from error
    found = {
        path: {"refused": check.refused, "precision": {layer.name: layer.precision for layer in check.computing}}
        for path, check in checks.items()
    }
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for path, about in found.items():
            counts = Counter(about["precision"].values()).most_common()
            layers = ", ".join(f"{n} in {precision}" for precision, n in counts)
            print(f"{path}: " + (f"refused: {about['refused']}" if about["refused"] else f"builds; layers: {layers}"))
    if any(about["refused"] for about in found.values()):
        raise typer.Exit(1)
