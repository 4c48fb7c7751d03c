"""The life of a quantized model: prepare -> calibrate -> (fit) -> freeze.

swapped = float layers become quantized layers with identities for quantizers   fp32_ft stops here: the control
folded  = batch norm goes into the layer before it, for good or to be trained   ptq "fold"; qat's folds
filled  = identities become quantizers                                          ptq, qat
"""

import copy
from collections.abc import Iterable
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.utils._pytree import tree_leaves

from quantfair.quant.iao.calibration import calibrate_iao
from quantfair.quant.iao.layers import install_iao
from quantfair.quant.iao.quantizer import IaoQuantizer
from quantfair.quant.layers.bn_fold import attach_batchnorm, finish_fold, fold_batchnorm
from quantfair.quant.layers.functional_merges import FunctionalMergeRecorder
from quantfair.quant.layers.modes import device_of, evaluating, require_calibrated
from quantfair.quant.layers.modules import JOINS, QUANTIZED, QuantLayer, deployed_weight, quant_layers, quantizers, swap
from quantfair.quant.layers.non_finite import NonFiniteError, is_finite
from quantfair.quant.layers.report import LayerReport, describe_layers
from quantfair.quant.layers.settings import LayerSettings, input_spec, settings_by_layer
from quantfair.quant.ptq.calibration import Calibration, collect
from quantfair.quant.ptq.corrections import correct, needs_corrections, plan_corrections, sample_images
from quantfair.quant.quantizer.fake_quantize import FakeQuantize
from quantfair.quant.quantizer.observers import ActivationStats, activation_range, weight_range
from quantfair.quant.quantizer.qparams import SMALLEST_SCALE, QuantizerSpec
from quantfair.quant.specs.methods import Fp32FtSpec, PtqSpec, QatSpec, QuantSettings


class Prepared(NamedTuple):
    """A model made ready, and what became of each layer."""

    model: nn.Module
    layers: list[LayerReport]


def prepare(model: nn.Module, spec: PtqSpec | QatSpec | Fp32FtSpec, example_NCHW: Tensor) -> Prepared:
    """Return a copy of `model` made ready for `spec`, and its report; the caller's model is not touched.

    The copy is run once on `example_NCHW`. What stays float: layers that this does not call (an unused head),
    subclasses of layers, whose forward may differ, and layers whose weight is computed (spectral_norm).
    Raises ValueError if the model has nothing to quantize, is quantized already, or is not float32, and for an override
    that fits no layer.
    """
    if not isinstance(spec, PtqSpec | QatSpec | Fp32FtSpec):
        raise ValueError(f"`spec` must be a PtqSpec, QatSpec or Fp32FtSpec, got {spec!r}")
    _check_is_float(model)
    prepared, example_NCHW = copy.deepcopy(model), example_NCHW.to(device_of(model))
    called, lasts, in_code = _call(prepared, example_NCHW)
    layers = _swap_layers(prepared, called)
    if isinstance(spec, PtqSpec | QatSpec) and spec.preset == "iao":
        install_iao(prepared, spec, called, example_NCHW)
        prepared.joins_in_code = [join for join in in_code if join[1] == "add"]  # pyright: ignore
    elif isinstance(spec, QuantSettings):
        _fold(prepared, spec, example_NCHW)
        channel_axes = {name: layer.channel_axis for name, layer in layers.items()}
        settings = settings_by_layer(spec, channel_axes, lasts=[name for name in layers if layers[name] in lasts])
        for name, layer in layers.items():
            _add_quantizers(layer, name, settings[name])
            if isinstance(spec, PtqSpec) and settings[name].float_reason is None:
                plan_corrections(layer, spec)
        of_join = input_spec(spec)
        if spec.quantize_adds and of_join is not None:
            _quantize_joins(prepared, called, of_join)
            prepared.joins_in_code = in_code  # pyright: ignore[reportArgumentType]
    _note_unfolded(prepared, spec)
    return Prepared(prepared, describe_layers(prepared))


