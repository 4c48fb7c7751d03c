"""A model's modes and bytes: evaluate it for a while, ask where it lives, save it, load it."""

import io
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from quantfair.quant.layers.modes import device_of
from quantfair.quant.layers.modules import QuantLayer, quant_layers
from quantfair.quant.quantizer.fake_quantize import FakeQuantize


def weights_to_bytes(model: nn.Module) -> bytes:
    """Return the whole state dict: weights, batch norm, quantizers. A control's is that of its float model."""
    return _to_bytes(model.state_dict())


def load_weights(model: nn.Module, data: bytes) -> None:
    """Load `weights_to_bytes` of a model built and prepared alike; it evaluates identically. Keys must match."""
    model.load_state_dict(_from_bytes(data))


def quantizer_state_to_bytes(model: nn.Module) -> bytes:
    """Return what a PTQ model is, given its float model: the grids, learned roundings and corrected biases."""
    return _to_bytes(_grids(model) | {key: _correction(layer, part) for key, layer, part in _corrections(model)})


@torch.no_grad()
def load_quantizer_state(model: nn.Module, data: bytes) -> None:
    """Load `quantizer_state_to_bytes` into a model prepared alike, in place of calibrating it."""
    state = _from_bytes(data)
    corrections = _corrections(model)
    if differing := sorted(state.keys() ^ {*_grids(model), *(key for key, _, _ in corrections)}):
        raise ValueError(f"these grids belong to another model: '{differing[0]}' is only on one side; prepare it alike")
    model.load_state_dict({key: state.pop(key) for key in _grids(model)}, strict=False)
    for key, layer, part in corrections:
        _set_correction(layer, part, state[key].to(device_of(model)))


def frozen_to_bytes(model: nn.Module) -> bytes:
    """Return all of a frozen model: quantized weights as their places on the grid, everything else as it is.

    Raises ValueError if a weight is not frozen.
    """
    state: dict[str, Tensor] = dict(model.state_dict())
    for prefix, layer, quantizer in _quantized_layers(model):
        if quantizer.mode != "frozen":
            raise ValueError(f"layer '{quantizer.layer}' is not frozen; call `freeze` first")
        del state[f"{prefix}weight"]
        state[f"{prefix}levels"] = _pack(quantizer.to_levels(layer.weight), quantizer)
    return _to_bytes(state)


@torch.no_grad()
def load_frozen(model: nn.Module, data: bytes) -> None:
    """Load `frozen_to_bytes` into a model prepared alike; it evaluates identically.

    Raises ValueError where the bytes are another model's.
    """
    state, layers = _from_bytes(data), list(_quantized_layers(model))
    levels = {prefix: state.pop(key) for prefix, _, _ in layers if (key := f"{prefix}levels") in state}
    missing, unexpected = model.load_state_dict(state, strict=False)
    differing = sorted({*unexpected, *missing} - {f"{prefix}weight" for prefix in levels})
    if differing:
        raise ValueError(f"this is another model's state: '{differing[0]}' is only on one side; prepare it alike")
    for prefix, layer, quantizer in layers:
        weight = quantizer.from_levels(levels[prefix].to(device_of(model)).float())
        layer.weight = nn.Parameter(weight, layer.weight.requires_grad)


def _quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantLayer, FakeQuantize]]:
    for name, layer in quant_layers(model):
        if isinstance(layer.weight_quantizer, FakeQuantize):
            yield "" if layer is model else f"{name}.", layer, layer.weight_quantizer


def _grids(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": getattr(module, key)
        for name, module in model.named_modules()
        if isinstance(module, FakeQuantize)
        for key in ("scale", "zero_point", "unsigned")
    }


def _corrections(model: nn.Module) -> list[tuple[str, QuantLayer, str]]:
    """Return (key, layer, part) of every corrected weight, as its place on the grid, and of every corrected bias."""
    layers = list(quant_layers(model))
    return [(f"{name}.levels", layer, "levels") for name, layer in layers if layer.learns_rounding] + [
        (f"{name}.bias", layer, "bias") for name, layer in layers if layer.corrects_bias
    ]


def _correction(layer: QuantLayer, part: str) -> Tensor:
    if part == "bias":
        assert layer.bias is not None
        return layer.bias
    assert isinstance(layer.weight_quantizer, FakeQuantize)
    return _pack(layer.weight_quantizer.to_levels(layer.weight), layer.weight_quantizer)


def _pack(levels: Tensor, quantizer: FakeQuantize) -> Tensor:
    return levels.to(torch.uint8 if quantizer.spec.bits <= 8 else torch.uint16)


def _set_correction(layer: QuantLayer, part: str, value: Tensor) -> None:
    assert isinstance(layer.weight_quantizer, FakeQuantize)
    old = getattr(layer, "bias" if part == "bias" else "weight")
    if part == "levels":
        value = layer.weight_quantizer.from_levels(value.float())
        layer.weight_quantizer.mode = "frozen"
    setattr(layer, "bias" if part == "bias" else "weight", nn.Parameter(value, old.requires_grad))


def _to_bytes(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save({key: value.detach().cpu() for key, value in state.items()}, buffer)
    return buffer.getvalue()


def _from_bytes(data: bytes) -> dict[str, Tensor]:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
