"""What quantization did to each layer: the noise that it added, and the network with this layer alone quantized.

    twin = float_twin(prepared) -> calibrate, fit, freeze -> describe_noise, predict_each_layer

Everything is measured against the *twin*: the same weights, batch norm folded alike, without quantizers. It is a copy,
since rounding, bias correction and `freeze` change the weights themselves.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantfair.quant.layers.modes import device_of, evaluating
from quantfair.quant.layers.modules import QuantLayer, deployed_weight
from quantfair.quant.layers.report import LayerReport, describe_layers
from quantfair.quant.prediction import predict
from quantfair.quant.quantizer.fake_quantize import FakeQuantize

IMAGES_AT_ONCE = 16  # the outputs of all layers are held for so many images


@dataclass
class Power:
    """Sums of squares: of float values, and of what quantization changed in them."""

    signal: float = 0
    noise: float = 0

    def add(self, x: Tensor, quantized: Tensor) -> "Power":
        """Take in more values."""
        self.signal += float(x.square().sum(dtype=torch.float64))
        self.noise += float((x - quantized).square().sum(dtype=torch.float64))
        return self


def without_quantizers(model: nn.Module) -> nn.Module:
    """Return a copy of a prepared model that has an identity in place of every quantizer.

    For PTQ take it before `calibrate`, for QAT after `fit`, and in both cases before `freeze`.
    """
    twin = copy.deepcopy(model)
    for module in list(twin.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, FakeQuantize):
                setattr(module, name, nn.Identity())
    return twin


def measure_sqnr(model: nn.Module, twin: nn.Module, images: Iterable[Tensor] | None = None) -> list[LayerReport]:
    """Return `describe_layers(model)` with the SQNR of every quantized layer, in dB; that of outputs needs `images`.

    SQNR = 10 log10(sum x^2 / sum (x - x_quantized)^2) (Lin, Talathi and Annapureddy, ICML 2016). In
    `weight_sqnr_db` x is the weight, folded as it is deployed. In `sqnr_db` it is the layer's output in the twin on
    batches of images_NCHW, and x_quantized the output in the quantized network: errors of earlier layers count too.
    What has no ratio is None, with a reason.
    """
    outputs = None if images is None else compare_outputs(model, twin, images)
    return [
        _add_noise(report, _compare_weights(model, twin, report.layer), outputs) if _is_quantized(report) else report
        for report in describe_layers(model)
    ]


@torch.no_grad()
def compare_outputs(model: nn.Module, twin: nn.Module, images: Iterable[Tensor]) -> dict[str, Power]:
    """Return the power of each quantized layer's output, over batches of images_NCHW; nothing for one never called."""
    floats: dict[str, list[Tensor]] = defaultdict(list)  # of each call; cloned, for an activation in place follows
    powers: dict[str, Power] = defaultdict(Power)
    names = quantized_layers(model)
    with (
        evaluating(twin),
        evaluating(model),
        _watching(twin, names, lambda name, output: floats[name].append(output.clone())),
        _watching(model, names, lambda name, output: powers[name].add(floats[name].pop(0), output)),
    ):
        for batch_NCHW in images:
            for images_NCHW in batch_NCHW.to(device_of(model)).split(IMAGES_AT_ONCE):
                twin(images_NCHW)
                model(images_NCHW)
    return powers


@contextmanager
def _watching(model: nn.Module, names: Iterable[str], act: Callable[[str, Tensor], object]) -> Iterator[None]:
    """For a while, call `act(name, output)` after each call of these layers."""
    with ExitStack() as stack:
        for name in names:
            hook = _find(model, name).register_forward_hook(_after(name, act))
            stack.callback(hook.remove)
        yield


def _after(name: str, act: Callable[[str, Tensor], object]) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        act(name, output)

    return hook


def predict_each_layer(
    model: nn.Module, twin: nn.Module, images: Callable[[], Iterable[Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Yield (layer, logits_NK) of the network in which that layer alone, inputs and weight, is quantized.

    `images` returns batches of images_NCHW, once for each layer. The errors are those of `predict`.
    """
    for name in quantized_layers(model):
        with only_layer(model, twin, name):
            yield name, predict(twin, images())


@contextmanager
def only_layer(model: nn.Module, twin: nn.Module, name: str) -> Iterator[None]:
    """For a while, let the layer `name` of `twin` compute what it computes in `model`."""
    layer, quantized = _find(twin, name), _find(model, name)
    with evaluating(quantized):
        layer.forward = quantized.forward  # an attribute of the object, which hides the method, wherever it is called
        try:
            yield
        finally:
            del layer.forward


def quantized_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers and joins that are quantized."""
    return [report.layer for report in describe_layers(model) if _is_quantized(report)]


def _is_quantized(report: LayerReport) -> bool:
    return report.status == "quantized"


def _find(model: nn.Module, name: str) -> nn.Module:
    return model if name == "(model)" else model.get_submodule(name)


@torch.no_grad()
def _compare_weights(model: nn.Module, twin: nn.Module, name: str) -> Power | None:
    """None for a join, which has no weight."""
    layer, floating = _find(model, name), _find(twin, name)
    if not (isinstance(layer, QuantLayer) and isinstance(floating, QuantLayer)):
        return None
    return Power().add(deployed_weight(floating), layer.weight_quantizer(deployed_weight(layer)))


def _add_noise(report: LayerReport, weight: Power | None, outputs: dict[str, Power] | None) -> LayerReport:
    columns, reasons = {}, [report.reason] if report.reason else []
    if weight is not None:
        columns["weight_sqnr_db"] = _to_db(weight, "weight_sqnr_db", reasons)
    if outputs is None:
        reasons.append("sqnr_db: not asked for")
    elif report.layer not in outputs:
        reasons.append("sqnr_db: no image reached this layer")
    else:
        columns["sqnr_db"] = _to_db(outputs[report.layer], "sqnr_db", reasons)
    return report._replace(**columns, reason="; ".join(reasons) or None)


def _to_db(power: Power, column: str, reasons: list[str]) -> float | None:
    if power.signal > 0 and power.noise > 0:
        return 10 * math.log10(power.signal / power.noise)
    reasons.append(f"{column}: {'quantization changes nothing' if power.noise == 0 else 'the float values are all 0'}")
    return None
