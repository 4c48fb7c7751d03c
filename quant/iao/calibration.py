"""Preset `iao`: the calibration of PTQ, which observes the network while it is quantized.

Mended: batch norm keeps its statistics, no gradients are computed, and no test image has a say.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quantfair.quant.iao.quantizer import IaoQuantizer
from quantfair.quant.layers.modes import device_of, evaluating
from quantfair.quant.layers.modules import quantizers
from quantfair.quant.layers.non_finite import NonFiniteError, is_finite
from quantfair.quant.ptq.calibration import Calibration


@torch.no_grad()
def calibrate_iao(model: nn.Module, batches: Iterable[Tensor] | Calibration) -> None:
    """Set every grid from `batches` of images_NCHW as the original does: while the network is quantized already.

    In eval mode, so that batch norm keeps its statistics. Where ranges follow training its first batch sets them, and
    `batches` are not read. Raises ValueError for a `Calibration`, which knows the float network only, and where
    `calibrate` would; NonFiniteError naming the layer.
    """
    if isinstance(batches, Calibration):
        raise ValueError(
            "preset iao observes the quantized network, and a Calibration holds what the float one showed: "
            "give `calibrate` the batches"
        )
    found = [quantizer for quantizer in quantizers(model) if isinstance(quantizer, IaoQuantizer)]
    if any(quantizer.mode == "follow" for quantizer in found):
        return
    n_batches = 0
    with evaluating(model), _observing(found):
        for images_NCHW in batches:
            if len(images_NCHW) == 0:
                raise ValueError(f"calibration batch {n_batches} holds no image; leave it out")
            model(images_NCHW.to(device_of(model)))
            n_batches += 1
    if n_batches == 0:
        raise ValueError("`batches` holds no image to calibrate on; give it at least one")
    for quantizer in found:
        if not quantizer.is_calibrated():
            raise ValueError(
                f"layer '{quantizer.layer}' saw no data; `batches` must hold images that reach every layer"
            )


@contextmanager
def _observing(found: Iterable[IaoQuantizer]) -> Iterator[None]:
    """Let quantizers follow what they meet, from nothing, for a while; they refuse nan and inf."""
    hooks = [quantizer.register_forward_pre_hook(_refuse_non_finite) for quantizer in found]
    for quantizer in found:
        quantizer.forget()
        quantizer.mode, quantizer.training = "follow", True
    try:
        yield
    finally:
        for quantizer, hook in zip(found, hooks, strict=True):
            quantizer.mode = "fixed"
            hook.remove()


def _refuse_non_finite(quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(quantizer, IaoQuantizer)
    if not is_finite(inputs):
        raise NonFiniteError(
            f"layer '{quantizer.layer}' met a non-finite {quantizer.spec.role} while calibrating; "
            "check the weights of the float model and the normalization of the images"
        )
