"""What PTQ does after calibrating, layer by layer in the order of their calls: learned rounding, then bias correction.

    a calibrated model, images -> weights on their grids for good, biases corrected

Each layer is compared with the same layer of the float model: x is what enters there, x^ what enters here, through the
layers that are corrected already, and quantized. So a layer makes up for what those before it left over.

rounding         `quant/ptq/adaround.py` chooses W~ to make E |W x - W~ x^|^2 small
bias correction  bias += E[W x] - E[W~ x^] of every channel (Nagel et al. 2019, "Data-Free Quantization Through Weight
                 Equalization and Bias Correction", 1906.04721, section 4.2, the empirical form)

The road not taken is all layers at once, from one pass of the float model. Measured on UTKFace (small_cnn, width 32,
1,024 images, W4 per tensor, n = 1), mean squared error of the logits with 8 and with 4 bits for activations: nearest
0.19 and 0.39; all at once 0.12 and 0.35 rounded, 0.21 and 0.54 bias-corrected; in order 0.019 and 0.15, 0.14 and 0.31.
Its price is a pass for each layer up to that layer, so that a fixed number of images is taken, evenly from all batches:
256 did as well as 1,024 (0.005 and 0.15, 0.14 and 0.32 with the rounding as it is now).
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from quantfair.quant.layers.modes import bypassed, device_of, evaluating
from quantfair.quant.layers.modules import QuantLayer, QuantLinear, quant_layers
from quantfair.quant.ptq.adaround import Candidates, OutputError, choose_rounding
from quantfair.quant.ptq.unfold import count_inputs, flatten_weight, unfold_inputs, weight_of_matrix
from quantfair.quant.quantizer.fake_quantize import FakeQuantize
from quantfair.quant.specs.methods import PtqSpec

MOST_IMAGES: Final = 256
MOST_POSITIONS: Final = 16384  # output positions over all images that a rounding looks at
MOST_INPUTS: Final = 8192  # of one output: the quadratic form has its square, here 256 MiB


class _Call(NamedTuple):
    """What a layer was called with: its input, and the output size of a transposed convolution."""

    x: Tensor
    rest: tuple[Any, ...]


class _Reached(Exception):
    """The layer has been called; the pass may end."""


def plan_corrections(layer: QuantLayer, spec: PtqSpec) -> None:
    """Note on a quantized `layer` what is to be corrected; one without a bias gets one of zeros, if it needs it."""
    layer.corrects_bias = spec.bias_correction
    layer.learns_rounding = spec.rounding == "adaround" and count_inputs(layer) <= MOST_INPUTS
    if spec.rounding == "adaround" and not layer.learns_rounding:
        layer.note = (
            f"rounded to nearest: adaround takes up to {MOST_INPUTS} inputs, and this has {count_inputs(layer)}"
        )
    if spec.bias_correction and layer.bias is None:
        n_outputs = flatten_weight(layer, layer.weight).shape[:2].numel()
        layer.bias = nn.Parameter(layer.weight.new_zeros(n_outputs), layer.weight.requires_grad)


def needs_corrections(model: nn.Module) -> bool:
    """Whether any layer is to be corrected."""
    return any(layer.learns_rounding or layer.corrects_bias for _, layer in quant_layers(model))


def sample_images(batches: Iterable[Tensor], n_batches: int) -> list[Tensor]:
    """Return the first images of each of the batches: MOST_IMAGES in all, or a few more."""
    return [images_NCHW[: -(-MOST_IMAGES // n_batches)] for images_NCHW in batches]


@torch.no_grad()
def correct(model: nn.Module, images: list[Tensor]) -> None:
    """Put the weights of a calibrated `model` on their grids, and correct biases, in place. Equal images, equal bits.

    Raises ValueError for no image.
    """
    if not images:
        raise ValueError("adaround and bias_correction need images: calibrate(model, batches, calibration=...)")
    images = [images_NCHW.to(device_of(model)) for images_NCHW in images]
    reference = copy.deepcopy(model)
    with ExitStack() as stack:
        for one in (reference, model):
            stack.enter_context(evaluating(one))
        stack.enter_context(bypassed(reference))
        n_calls_of = _count_calls(reference, images[0])
        for name, layer in quant_layers(model):
            if name not in n_calls_of:
                layer.note = "neither rounding nor bias corrected: the first calibration images do not reach it"
        for name, n_calls in n_calls_of.items():
            pair = _Pair(reference, model, name, n_calls)
            if isinstance(pair.layer.weight_quantizer, FakeQuantize):
                _put_on_grid(pair, images)
                if pair.layer.corrects_bias:
                    _correct_bias(pair, images)


def _put_on_grid(pair: "_Pair", images: list[Tensor]) -> None:
    layer, quantizer = pair.layer, pair.layer.weight_quantizer
    assert isinstance(quantizer, FakeQuantize)
    weight = _round(pair, images) if layer.learns_rounding else quantizer.quantize(layer.weight)
    layer.weight = nn.Parameter(weight, layer.weight.requires_grad)
    quantizer.mode = "frozen"


def _round(pair: "_Pair", images: list[Tensor]) -> Tensor:
    layer, quantizer = pair.layer, pair.layer.weight_quantizer
    assert isinstance(quantizer, FakeQuantize)
    around = (layer.weight, *quantizer.around(layer.weight), quantizer.quantize(layer.weight))
    candidates = Candidates(*(flatten_weight(layer, weight) for weight in around))
    error = OutputError(candidates.weight_GOI)
    most = -(-MOST_POSITIONS // (len(images) * pair.n_calls))
    for there, here in pair.calls(images):
        error.add(unfold_inputs(layer, there.x, most), unfold_inputs(layer, layer.act_quantizer(here.x), most))
    return weight_of_matrix(layer, choose_rounding(candidates, error))


def _correct_bias(pair: "_Pair", images: list[Tensor]) -> None:
    layer, n = pair.layer, 0
    assert layer.bias is not None
    error_O = torch.zeros_like(layer.bias, dtype=torch.float64)
    for there, here in pair.calls(images):
        wanted = layer.compute(there.x, pair.float_layer.weight, pair.float_layer.bias, *there.rest)
        given = layer.compute(layer.act_quantizer(here.x), layer.weight, layer.bias, *here.rest)
        errors_MO = (wanted - given).movedim(-1 if isinstance(layer, QuantLinear) else 1, -1).flatten(0, -2)
        error_O += errors_MO.sum(0, dtype=torch.float64)
        n += len(errors_MO)
    layer.bias = nn.Parameter(layer.bias + (error_O / n).float(), layer.bias.requires_grad)


class _Pair(NamedTuple):
    """A layer in the float model and in the quantized one."""

    reference: nn.Module
    model: nn.Module
    name: str
    n_calls: int

    @property
    def layer(self) -> QuantLayer:
        return _layer(self.model, self.name)

    @property
    def float_layer(self) -> QuantLayer:
        return _layer(self.reference, self.name)

    def calls(self, images: list[Tensor]) -> Iterator[tuple[_Call, _Call]]:
        """Yield what enters the float layer and the quantized one, call by call."""
        for images_NCHW in images:
            there = _calls(self.reference, self.float_layer, self.n_calls, images_NCHW)
            yield from zip(there, _calls(self.model, self.layer, self.n_calls, images_NCHW), strict=True)


def _layer(model: nn.Module, name: str) -> QuantLayer:
    layer = dict(quant_layers(model))[name]
    assert isinstance(layer, QuantLayer)
    return layer


def _calls(model: nn.Module, layer: QuantLayer, n_calls: int, images_NCHW: Tensor) -> list[_Call]:
    """Run `model` until `layer` has been called that often; return its calls."""
    calls: list[_Call] = []

    def watch(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x, *rest = (*args, *kwargs.values())
        calls.append(_Call(x.clone(), tuple(rest)))  # what follows may work in place
        if len(calls) == n_calls:
            raise _Reached

    hook = layer.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        model(images_NCHW)
    except _Reached:
        pass
    finally:
        hook.remove()
    return calls


def _count_calls(model: nn.Module, images_NCHW: Tensor) -> dict[str, int]:
    """Return how often each layer is called, in the order of first calls."""
    counts: dict[str, int] = {}
    hooks = []
    for name, layer in quant_layers(model):

        def count(*_: object, name: str = name) -> None:
            counts[name] = counts.get(name, 0) + 1

        hooks.append(layer.register_forward_pre_hook(count))
    try:
        model(images_NCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return counts