def _check_is_float(model: nn.Module) -> None:
    if next(quantizers(model), None):
        raise ValueError("the model is quantized already; `prepare` takes the float model")
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise ValueError(f"the model must be float32, but '{name}' is {parameter.dtype}; call `model.float()`")


def _call(model: nn.Module, example_NCHW: Tensor) -> tuple[list[nn.Module], list[nn.Module], list[tuple[str, str]]]:
    """Run `model`; return the modules in the order of their calls, those that made one of its outputs, and the joins
    (module, operation) in code.
    """  # fmt: skip
    called: dict[nn.Module, Tensor] = {}
    joins = FunctionalMergeRecorder()
    names = {module: name or "(model)" for name, module in model.named_modules()}

    def remember(module: nn.Module, _inputs: object, output: Tensor) -> None:
        called[module] = output
        joins.leave()

    with ExitStack() as stack:
        for module in names:
            for hook in (
                module.register_forward_pre_hook(lambda module, _inputs: joins.enter(module, names[module])),
                module.register_forward_hook(remember),
            ):
                stack.callback(hook.remove)
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(joins)
        outputs = model(example_NCHW)
    heads = tree_leaves(outputs)
    makers = [module for module, output in called.items() if any(output is head for head in heads)]
    return list(called), makers, joins.found


def _swap_layers(model: nn.Module, called: list[nn.Module]) -> dict[str, QuantLayer]:
    """Swap every layer that was called and has a quantized form; return them by name in the order of the calls."""
    for module in called:
        if type(module) in QUANTIZED and "weight" in module._parameters:
            swap(module)
    names = {layer: name for name, layer in quant_layers(model)}
    if not names:
        kinds = ", ".join(kind.__name__ for kind in QUANTIZED)
        raise ValueError(f"{type(model).__name__} has nothing to quantize: it calls no {kinds} on the example")
    return {names[module]: module for module in called if isinstance(module, QuantLayer)}


def _fold(model: nn.Module, spec: QuantSettings, example_NCHW: Tensor) -> None:
    if isinstance(spec, PtqSpec) and spec.bn_fold == "fold":
        fold_batchnorm(model, example_NCHW)
    elif isinstance(spec, QatSpec) and spec.bn_fold != "none":
        attach_batchnorm(model, example_NCHW, folds_batch=spec.bn_fold == "fold")


def _note_unfolded(model: nn.Module, spec: PtqSpec | QatSpec | Fp32FtSpec) -> None:
    """Tell every batch norm that is left why, for `describe_layers`."""
    if isinstance(spec, Fp32FtSpec):
        reason = "fp32_ft trains batch norm unfolded"
    elif spec.bn_fold == "none":
        reason = "not folded: `bn_fold` is none"
    else:
        kind = "layer" if spec.preset == "none" else "Conv2d"
        reason = f"not folded: its input has other uses, or is not the output of a single call of one {kind}"
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.unfolded_reason = reason  # pyright: ignore


def _add_quantizers(layer: QuantLayer, name: str, chosen: LayerSettings) -> None:
    if chosen.float_reason is not None:
        layer.float_reason = chosen.float_reason
        return
    axis = chosen.weight.axis
    per_channel = tuple(n if dim == axis else 1 for dim, n in enumerate(layer.weight.shape))
    shape = () if axis is None else per_channel
    device = layer.weight.device
    layer.weight_quantizer = FakeQuantize(chosen.weight, layer=name, shape=shape).to(device)
    if chosen.activation is not None:
        layer.act_quantizer = FakeQuantize(chosen.activation, layer=name).to(device)


def _quantize_joins(model: nn.Module, called: list[nn.Module], spec: QuantizerSpec) -> None:
    names = {module: name for name, module in model.named_modules()}
    for module in called:
        if type(module) in JOINS:
            module.__class__ = JOINS[type(module)]
            quantizer = FakeQuantize(spec, layer=names[module])
            module.act_quantizer = quantizer.to(device_of(model))


