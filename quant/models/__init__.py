"""Networks by name: a spec and a seed go in, a model with its initial weights, or the user's own, comes out."""

import importlib
from collections.abc import Mapping

import torch
from torch import nn

from quantfair.quant.models.external import build_by_factory, build_torchvision
from quantfair.quant.models.weights import load_own_weights
from quantfair.quant.specs.model import MODELS, MULTI_HEAD, WIDTHS, ModelSpec


def build_model(
    spec: ModelSpec,
    *,
    in_channels: int,
    n_classes: int,
    seed: int,
    task: str | None = None,
    heads: Mapping[str, int] | None = None,
) -> nn.Module:
    """Build the network on the CPU; the same seed gives the same weights. The global random state is left alone.

    `task` names the head that a multi-head network is asked for, `heads` the number of classes of each of its heads.
    Raises ValueError, naming both sides, where network, data and weights do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _build(spec, in_channels=in_channels, n_classes=n_classes, task=task, heads=heads)
    if spec.weights is not None:
        load_own_weights(model, spec)
    return model


def _build(
    spec: ModelSpec, *, in_channels: int, n_classes: int, task: str | None, heads: Mapping[str, int] | None
) -> nn.Module:
    if spec.name not in MODELS:
        build = build_torchvision if spec.name.startswith("torchvision:") else build_by_factory
        return build(spec.name, in_channels=in_channels, n_classes=n_classes)
    home, name = MODELS[spec.name].split(":")
    network = getattr(importlib.import_module(home), name)
    several = {"task": task, "heads": heads, "all_heads": spec.heads == "all"} if spec.name in MULTI_HEAD else {}
    return network(in_channels=in_channels, n_classes=n_classes, width=spec.width or WIDTHS[spec.name], **several)
