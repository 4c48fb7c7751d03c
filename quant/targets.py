"""What each runtime can represent, and why not the rest: decided here from the settings, before anything is built.

A build that succeeds proves little: TensorRT takes unsigned grids for signed ones with a warning only, and two builds
of 4-bit weights beside quantized activations are known to be wrong. `tensorrt_rules.py` looks at the graph itself.

onnxruntime   Every grid of `qparams.py`: integers of 4, 8 and 16 bits at opset 21, others in the next wider type.
tensorrt      float32; INT8 weights and activations, symmetric and signed; INT4 weights beside float activations.
              (NVIDIA, TensorRT documentation, "Working with Quantized Types": symmetric only, INT4 weight-only.)
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from quant.spec import FLOAT_BITS, Fp32FtSpec, Fp32Spec, MethodSpec, QuantSettings

WIDTHS_OF_TENSORRT: Final = ((8, 8), (4, FLOAT_BITS))  # of weights and activations


def find_unsupported(spec: MethodSpec, runtime: str) -> str | None:
    """Return why `runtime` cannot represent a trial, naming the setting to change; None where it can."""
    if isinstance(spec, Fp32Spec | Fp32FtSpec):
        return None
    if spec.preset == "iao":
        return "preset = 'iao' rounds half away from zero, and ONNX half to even: set preset = 'none'"
    return next((reason for settings in _settings_of(spec) if (reason := _RULES[runtime](settings))), None)


def _settings_of(spec: QuantSettings) -> Iterator[QuantSettings]:
    """Yield the settings that some layer may have: those of the trial, of its ends, and of every override."""
    yield spec
    if spec.first_last_bits is not None:
        ends = {} if spec.act_bits == FLOAT_BITS else {"act_bits": spec.first_last_bits}
        yield spec.model_copy(update={"weight_bits": spec.first_last_bits, **ends})
    for _, override in spec.overrides:
        if override.quantize:
            yield spec.model_copy(update=override.changes())


def _check_tensorrt(settings: QuantSettings) -> str | None:
    if settings.scheme != "symmetric":
        return "TensorRT has no zero points: set scheme = 'symmetric'"
    weight_bits, act_bits = settings.weight_bits, settings.act_bits
    if (weight_bits, act_bits) not in WIDTHS_OF_TENSORRT:
        return f"TensorRT has no W{weight_bits}A{act_bits}: {_advise(weight_bits, act_bits)}"
    if act_bits != FLOAT_BITS and settings.act_signed != "always":
        return "TensorRT takes the unsigned grids of activations for signed ones: set act_signed = 'always'"
    return None


def _advise(weight_bits: int, act_bits: int) -> str:
    if max(weight_bits, act_bits) == 16 or act_bits == FLOAT_BITS > weight_bits > 8:
        return "its integers have 8 bits at most; set bits = 8, or deploy the float model as float16"
    if act_bits == FLOAT_BITS:
        return f"beside float activations its weights have 4 bits; set weight_bits = 4, or act_bits = {weight_bits}"
    return f"set bits = 8, or leave activations float with weight_bits = 4 and act_bits = {FLOAT_BITS}"


_RULES: Final[Mapping[str, Callable[[QuantSettings], str | None]]] = MappingProxyType(
    {"onnxruntime": lambda settings: None, "tensorrt": _check_tensorrt}
)
