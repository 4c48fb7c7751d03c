"""Whether TensorRT would take an ONNX file, tried without a GPU: the rules first, then a build with tensorrt-rtx.

A build runs in a process of its own, since the first logger of a process serves all builders, and an engine that it
makes is thrown away: it belongs to another product than the one to deploy. Passing is necessary, not sufficient.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from quant.engine_layers import EngineLayer
from quant.runtime_tensorrt import TensorRtError, build_engine, check_precision, load_trt, refuse_by_rules

_TIMEOUT_S: Final = 600


class Check(NamedTuple):
    """What became of a file: why it is refused, or the layers of the engine that was built."""

    refused: str | None
    layers: tuple[EngineLayer, ...] = ()

    @property
    def computing(self) -> list[EngineLayer]:
        """The layers that multiply."""
        return [layer for layer in self.layers if layer.computes]


def check_ahead_of_time(path: str | Path) -> Check:
    """Check a file. Raises TensorRtError where tensorrt-rtx is not installed."""
    path = Path(path).absolute()
    try:
        refuse_by_rules(path)
    except TensorRtError as error:
        return Check(str(error))
    load_trt("tensorrt_rtx")
    command = [sys.executable, "-m", "quant.trt_check", str(path)]
    root = Path(__file__).parent.parent
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if run.returncode != 0:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        return Check(f"the build of {path.name} ended its process with {run.returncode}: {last}")
    found = json.loads(run.stdout.splitlines()[-1])
    return Check(found["refused"], tuple(EngineLayer(*map(_as_tuple, layer)) for layer in found["layers"]))


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def main(path: Path) -> None:
    """Build one file, and print what became of it as one line of JSON."""
    refused, layers = None, []
    try:
        layers = build_engine(path, package="tensorrt_rtx").layers
        check_precision(path, layers)
    except TensorRtError as error:
        refused = str(error)
    print(json.dumps({"refused": refused, "layers": layers}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
