"""Logits of a model for many images."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from quantfair.quant.layers.modes import device_of, evaluating, require_calibrated
from quantfair.quant.layers.non_finite import NonFiniteError, find_non_finite, is_finite


@torch.no_grad()
def predict(model: nn.Module, images: Iterable[Tensor]) -> Tensor:
    """Return logits_NK, float32 on the CPU, in eval mode, for batches of images_NCHW in their order.

    Of a model with several heads these are the logits of the first.

    Raises NonFiniteError naming the batch (from 0) and the first layer concerned, and ValueError if there is no image
    or a quantizer has no range.
    """
    require_calibrated(model)
    with evaluating(model):
        logits = [_predict_batch(model, batch, images_NCHW) for batch, images_NCHW in enumerate(images)]
    if not logits:
        raise ValueError("`images` holds no batch; nothing can be predicted")
    return torch.cat(logits)


def _predict_batch(model: nn.Module, batch: int, images_NCHW: Tensor) -> Tensor:
    images_NCHW = images_NCHW.to(device_of(model))
    outputs = model(images_NCHW)
    logits_NK = (outputs[0] if isinstance(outputs, tuple) else outputs).float().cpu()
    if not is_finite(logits_NK):
        raise NonFiniteError(f"non-finite logits in batch {batch} ({find_non_finite(model, images_NCHW)})")
    return logits_NK
