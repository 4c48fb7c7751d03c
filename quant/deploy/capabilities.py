"""What each runtime can represent, and what to change where it cannot. Read before anything is exported or built.

`FORMS` says in which forms a runtime holds a quantized layer: a layer must fit one of them in every field. A build that
succeeds decides nothing: tensorrt-rtx 1.7 also builds layers that compute in float or with the wrong scales.
Sources: for TensorRT its documentation, "Working with Quantized Types" (INT8 for weights and activations, INT4 for
weights alone, all zero points 0) and, for `operators`, build logs of tensorrt-rtx 1.7.1 on a CPU; for ONNX Runtime the
ONNX operator QuantizeLinear, version 21. Nothing here has been compared with a build of TensorRT itself.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

from quantfair.quant.specs.methods import FLOAT_BITS, MethodSpec, QuantSettings

if TYPE_CHECKING:
    from quantfair.quant.layers.report import LayerReport

Runtime = Literal["torch", "onnxruntime", "tensorrt"]
_GRANULARITIES: Final = ("per_channel", "per_tensor")
_CONVOLUTIONS: Final = ("Conv1d", "Conv2d", "Conv3d")


class Form(NamedTuple):
    """One form of a quantized layer: what each of its settings may be. Float activations make `act_signed` idle."""

    weight_bits: tuple[int, ...]
    act_bits: tuple[int, ...]
    scheme: tuple[str, ...]
    act_signed: tuple[str, ...]
    granularity: tuple[str, ...]
    operators: tuple[str, ...]


# Bits between two of ONNX's integer types are stored in the wider one, behind a Clip: ONNX Runtime holds every grid.
_ALL_BITS: Final = tuple(range(2, 17))
FORMS: Final[dict[str, tuple[Form, ...]]] = {
    "onnxruntime": (
        Form(
            weight_bits=_ALL_BITS,
            act_bits=(*_ALL_BITS, FLOAT_BITS),
            scheme=("symmetric", "asymmetric"),
            act_signed=("auto", "always"),
            granularity=_GRANULARITIES,
            operators=(*_CONVOLUTIONS, "ConvTranspose2d", "Linear"),
        ),
    ),
    "tensorrt": (
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
}
# Why a value that stands in no form is not there, and what to take in its place.
_TWO_FORMS: Final = "set weight_bits = 8 and act_bits = 8, or weight_bits = 4 and act_bits = 32"
REASONS: Final = {
    "scheme": 'every zero point must be 0 in TensorRT; set scheme = "symmetric"',
    "act_signed": "TensorRT has no unsigned integers, and takes uint8 for int8 with a warning at most; "
    'set act_signed = "always"',
    "wide": "TensorRT has no integers of more than 8 bits; set bits = 8, or deploy the fp32 model as fp16",
    "int4": f"TensorRT has INT4 for weights alone; {_TWO_FORMS}",
    "int8_weights": f"TensorRT quantizes weights alone in INT4 only, and computes this in float; {_TWO_FORMS}",
    "bits": f"TensorRT has grids of 8 bits, and of 4 bits for weights alone; {_TWO_FORMS}",
    "operators": "TensorRT computes this layer in float although int8 is asked for",
    "preset": 'preset "iao" rounds half away from zero, and its zero points may lie off the grid, where ONNX '
    'QuantizeLinear rounds half to even; set preset = "none"',
}


def find_unsupported(spec: MethodSpec, runtime: str) -> str | None:
    """Return why `runtime` cannot represent a trial with this method, and the setting to change; None if it can.

    Overrides count one by one. Those that meet in one layer, and the kinds of layers, are known once the model is
    prepared: ask `find_unsupported_layers`. Raises ValueError for an unknown runtime.
    """
    forms = _forms(runtime)
    if forms is None or not isinstance(spec, QuantSettings):  # torch, and float models
        return None
    if spec.preset == "iao":
        return REASONS["preset"]
    faults = ((where, _find_fault(settings, forms)) for where, settings in _layer_settings(spec))
    return next((f"{where}{fault}" for where, fault in faults if fault), None)


def find_unsupported_layers(reports: "Iterable[LayerReport]", runtime: str) -> str | None:
    """Return why `runtime` cannot represent a prepared, calibrated model: its first layer that fits no form.

    `reports` come from `describe_layers`, and say what really happened: the grids that calibration chose, the settings
    that overrides add up to, and the kinds of the layers.
    """
    forms = _forms(runtime)
    if forms is None:
        return None
    for report in reports:
        if report.status == "quantized" and (fault := _find_layer_fault(report, forms)):
            return f"layer '{report.layer}' ({report.kind}): {fault}"
    return None


def _forms(runtime: str) -> tuple[Form, ...] | None:
    if runtime not in get_args(Runtime):
        raise ValueError(f"`runtime` must be one of {', '.join(get_args(Runtime))}, got '{runtime}'")
    return FORMS.get(runtime)


def _layer_settings(spec: QuantSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where settings come from, and the settings, of every kind of layer that the spec alone tells apart."""
    base = spec.model_dump(include=set(Form._fields))
    names = ("weight_bits",) if spec.act_bits == FLOAT_BITS else ("weight_bits", "act_bits")
    ends = {} if spec.first_last_bits is None else dict.fromkeys(names, spec.first_last_bits)
    if not any(pattern == "*" for pattern, _ in spec.overrides):  # which leaves no layer as it was
        yield "", base
        yield "first_last_bits: ", base | ends
    for pattern, override in spec.overrides:
        if override.quantize:
            yield f'overrides."{pattern}": ', base | override.changes()


def _find_fault(settings: dict[str, Any], forms: tuple[Form, ...]) -> str | None:
    """Return what is wrong with settings, None if they fit a form. The bits choose the form."""
    weight_bits, act_bits = settings["weight_bits"], settings["act_bits"]
    form = next((form for form in forms if weight_bits in form.weight_bits and act_bits in form.act_bits), None)
    if form is None:
        return f"weight_bits = {weight_bits} and act_bits = {act_bits}: {_explain_bits(weight_bits, act_bits)}"
    for name in ("scheme", "act_signed"):
        if settings[name] not in getattr(form, name):
            return f'{name} = "{settings[name]}": {REASONS[name]}'
    return None


def _explain_bits(weight_bits: int, act_bits: int) -> str:
    if weight_bits > 8 or 8 < act_bits < FLOAT_BITS:
        return REASONS["wide"]
    if act_bits == FLOAT_BITS and weight_bits == 8:
        return REASONS["int8_weights"]
    return REASONS["int4" if weight_bits == 4 else "bits"]


def _find_layer_fault(report: "LayerReport", forms: tuple[Form, ...]) -> str | None:
    """Return what is wrong with a layer. The inputs of a join, which has no weights, are taken like a layer's."""
    act_bits = FLOAT_BITS if report.act_bits is None else report.act_bits
    weight_bits = act_bits if report.weight_bits is None else report.weight_bits
    act_signed = "auto" if (report.act_grid or "").startswith("unsigned") else "always"
    settings = {"weight_bits": weight_bits, "act_bits": act_bits, "scheme": report.scheme, "act_signed": act_signed}
    if fault := _find_fault(settings, forms):
        return fault
    form = next(form for form in forms if weight_bits in form.weight_bits and act_bits in form.act_bits)
    if report.weight_bits is None or report.kind in form.operators:
        return None
    return f'{REASONS["operators"]}; leave it float: overrides = {{"{report.layer}" = {{quantize = false}}}}'
