"""ONNX Runtime on a CPU, in two kinds of session: `fast`, which people ship, and `exact`, which proves an export.

fast    Default optimisations. They change the numbers: biases are rounded to int32 at scale_x * scale_w, which is what
        buys integer kernels, and which at 16 bits can cut them off (2^31 * scale_x * scale_w may be below a bias).
exact   The same without the three that do: WeightBiasQuantization, ReluQuantRewrite (drops a Relu before some 4-bit
        QuantizeLinear) and the rounding of activations to 8 bits in MatMulNBits.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
import onnxruntime

from quantfair.quant.deploy.runtimes import DeploymentError, Predictor

Session = Literal["fast", "exact"]
# Each session, and the name of its predictions in the store. The first one is what people ship.
SESSIONS: Final[dict[Session, str]] = {"fast": "onnxruntime", "exact": "onnxruntime_exact"}
CHANGING_NUMBERS: Final = ("WeightBiasQuantization", "ReluQuantRewrite")
_COMPUTES: Final = re.compile("Conv|Gemm|MatMul")
_ERRORS_ONLY: Final = 3


class RuntimeFailureError(DeploymentError):
    """A runtime refused a file, or what it was given."""


class OnnxRuntime:
    """A file in a session. Calling it takes images_NCHW of any N and returns the first output, logits_NK; float32.

    `kernels` counts what computes in the optimised graph, such as "QLinearConv 3, FusedConv 1".

    Raises:
        RuntimeFailureError: the file is damaged, or uses what this version of ONNX Runtime has not.
    """

    version = f"onnxruntime {onnxruntime.__version__}"

    def __init__(self, path: str | Path, *, session: Session, n_threads: int):
        with tempfile.TemporaryDirectory() as folder:
            optimised = Path(folder, "optimised.onnx")
            self._session = _open(Path(path), session, n_threads, optimised)
            self.kernels = _count_kernels(optimised)
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def __call__(self, images_NCHW: np.ndarray) -> np.ndarray:
        """Return logits_NK. Raises RuntimeFailureError for images of another shape than the network takes."""
        try:
            (logits_NK,) = self._session.run([self._output], {self._input: images_NCHW})
        except Exception as error:  # onnxruntime's own classes have no common base
            raise RuntimeFailureError(
                f"ONNX Runtime refused images of shape {images_NCHW.shape}: {_first_line(error)}"
            ) from error
        assert isinstance(logits_NK, np.ndarray)
        return logits_NK


def why_unavailable() -> str | None:
    """Return None: it comes with this package, and needs no GPU."""
    return None


def open_predictors(path: Path, *, n_threads: int) -> Iterator[Predictor]:
    """Yield the fast session, and the exact one, which proves the export and is not timed."""
    for session, name in SESSIONS.items():
        network = OnnxRuntime(path, session=session, n_threads=n_threads)
        columns = {
            "session": session,
            "kernels": network.kernels,
            "version": network.version,
            "file_bytes": path.stat().st_size,
            "threads": n_threads,
        }
        not_timed = "a proof of the export: not timed" if session == "exact" else None
        yield Predictor(name=name, predict=network, columns=columns, not_timed=not_timed)


def ship(path: Path, about: Mapping[str, str]) -> list[Path]:
    """Write nothing: the ONNX file is what ONNX Runtime loads, and it says itself what it is about."""
    return []


def _open(path: Path, session: Session, n_threads: int, optimised: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    options.log_severity_level = _ERRORS_ONLY
    options.optimized_model_filepath = str(optimised)
    settings: dict[str, Any] = {"providers": ["CPUExecutionProvider"]}
    if session == "exact":
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        settings["disabled_optimizers"] = list(CHANGING_NUMBERS)
    try:
        return onnxruntime.InferenceSession(str(path), options, **settings)
    except Exception as error:  # as above
        raise RuntimeFailureError(
            f"ONNX Runtime cannot load {path.name}: {_first_line(error)}; export it again, or update onnxruntime "
            f"(here {onnxruntime.__version__})"
        ) from error


def _count_kernels(optimised: Path) -> str:
    graph = onnx.load(optimised, load_external_data=False).graph
    counts = Counter(node.op_type for node in graph.node if _COMPUTES.search(node.op_type))
    return ", ".join(f"{kind} {n}" for kind, n in counts.most_common())


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
