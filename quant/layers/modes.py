"""The modes of a whole model for a while: evaluating, or with every quantizer bypassed; its device and its grids."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from quantfair.quant.layers.modules import quantizers

_CUDNN_CONV: Any = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def bypassed(model: nn.Module) -> Iterator[None]:
    """Let everything pass every quantizer of `model` unchanged, for a while."""
    before = {quantizer: quantizer.enabled for quantizer in quantizers(model)}
    try:
        for quantizer in before:
            quantizer.enabled = False
        yield
    finally:
        for quantizer, enabled in before.items():
            quantizer.enabled = enabled


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and back into the mode it was in; float32 arithmetic, also in cuDNN.

    By default cuDNN convolves with the 10 bits of TF32, which would add an error of its own to 12 and 16 bits.
    """
    was_training = {module: module.training for module in model.modules()}
    precision = _CUDNN_CONV.fp32_precision
    _CUDNN_CONV.fp32_precision = "ieee"
    model.eval()
    try:
        yield
    finally:
        _CUDNN_CONV.fp32_precision = precision
        for module, training in was_training.items():
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter; the CPU if there is none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def require_calibrated(model: nn.Module, *, to_train: bool = False) -> None:
    """Raise ValueError for the first quantizer that has no grid yet; `to_train`: and gets none from the first batch."""
    for quantizer in quantizers(model):
        gets_one = to_train and quantizer.copies_first_batch and quantizer.mode == "follow"
        if quantizer.mode != "frozen" and not gets_one and not quantizer.is_calibrated():
            remedy = "call `calibrate` first"
            if quantizer.copies_first_batch and quantizer.mode == "follow":
                remedy = "its first training batch sets it: train the model first"
            raise ValueError(f"layer '{quantizer.layer}' has no {quantizer.spec.role} range yet; {remedy}")
