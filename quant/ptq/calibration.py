"""One pass of a float model over calibration images, from which every observer at every bit width gets its range.

    collect(model, batches) -> Calibration -> the grids of any model that was prepared from `model`

A `Calibration` does not depend on the quantization settings, so the trials of one float model share one. Parts that
different workers collected of different batches merge into the calibration of all of them, whatever the order.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from quantfair.quant.layers.modes import bypassed, device_of, evaluating
from quantfair.quant.layers.modules import SITES
from quantfair.quant.layers.non_finite import NonFiniteError
from quantfair.quant.quantizer.observers import ActivationStats, extremes


class Calibration:
    """What each layer's input held: layer name -> `ActivationStats`."""

    def __init__(self) -> None:
        self.batches: set[int] = set()
        self.layers: dict[str, ActivationStats] = {}

    def merge(self, other: "Calibration") -> None:
        """Take in what was collected of other batches of the same model. Raises ValueError for a batch in both."""
        if both := self.batches & other.batches:
            raise ValueError(f"batch {min(both)} is in both calibrations; give each part its own `first_batch`")
        self.batches |= other.batches
        for name, seen in other.layers.items():
            self.layers.setdefault(name, ActivationStats()).merge(seen)


@torch.no_grad()
def collect(model: nn.Module, batches: Iterable[Tensor], *, first_batch: int = 0) -> Calibration:
    """Run `model`, quantizers bypassed and in eval mode, over `batches` of images_NCHW; look at every layer's input.

    `first_batch` is the index of the first batch, where other workers collect the others. Raises ValueError for no
    image, NonFiniteError naming the layer whose input holds nan or inf.
    """
    found = Calibration()
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(bypassed(model))
        for name, module in model.named_modules():
            if isinstance(module, SITES):
                hook = module.register_forward_pre_hook(_watch(found, name or "(model)"), with_kwargs=True)
                stack.callback(hook.remove)
        for batch, images_NCHW in enumerate(batches, start=first_batch):
            if not isinstance(images_NCHW, Tensor):
                kind = type(images_NCHW).__name__
                raise ValueError(f"calibration batch {batch} is a {kind}; give images alone: (x for x, _ in loader)")
            if len(images_NCHW) == 0:
                raise ValueError(f"calibration batch {batch} holds no image; leave it out")
            found.batches.add(batch)
            model(images_NCHW.to(device_of(model)))
    if not found.batches:
        raise ValueError("`batches` holds no image to calibrate on; give it at least one")
    return found


def _watch(found: Calibration, name: str):
    def watch(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for x in (*args, *kwargs.values()):
            if not isinstance(x, Tensor) or x.numel() == 0:  # an `output_size`; a branch that no image took
                continue
            low, high = (float(value) for value in extremes(x, None))
            if not (low > -torch.inf and high < torch.inf):  # nan fails both
                raise NonFiniteError(
                    f"layer '{name}' met a non-finite activation while calibrating; "
                    "check the weights of the float model and the normalization of the images"
                )
            found.layers.setdefault(name, ActivationStats()).add(x, max(found.batches), low, high)

    return watch
