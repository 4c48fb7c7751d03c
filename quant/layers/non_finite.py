"""Errors for nan and inf, and the search for the layer that made the first one.

A check in every quantizer would cost twice the quantizer, so the engine checks once per batch, at the logits or the
loss, and looks for the layer only when that check has failed.
"""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from quantfair.quant.quantizer.fake_quantize import FakeQuantize


class NonFiniteError(ValueError):
    """A tensor holds nan or inf; the message names the first layer concerned."""


class DivergedError(NonFiniteError):
    """The training loss, or the logits after an epoch, became nan or inf."""


def is_finite(value: object) -> bool:
    """Whether no tensor inside `value` (nested tuples, lists, dicts) holds nan or inf."""
    return all(bool(leaf.isfinite().all()) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


@torch.no_grad()
def find_non_finite(model: nn.Module, images_NCHW: Tensor) -> str:
    """Run `model` once, in the mode it is in, and say in words where the first nan or inf appears."""
    if not is_finite(images_NCHW):
        return "the input images are non-finite"
    found: list[str] = []

    def check(name: str, output: object) -> None:
        if not found and not is_finite(output):
            found.append(name)

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: check(name, output))
        for name, module in model.named_modules()
        if _is_layer(module)
    ]
    try:
        model(images_NCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return f"first non-finite output in layer '{found[0]}'" if found else "the output of every layer is finite"


def _is_layer(module: nn.Module) -> bool:
    """Whether a reader would call it a layer: weights of its own, or no parts (a ReLU). Quantizers are not."""
    if isinstance(module, FakeQuantize):
        return False
    has_weights = next(module.parameters(recurse=False), None) is not None
    has_parts = next(module.children(), None) is not None
    return has_weights or not (has_parts or isinstance(module, nn.Identity))
