"""What is to be shipped of a trial, and whether TensorRT would take it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantfair.orchestrator.config.errors import ConfigProblem, RequestError, did_you_mean
from quantfair.quant import RUNTIMES
from quantfair.results import Store

if TYPE_CHECKING:
    from quantfair.quant import AheadReport


def export(
    store: str | Path, trial_id: str, *, runtime: str = "onnxruntime", folder: Path | None = None, half: bool = False
) -> list[Path]:
    """Write a trial's model for a runtime, with a small program that classifies images with it; return the paths.

    `trial_id` may be cut short. `folder` is `artifacts/TRIAL_ID/RUNTIME` in the store by default; `half` computes in
    float16, of a float model only.

    Raises:
        RequestError: no such runtime is known, no such trial is finished, or the runtime cannot represent it or does
            not run here.
        StoreError: there is no sweep in the store, or the trial's model was not kept.
    """
    from quantfair.orchestrator.trials.export import write_artifacts

    if runtime not in RUNTIMES:
        known = f"the runtimes are {', '.join(RUNTIMES)}.{did_you_mean(runtime, RUNTIMES)}"
        raise RequestError([ConfigProblem("runtime", f"'{runtime}' is unknown: {known}")])
    return write_artifacts(Store.open(str(store)), trial_id, runtime, folder, half=half)


def check_for_tensorrt(files: Sequence[Path]) -> "list[AheadReport]":
    """Check ONNX files for TensorRT without a GPU: its rules, then a build with tensorrt-rtx, which is thrown away.

    Raises:
        RequestError: a file is missing, or tensorrt-rtx cannot be imported.
    """
    from quantfair.quant import TensorRTMissingError, check_ahead_of_time

    missing = [file for file in files if not file.is_file()]
    if missing:
        raise RequestError(ConfigProblem("FILE.onnx", f"names no file: {file}.") for file in missing)
    try:
        return [check_ahead_of_time(file) for file in files]
    except TensorRTMissingError as error:
        raise RequestError([ConfigProblem("trt-check", f"cannot build: {error}.")]) from error
