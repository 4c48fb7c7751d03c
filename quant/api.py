"""The life of a quantized model: prepare -> calibrate -> (fit) -> freeze.

swapped = float layers become quantized layers with identities for quantizers   fp32_ft stops here: the control
folded  = batch norm goes into the layer before it                              ptq with bn_fold = "fold"
filled  = identities become quantizers                                          ptq, qat
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quant.fake_quant import FakeQuantize, Mode
from quant.fold import fold_batchnorm
from quant.modules import QUANTIZED, QuantLayer, quant_layers, quantizers, swap
from quant.qparams import TensorSpec
from quant.spec import Fp32FtSpec, PtqSpec, QatSpec, QuantSettings
from quant.states import device_of, evaluating, require_calibrated


def prepare(model: nn.Module, spec: PtqSpec | QatSpec | Fp32FtSpec, example_NCHW: Tensor) -> nn.Module:
    """Return a copy of `model` made ready for `spec`; the caller's model is not touched.

    The copy is run once on `example_NCHW`. What stays float: layers that this does not call (an unused head),
    subclasses of layers, whose forward may differ, and layers whose weight is computed (spectral_norm).
    Raises ValueError if the model has nothing to quantize, is quantized already, or is not float32.
    """
    _check_is_float(model)
    prepared = copy.deepcopy(model)
    _swap_layers(prepared, example_NCHW.to(device_of(model)))
    if isinstance(spec, PtqSpec) and spec.bn_fold == "fold":
        fold_batchnorm(prepared, example_NCHW.to(device_of(model)))
    _note_unfolded(prepared, spec)
    if isinstance(spec, QuantSettings):
        for name, layer in quant_layers(prepared):
            _add_quantizers(layer, name, spec)
    return prepared


def _check_is_float(model: nn.Module) -> None:
    if next(quantizers(model), None):
        raise ValueError("the model is quantized already; `prepare` takes the float model")
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise ValueError(f"the model must be float32, but '{name}' is {parameter.dtype}; call `model.float()`")


def _swap_layers(model: nn.Module, example_NCHW: Tensor) -> None:
    called: dict[nn.Module, None] = {}
    hooks = [module.register_forward_pre_hook(lambda m, _: called.setdefault(m)) for module in model.modules()]
    try:
        with evaluating(model), torch.no_grad():
            model(example_NCHW)
    finally:
        for hook in hooks:
            hook.remove()
    for module in called:
        if type(module) in QUANTIZED and "weight" in module._parameters:
            swap(module)
    if not any(quant_layers(model)):
        kinds = ", ".join(kind.__name__ for kind in QUANTIZED)
        raise ValueError(f"{type(model).__name__} has nothing to quantize: it calls no {kinds} on the example")


def _note_unfolded(model: nn.Module, spec: PtqSpec | QatSpec | Fp32FtSpec) -> None:
    """Tell every batch norm that is left why, for `describe_layers`."""
    if not isinstance(spec, PtqSpec):
        reason = f"{spec.method} trains batch norm unfolded"
    elif spec.bn_fold == "none":
        reason = "not folded: `bn_fold` is none"
    else:
        reason = "not folded: its input has other uses, or is not the output of a single call of one layer"
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.unfolded_because = reason  # pyright: ignore


def _add_quantizers(layer: QuantLayer, name: str, settings: QuantSettings) -> None:
    mode: Mode = "follow" if isinstance(settings, QatSpec) else "fixed"
    weight_spec = TensorSpec.of_weight(settings, layer.channel_axis)
    per_channel = tuple(n if dim == weight_spec.axis else 1 for dim, n in enumerate(layer.weight.shape))
    shape = () if weight_spec.axis is None else per_channel
    device = layer.weight.device
    layer.weight_quantizer = FakeQuantize(weight_spec, layer=name, mode=mode, shape=shape).to(device)
    layer.act_quantizer = FakeQuantize(TensorSpec.of_activation(settings), layer=name, mode=mode).to(device)


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set every grid from one pass of the float model, in eval mode, over `batches` of images_NCHW.

    Calibrating again starts afresh. A control has nothing to calibrate: its batches are not read. Raises ValueError if
    the model is frozen, if there is no image, or if no image reached a layer; NonFiniteError naming the layer.
    """
    found = list(quantizers(model))
    if not found:
        return
    modes: list[Mode] = [quantizer.mode for quantizer in found]
    if "frozen" in modes:
        raise ValueError("the model is frozen; calibrate it before `freeze`")
    try:
        with evaluating(model):
            _observe_all(model, batches)
    finally:
        for quantizer, mode in zip(found, modes, strict=True):
            quantizer.mode = mode
    for quantizer in found:
        quantizer.decide_sign()
        quantizer.update_grid()


def _observe_all(model: nn.Module, batches: Iterable[Tensor]) -> None:
    for quantizer in quantizers(model):
        quantizer.observer.reset()
        quantizer.mode = "calibrate" if quantizer.spec.role == "activation" else "bypass"
    for _, layer in quant_layers(model):
        assert isinstance(layer.weight_quantizer, FakeQuantize)
        layer.weight_quantizer.observe(layer.weight)
    for images_NCHW in batches:
        model(images_NCHW.to(device_of(model)))
    unseen = [quantizer.layer for quantizer in quantizers(model) if quantizer.observer.n_observed == 0]
    if unseen:
        raise ValueError(f"layer '{unseen[0]}' saw no data; `batches` must hold images that reach every layer")


@torch.no_grad()
def freeze(model: nn.Module) -> None:
    """Fix all ranges and quantize the weights once, so that later passes need not. A second call changes nothing."""
    require_calibrated(model)
    for _, layer in quant_layers(model):
        for quantizer in (layer.act_quantizer, layer.weight_quantizer):
            if isinstance(quantizer, FakeQuantize) and quantizer.mode == "follow":
                quantizer.mode = "fixed"
        if isinstance(layer.weight_quantizer, FakeQuantize) and layer.weight_quantizer.mode == "fixed":
            # A new parameter: the old one may be shared with a layer that is not quantized.
            quantized = layer.weight_quantizer.quantize(layer.weight)
            layer.weight = nn.Parameter(quantized, requires_grad=layer.weight.requires_grad)
            layer.weight_quantizer.mode = "frozen"
