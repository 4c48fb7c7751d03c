"""What was done to a model: one report per layer, and the bytes that it needs when deployed."""

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quantfair.quant.layers.modules import QUANTIZED, Add, Concat, QuantInput, QuantLayer, quant_layers, quantizers
from quantfair.quant.quantizer.fake_quantize import FakeQuantize
from quantfair.quant.specs.methods import FLOAT_BITS


class LayerReport(NamedTuple):
    """A row of the table `layers`: how a layer is quantized, or (`status` "float") the reason why it is not.

    A quantized layer has a reason where a correction that was asked for is left out.
    """

    # `n_weights` leaves out biases
    layer: str
    kind: str
    status: str
    reason: str | None
    n_weights: int
    weight_bits: int | None = None
    act_bits: int | None = None
    scheme: str | None = None
    granularity: str | None = None
    act_grid: str | None = None
    folded_batchnorm: str | None = None
    weight_sqnr_db: float | None = None  # this and the next: `quant.measure_sqnr`
    sqnr_db: float | None = None


def describe_layers(model: nn.Module) -> list[LayerReport]:
    """Report every layer that has weights, every batch norm and every join (addition, concatenation), in their order;
    under preset iao also the poolings and activations whose input is quantized.

    Joins in a module's code, which `quantize_adds` cannot see, come last.
    """
    inside = {layer.batchnorm for _, layer in quant_layers(model)}  # told with their layers
    modules = [(name or "(model)", module) for name, module in model.named_modules() if module not in inside]
    reports = [_report(name, module, model) for name, module in modules if _counts(module)]
    return reports + [
        LayerReport(f"{name}: {operation}", operation, "float", _IN_CODE, 0)
        for name, operation in getattr(model, "joins_in_code", [])
    ]


_IN_CODE = "an operation in code, which `quantize_adds` cannot see: make it a module, quant.Add or quant.Concat"


def _counts(module: nn.Module) -> bool:
    if isinstance(module, FakeQuantize):
        return False
    has_weights = next(module.parameters(recurse=False), None) is not None
    return has_weights or isinstance(module, BatchNorm | Add | Concat | QuantInput)


def _report(name: str, module: nn.Module, model: nn.Module) -> LayerReport:
    kind = type(module).__name__
    if isinstance(module, QuantLayer | QuantInput):
        kind = kind.removeprefix("Quant").removeprefix("Iao")
    if isinstance(module, QuantInput):
        return LayerReport(name, kind, "quantized", None, 0, **_input(module))
    n_weights = sum(p.numel() for name, p in module.named_parameters(recurse=False) if "bias" not in name)
    if isinstance(module, QuantLayer) and isinstance(module.weight_quantizer, FakeQuantize):
        return LayerReport(name, kind, "quantized", module.note, n_weights, **_settings_of(module))
    folded = module.folded_batchnorm if isinstance(module, QuantLayer) else None
    return LayerReport(name, kind, "float", _why_float(module, model), n_weights, folded_batchnorm=folded)


def _settings_of(layer: QuantLayer) -> dict[str, Any]:
    assert isinstance(layer.weight_quantizer, FakeQuantize)
    weight, quantizer = layer.weight_quantizer.spec, layer.act_quantizer
    has_grid = isinstance(quantizer, FakeQuantize)
    return {
        "weight_bits": weight.bits,
        "act_bits": quantizer.spec.bits if has_grid else FLOAT_BITS,
        "scheme": "symmetric" if weight.symmetric else "asymmetric",
        "granularity": "per_tensor" if weight.axis is None else "per_channel",
        "act_grid": _describe_grid(quantizer) if has_grid else "float",
        "folded_batchnorm": layer.folded_batchnorm,
    }


def _input(module: QuantInput) -> dict[str, Any]:
    spec = module.act_quantizer.spec
    scheme = "symmetric" if spec.symmetric else "asymmetric"
    return {"act_bits": spec.bits, "scheme": scheme, "act_grid": _describe_grid(module.act_quantizer)}


def _describe_grid(quantizer: FakeQuantize) -> str:
    bounds = f"{quantizer.quant_min}..{quantizer.quant_max}"
    if not quantizer.is_calibrated():
        return "not calibrated"
    if not quantizer.spec.symmetric:
        return f"asymmetric {bounds}, zero point {int(quantizer.zero_point)}"
    return f"{'unsigned' if quantizer.unsigned else 'signed'} {bounds}"


def _why_float(module: nn.Module, model: nn.Module) -> str:
    kind = type(module)
    if next(quant_layers(model), None) is None:
        return "this is the float model"
    if (reason := getattr(module, "float_reason", None)) is not None:
        return reason
    if isinstance(module, QuantLayer):
        return "the quantizers are bypassed: this model is a control"
    if isinstance(module, Add | Concat) and getattr(model, "joins_in_code", None) is None:
        return "`quantize_adds` is false"
    if isinstance(module, BatchNorm):
        return str(module.unfolded_reason)
    if kind in QUANTIZED and "weight" not in module._parameters:
        return "its weight is computed from other parameters"
    if kind in QUANTIZED or kind in (Add, Concat):
        return "not called as a module when the model ran on the example"
    if base := next((base for base in (*QUANTIZED, Add, Concat) if issubclass(kind, base)), None):
        return f"a subclass of {base.__name__}, whose forward may differ"
    return f"{kind.__name__} has no quantized form"


def count_bytes(model: nn.Module) -> int:
    """Return the bytes of a deployed file: quantized weights packed at their bits, everything else float32.

    Everything else: biases, unquantized weights, batch norm, one scale per grid, one zero point per asymmetric grid.
    """
    n_floats = sum(tensor.numel() for tensor in _deployed_floats(model))
    for quantizer in quantizers(model):
        n_floats += quantizer.scale.numel() * (1 if quantizer.spec.symmetric else 2)
    n_packed = 0
    for _, layer in quant_layers(model):
        if isinstance(layer.weight_quantizer, FakeQuantize):
            n_floats -= layer.weight.numel()
            n_packed += -(-layer.weight.numel() * layer.weight_quantizer.spec.bits // 8)
    return 4 * n_floats + n_packed


def _deployed_floats(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers as they are, without the quantizers' own state and without integer counters."""
    owners = [module for module in model.modules() if not isinstance(module, FakeQuantize)]
    parameters = {id(p): p for module in owners for p in module.parameters(recurse=False)}
    buffers = [buffer for module in owners for buffer in module.buffers(recurse=False)]
    return [*parameters.values(), *(buffer for buffer in buffers if buffer.is_floating_point())]
