"""Float models of every architecture, trained a little on real digits of the size each takes, and frozen forms."""

from functools import lru_cache
from typing import NamedTuple

import torch.nn.functional as F
from quant_digits import TensorBatches, digits
from torch import Tensor, nn

from quantfair.quant import ModelSpec, PtqSpec, QatSpec, TrainSpec, build_model, calibrate, fit, freeze, prepare
from quantfair.quant.layers.modules import quant_layers
from quantfair.quant.quantizer.fake_quantize import FakeQuantize

SIDES = {"small_cnn": 8, "nin": 16, "nin_gc": 16, "resnet18": 12, "trident": 34}
EPOCHS = {"small_cnn": 5, "nin": 5, "nin_gc": 5, "resnet18": 4, "trident": 8}
EPOCHS_NARROW = {**EPOCHS, "nin": 2, "resnet18": 2}  # 92 % of the digits are right after these
NARROW = {"small_cnn": 16, "nin": 24, "nin_gc": 32, "resnet18": 8, "trident": 8}  # for tests that always run
LEARNING_RATE = {"trident": 0.001}
N_TRAIN = 1280
TASKS = {"trident": {"task": "gender", "heads": {"gender": 10}}}


class Frozen(NamedTuple):
    """A frozen model and images for it, those it was trained on among them."""

    model: nn.Module
    images_NCHW: Tensor


@lru_cache
def images_of(side: int) -> Tensor:
    """All 1,797 digits, enlarged."""
    images_NCHW = digits()[0]
    return images_NCHW if side == 8 else F.interpolate(images_NCHW, (side, side), mode="bilinear")


@lru_cache
def float_model(name: str, width: int | None = None) -> nn.Module:
    """A model after a few epochs. Shared: do not change it."""
    model = build_model(
        ModelSpec(name=name, width=width), in_channels=1, n_classes=10, seed=0, **TASKS.get(name, {"task": None})
    )
    epochs = EPOCHS[name] if width is None else EPOCHS_NARROW[name]
    _train(model, name, epochs=epochs, lr=LEARNING_RATE.get(name, 0.003))
    return model


def frozen(name: str, spec: PtqSpec | QatSpec, width: int | None = None) -> Frozen:
    """A model in its frozen form."""
    images_NCHW = images_of(SIDES[name])
    model = prepare(float_model(name, width), spec, images_NCHW[:2]).model
    calibrate(model, [images_NCHW[:128]])
    if isinstance(spec, QatSpec):
        _train(model, name, epochs=1, lr=0.0003)
    freeze(model)
    return Frozen(model, images_NCHW)


def _train(model: nn.Module, name: str, *, epochs: int, lr: float) -> None:
    images_NCHW, labels_N = images_of(SIDES[name]), digits()[1]
    train, val = (TensorBatches(images_NCHW[part], labels_N[part], 32) for part in (slice(N_TRAIN), slice(-32, None)))
    fit(model, TrainSpec(epochs=epochs, lr=lr), train=train, val=val, seed=0, log=lambda _: None)


def last_step(model: nn.Module) -> float:
    """What a logit can change by when every input of the last quantized layer moves by one step of its grid."""
    pairs = [(layer, layer.act_quantizer) for _, layer in quant_layers(model)]
    layer, quantizer = [pair for pair in pairs if isinstance(pair[1], FakeQuantize)][-1]
    assert isinstance(quantizer, FakeQuantize)
    return float(quantizer.scale * layer.weight.detach().abs().flatten(1).sum(1).amax())
