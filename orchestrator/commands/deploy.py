"""`export` writes what is to be shipped of a trial; `trt-check` says without a GPU whether TensorRT would take it."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantfair.orchestrator.api import deploy as api
from quantfair.orchestrator.commands.exit_codes import exit_codes
from quantfair.orchestrator.commands.options import AsJson, StoreArgument

if TYPE_CHECKING:
    from quantfair.quant import AheadReport

    Target = str
else:
    Target = StrEnum("Target", {name: name for name in api.RUNTIMES})  # an enum, so that the command names its choices

Files = Annotated[list[Path], typer.Argument(metavar="FILE.onnx...", help="ONNX files, such as those of `export`.")]


def export(
    store: StoreArgument,
    trial_id: Annotated[str, typer.Argument(metavar="TRIAL_ID", help="A finished trial, or how its id begins.")],
    runtime: Annotated[Target, typer.Option(help="Where the model is going to run.")] = "onnxruntime",
    half: Annotated[bool, typer.Option("--half", help="Compute in float16: of a float model only.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Default: artifacts/TRIAL_ID/RUNTIME in the store.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a trial's model for a runtime, with a small program that classifies images with it."""
    with exit_codes():
        written = api.export(store, trial_id, runtime=str(runtime), folder=output, half=half)
        paths = [str(path) for path in written]
        print(json.dumps({"files": paths}) if as_json else "\n".join(paths))


def trt_check(files: Files, as_json: AsJson = False) -> None:
    """Check ONNX files for TensorRT without a GPU: its rules, then a build with tensorrt-rtx, thrown away."""
    with exit_codes():
        reports = api.check_for_tensorrt(files)
        if as_json:
            print(json.dumps([_record(report) for report in reports], indent=2))
        else:
            print("\n".join(line for report in reports for line in _format(report)))
        if any(report.refused_by for report in reports):
            raise typer.Exit(1)


def _record(report: "AheadReport") -> dict[str, Any]:
    return report._asdict() | {"layers": [layer._asdict() for layer in report.layers]}


def _format(report: "AheadReport") -> list[str]:
    """The verdict, then a line for every layer, or every reason."""
    if report.refused_by:
        verdict = f"{report.file}: REFUSED ({report.refused_by})"
        return [verdict, *(f"  {reason}" for reason in report.reasons)]
    name = max((len(layer.layer) for layer in report.layers), default=0)
    lines = [f"{report.file}: builds with tensorrt-rtx {report.version} (a check; its engine is not kept)"]
    for layer in report.layers:
        types = f"{layer.input_type} x {layer.weight_type} -> {layer.output_type}"
        lines.append(f"  {layer.layer:{name}}  {layer.operator:13} {layer.asked:12}  {types}")
    return lines
