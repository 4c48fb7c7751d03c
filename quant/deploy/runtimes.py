"""The runtimes that people ship, each one row of `RUNTIMES` and one file: where a model is measured besides torch.

The row says what a runtime can represent, and is read before anything is exported or built: no heavy package is loaded
for it. Its file, `Runtime.module`, says why it cannot run here, opens a model in it, and writes what is shipped
(`RuntimeCode`). Sweep files, commands and plans read the names from here; `DEPLOYED` in `results/schema.py`, which may
not import this room, is held equal by a test. `CONTRIBUTING.md` shows how a runtime is added.

`forms` say how a runtime holds a quantized layer: a layer must fit one of them in every field. A build that succeeds
decides nothing: tensorrt-rtx 1.7 also builds layers that compute in float or with the wrong scales.
Sources: for TensorRT its documentation, "Working with Quantized Types" (INT8 for weights and activations, INT4 for
weights alone, all zero points 0) and, for `operators`, build logs of tensorrt-rtx 1.7.1 on a CPU; for ONNX Runtime the
ONNX operator QuantizeLinear, version 21. Nothing here has been compared with a build of TensorRT itself.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

from quantfair.quant.specs.methods import FLOAT_BITS

if TYPE_CHECKING:
    import numpy as np


class DeploymentError(RuntimeError):
    """A runtime refused a model or its input; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A model opened in a runtime. `predict` takes images_NCHW and returns logits_NK, both float32 arrays of numpy.

    `name` is that of its predictions in the store: the runtime's, or one that begins with it. `columns` are its part of
    the table `runtimes`: session, kernels, version, file_bytes, and threads and device where they say something.
    `not_timed` is the reason why its latency is not measured.
    """

    name: str
    predict: "Callable[[np.ndarray], np.ndarray]"
    columns: Mapping[str, object]
    not_timed: str | None = None


class RuntimeCode(Protocol):
    """The functions that the file of a runtime has."""

    def why_unavailable(self) -> str | None:
        """Return why the runtime cannot run on this machine, with the remedy, or None if it can."""
        ...

    def open_predictors(self, path: Path, *, n_threads: int) -> Iterator[Predictor]:
        """Yield every session in which an ONNX file is measured, one at a time. Raises DeploymentError."""
        ...

    def ship(self, path: Path, about: Mapping[str, str]) -> list[Path]:
        """Write what is shipped with an ONNX file next to it, and return the paths. Raises DeploymentError.

        `about` is what the ONNX file says of itself: its classes, and what images go through.
        """
        ...


class Form(NamedTuple):
    """One form of a quantized layer: what each of its settings may be. Float activations make `act_signed` idle."""

    weight_bits: tuple[int, ...]
    act_bits: tuple[int, ...]
    scheme: tuple[str, ...]
    act_signed: tuple[str, ...]
    granularity: tuple[str, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One runtime: what it can represent, and where its code is.

    `title` is its name in texts. `module` is its file, loaded at the first use. `reasons` says of a setting (or of
    "operators") why a value in no form is missing, and what to take in its place; `explain_bits` says it of weight_bits
    and act_bits. Both may be left out: then the text names what the forms have. `program` is the program in
    `orchestrator/shipped/` that `export` writes next to the model, or None for a runtime that is only measured.
    """

    title: str
    module: str
    forms: tuple[Form, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    explain_bits: Callable[[int, int], str] | None = None
    program: str | None = None

    def load(self) -> RuntimeCode:
        """Import the runtime's file."""
        return cast(RuntimeCode, importlib.import_module(self.module))


_GRANULARITIES: Final = ("per_channel", "per_tensor")
_CONVOLUTIONS: Final = ("Conv1d", "Conv2d", "Conv3d")
# Bits between two of ONNX's integer types are stored in the wider one, behind a Clip: ONNX Runtime holds every grid.
_ALL_BITS: Final = tuple(range(2, 17))

_TWO_FORMS: Final = "set weight_bits = 8 and act_bits = 8, or weight_bits = 4 and act_bits = 32"
_TENSORRT_REASONS: Final = {
    "scheme": 'every zero point must be 0 in TensorRT; set scheme = "symmetric"',
    "act_signed": "TensorRT has no unsigned integers, and takes uint8 for int8 with a warning at most; "
    'set act_signed = "always"',
    "operators": "TensorRT computes this layer in float although int8 is asked for",
}


def _explain_tensorrt_bits(weight_bits: int, act_bits: int) -> str:
    if weight_bits > 8 or 8 < act_bits < FLOAT_BITS:
        return "TensorRT has no integers of more than 8 bits; set bits = 8, or deploy the fp32 model as fp16"
    if act_bits == FLOAT_BITS and weight_bits == 8:
        return f"TensorRT quantizes weights alone in INT4 only, and computes this in float; {_TWO_FORMS}"
    if weight_bits == 4:
        return f"TensorRT has INT4 for weights alone; {_TWO_FORMS}"
    return f"TensorRT has grids of 8 bits, and of 4 bits for weights alone; {_TWO_FORMS}"


RUNTIMES: Final[dict[str, Runtime]] = {
    "onnxruntime": Runtime(
        title="ONNX Runtime",
        module="quantfair.quant.deploy.onnxruntime",
        forms=(
            Form(
                weight_bits=_ALL_BITS,
                act_bits=(*_ALL_BITS, FLOAT_BITS),
                scheme=("symmetric", "asymmetric"),
                act_signed=("auto", "always"),
                granularity=_GRANULARITIES,
                operators=(*_CONVOLUTIONS, "ConvTranspose2d", "Linear"),
            ),
        ),
        program="predict_onnxruntime.py",
    ),
    "tensorrt": Runtime(
        title="TensorRT",
        module="quantfair.quant.deploy.tensorrt.runtime",
        forms=(
            Form(  # weights and activations in INT8
                weight_bits=(8,),
                act_bits=(8,),
                scheme=("symmetric",),
                act_signed=("always",),
                granularity=_GRANULARITIES,
                operators=(*_CONVOLUTIONS, "Linear"),
            ),
            Form(  # weights alone, in INT4; the layer computes in float
                weight_bits=(4,),
                act_bits=(FLOAT_BITS,),
                scheme=("symmetric",),
                act_signed=("auto", "always"),
                granularity=_GRANULARITIES,
                operators=(*_CONVOLUTIONS, "ConvTranspose2d", "Linear"),
            ),
        ),
        reasons=_TENSORRT_REASONS,
        explain_bits=_explain_tensorrt_bits,
        program="predict_tensorrt.py",
    ),
}
