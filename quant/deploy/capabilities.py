"""Whether a runtime can represent a trial, and what to change where it cannot: read before anything is exported.

What each runtime has is in its row of `RUNTIMES`.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from quantfair.quant.deploy.runtimes import RUNTIMES, Form, Runtime
from quantfair.quant.specs.methods import FLOAT_BITS, MethodSpec, QuantSettings

if TYPE_CHECKING:
    from quantfair.quant.layers.report import LayerReport

TORCH: Final = "torch"  # where trials run, so that it can represent all of them
_PRESET: Final = (
    'preset "iao" rounds half away from zero, and its zero points may lie off the grid, where ONNX '
    'QuantizeLinear rounds half to even; set preset = "none"'
)


def find_unsupported(spec: MethodSpec, runtime: str) -> str | None:
    """Return why `runtime` cannot represent a trial with this method, and the setting to change; None if it can.

    Overrides count one by one. Those that meet in one layer, and the kinds of layers, are known once the model is
    prepared: ask `find_unsupported_layers`. Raises ValueError for an unknown runtime.
    """
    row = _find_row(runtime)
    if row is None or not isinstance(spec, QuantSettings):  # torch, and float models
        return None
    if spec.preset == "iao":
        return _PRESET
    faults = ((where, _find_fault(settings, row)) for where, settings in _layer_settings(spec))
    return next((f"{where}{fault}" for where, fault in faults if fault), None)


def find_unsupported_layers(reports: "Iterable[LayerReport]", runtime: str) -> str | None:
    """Return why `runtime` cannot represent a prepared, calibrated model: its first layer that fits no form.

    `reports` come from `describe_layers`, and say what really happened: the grids that calibration chose, the settings
    that overrides add up to, and the kinds of the layers.
    """
    row = _find_row(runtime)
    if row is None:
        return None
    for report in reports:
        if report.status == "quantized" and (fault := _find_layer_fault(report, row)):
            return f"layer '{report.layer}' ({report.kind}): {fault}"
    return None


def _find_row(runtime: str) -> Runtime | None:
    if runtime == TORCH:
        return None
    if runtime not in RUNTIMES:
        raise ValueError(f"`runtime` must be one of {', '.join([TORCH, *RUNTIMES])}, got '{runtime}'")
    return RUNTIMES[runtime]


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


def _find_fault(settings: dict[str, Any], runtime: Runtime) -> str | None:
    """Return what is wrong with settings, or None if they fit a form. A setting that is None fits every form."""
    forms = [form for form in runtime.forms if _has_bits(form, settings)]
    if not forms:
        asked = [f"{name} = {settings[name]}" for name in ("weight_bits", "act_bits") if settings[name] is not None]
        return f"{' and '.join(asked)}: {_explain_bits(settings, runtime)}"
    faults = [_find_fault_of_form(settings, form, runtime) for form in forms]
    return None if None in faults else faults[0]


def _has_bits(form: Form, settings: dict[str, Any]) -> bool:
    has_weight_bits = settings["weight_bits"] is None or settings["weight_bits"] in form.weight_bits
    return has_weight_bits and settings["act_bits"] in form.act_bits


def _find_fault_of_form(settings: dict[str, Any], form: Form, runtime: Runtime) -> str | None:
    """Return the first setting, besides the bits, that a form does not have."""
    for name in ("scheme", "act_signed", "granularity"):
        allowed = getattr(form, name)
        if settings[name] is not None and settings[name] not in allowed:
            known = " or ".join(f'"{value}"' for value in allowed)
            reason = runtime.reasons.get(name, f"{runtime.title} has {name} = {known} alone")
            return f'{name} = "{settings[name]}": {reason}'
    return None


def _explain_bits(settings: dict[str, Any], runtime: Runtime) -> str:
    """Return the runtime's own words about bits in no form of it, or those that its forms have."""
    if runtime.explain_bits is not None:
        act_bits = settings["act_bits"]
        weight_bits = act_bits if settings["weight_bits"] is None else settings["weight_bits"]
        return runtime.explain_bits(weight_bits, act_bits)
    known = []
    for form in runtime.forms:
        weight_bits = " or ".join(map(str, form.weight_bits))
        act_bits = " or ".join(map(str, form.act_bits))
        known.append(f"weight_bits = {weight_bits} with act_bits = {act_bits}")
    return f"{runtime.title} has {', and '.join(known)}"


def _find_layer_fault(report: "LayerReport", runtime: Runtime) -> str | None:
    """Return what is wrong with a layer, or None if one form has its settings and its operator."""
    is_unsigned = (report.act_grid or "").startswith("unsigned")
    settings = {
        "weight_bits": report.weight_bits,  # None for a join, which has no weights, and so for its granularity
        "act_bits": FLOAT_BITS if report.act_bits is None else report.act_bits,
        "scheme": report.scheme,
        "act_signed": "auto" if is_unsigned else "always",
        "granularity": report.granularity,
    }
    if fault := _find_fault(settings, runtime):
        return fault
    if report.weight_bits is None:
        return None
    forms = [form for form in runtime.forms if _has_bits(form, settings)]
    fitting = [form for form in forms if _find_fault_of_form(settings, form, runtime) is None]
    if any(report.kind in form.operators for form in fitting):
        return None
    reason = runtime.reasons.get("operators", f"{runtime.title} has no quantized form of it")
    return f'{reason}; leave it float: overrides = {{"{report.layer}" = {{quantize = false}}}}'