@torch.no_grad()
def calibrate(
    model: nn.Module, batches: Iterable[Tensor] | Calibration, *, calibration: Calibration | None = None
) -> None:
    """Set every grid from one pass of the float model, in eval mode, over `batches` of images_NCHW.

    Or from a `calibration` that `collect` made of the float model, which trials share. Then `batches` are only read if
    the rounding or the biases are to be corrected, and may be the `Calibration` itself if not. Without one, corrections
    read them a second time. Calibrating again starts afresh, but not after a correction, which is for good.
    A control has nothing to calibrate: its batches are not read. Raises ValueError if the model is frozen, if there is
    no image, or if no image reached a layer; NonFiniteError naming the layer.
    For preset iao see `calibrate_iao`.
    """
    found = list(quantizers(model))
    if not found:
        return
    if any(quantizer.mode == "frozen" for quantizer in found):
        raise ValueError("the model is frozen; calibrate it before `freeze`, and once if it is corrected")
    if isinstance(found[0], IaoQuantizer):
        calibrate_iao(model, batches if calibration is None else calibration)
        return
    if isinstance(batches, Calibration):
        batches, calibration = (), batches
    if needs_corrections(model) and calibration is None and iter(batches) is batches:
        raise ValueError("adaround and bias_correction read `batches` twice: give a list, or `calibration` too")
    set_weight_ranges(model)
    calibration = collect(model, batches) if calibration is None else calibration
    for quantizer in found:
        if quantizer.spec.role == "activation":
            _set_activation_range(quantizer, calibration.layers.get(quantizer.layer))
    if needs_corrections(model):
        correct(model, sample_images(batches, len(calibration.batches)))


def _set_activation_range(quantizer: FakeQuantize, seen: ActivationStats | None) -> None:
    if seen is None:
        raise ValueError(f"layer '{quantizer.layer}' saw no data; `batches` must hold images that reach every layer")
    unsigned = quantizer.spec.may_be_unsigned and seen.smallest() >= 0
    # The bounds of the grid that a search compares ranges on are those of the sign.
    low, high = activation_range(seen, quantizer.spec, unsigned=unsigned)
    quantizer.set_range(low, high, unsigned=unsigned)


@torch.no_grad()
def set_weight_ranges(model: nn.Module) -> None:
    """Set the range of every weight as it is now. Raises NonFiniteError naming the layer."""
    for name, layer in quant_layers(model):
        if not isinstance(layer.weight_quantizer, FakeQuantize):
            continue
        if not is_finite(layer.weight):
            raise NonFiniteError(
                f"layer '{name}' met a non-finite weight while calibrating; check the weights of the float model"
            )
        spec = layer.weight_quantizer.spec
        weight = deployed_weight(layer)
        if layer.batchnorm is not None and not spec.follows:
            weight = layer.starting_weight()
        layer.weight_quantizer.set_range(*weight_range(weight, spec))


@torch.no_grad()
def freeze(model: nn.Module) -> None:
    """Fix all ranges, finish the fold, and quantize the weights once. A second call changes nothing."""
    require_calibrated(model)
    for quantizer in quantizers(model):
        if quantizer.mode != "frozen":
            quantizer.mode = "fixed"
            quantizer.scale.clamp_(min=SMALLEST_SCALE)  # the last step may have pushed a learned one below
    for _, layer in quant_layers(model):
        finish_fold(layer)
        if isinstance(layer.weight_quantizer, FakeQuantize) and layer.weight_quantizer.mode == "fixed":
            # A new parameter: the old one may be shared with a layer that is not quantized.
            quantized = layer.weight_quantizer.quantize(layer.weight)
            layer.weight = nn.Parameter(quantized, requires_grad=layer.weight.requires_grad)
            layer.weight_quantizer.mode = "frozen"
