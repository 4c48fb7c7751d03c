"""Would TensorRT take this model? An answer without a GPU: the rules, then a build with tensorrt-rtx, thrown away.

`check_ahead_of_time` starts `python -m quant.trt_check FILE`, which prints its report as JSON: a process of its own,
because the first logger of a process serves all builders, and because a crash in a builder then costs nothing else.
TensorRT for RTX shares parser and programming interface with TensorRT, but has a compiler of its own: its engines are
no deployment engines, and its answer is evidence, not proof.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal, NamedTuple

from quantfair.quant.deploy.onnx_graph import Graph, OnnxFileError, read_onnx, weighted_layers
from quantfair.quant.deploy.tensorrt.buffers import TensorRTMissingError
from quantfair.quant.deploy.tensorrt.build import BuildRefusedError, build_plan
from quantfair.quant.deploy.tensorrt.inspection import LayerPrecision, compare_precisions, find_faults
from quantfair.quant.deploy.tensorrt.rules import lint_for_tensorrt
from quantfair.quant.deploy.tensorrt.runtime import load_trt

TIMEOUT_S: Final = 900


class AheadReport(NamedTuple):
    """What is known of a model without a GPU. `refused_by` is None where it builds as its graph asks."""

    file: str
    refused_by: Literal["file", "rules", "build", "precision"] | None
    reasons: tuple[str, ...]
    layers: tuple[LayerPrecision, ...]  # none where nothing was built
    version: str  # of tensorrt_rtx


def check_ahead_of_time(onnx_path: str | Path) -> AheadReport:
    """Check one ONNX file in a process of its own.

    Raises:
        TensorRTMissingError: tensorrt_rtx cannot be imported.
    """
    command = [sys.executable, "-m", "quantfair.quant.deploy.tensorrt.check", str(Path(onnx_path).absolute())]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return AheadReport(str(onnx_path), "build", (f"the build took more than {TIMEOUT_S} s",), (), "")
    last = run.stdout.strip().rpartition("\n")[2]  # before it, a builder may print what it likes
    if run.returncode != 0 or not last:
        told = run.stderr.strip().rpartition("\n")[2]
        return AheadReport(str(onnx_path), "build", (f"the builder died (exit {run.returncode}): {told}",), (), "")
    record = json.loads(last)
    if "missing" in record:
        raise TensorRTMissingError(record["missing"])
    layers = tuple(LayerPrecision(**layer) for layer in record["layers"])
    return AheadReport(**record | {"file": str(onnx_path), "reasons": tuple(record["reasons"]), "layers": layers})


def check_here(onnx_path: Path) -> AheadReport:
    """Check one file in this process, which must not have built with tensorrt_rtx before.

    Raises:
        TensorRTMissingError: tensorrt_rtx cannot be imported.
    """
    trt = load_trt("tensorrt_rtx")
    refused = AheadReport(str(onnx_path), None, (), (), str(trt.__version__))
    try:
        model = read_onnx(onnx_path)
    except OnnxFileError as error:
        return refused._replace(refused_by="file", reasons=(str(error),))
    if violations := lint_for_tensorrt(model):
        return refused._replace(refused_by="rules", reasons=tuple(violations))
    try:
        build = build_plan(trt, onnx_path)
    except BuildRefusedError as error:
        return refused._replace(refused_by="build", reasons=(str(error),))
    layers = tuple(compare_precisions(weighted_layers(Graph(model)), build.layers))
    faults = tuple(find_faults(layers))
    return refused._replace(refused_by="precision" if faults else None, reasons=faults, layers=layers)


def main() -> None:
    """Print the report of the file that is named, as one line of JSON."""
    try:
        report = check_here(Path(sys.argv[1]))
        record = report._asdict() | {"layers": [layer._asdict() for layer in report.layers]}
    except TensorRTMissingError as error:
        record = {"missing": str(error)}
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
