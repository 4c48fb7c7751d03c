"""Networks by name: a spec and a seed go in, a model with its initial weights comes out."""

import importlib

import torch
from torch import nn

from quant.spec import MODELS, ModelSpec


def build_model(spec: ModelSpec, *, in_channels: int, n_classes: int, seed: int) -> nn.Module:
    """Build the network on the CPU; the same seed gives the same weights. The global random state is left alone."""
    home, name = MODELS[spec.name].split(":")
    network = getattr(importlib.import_module(home), name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return network(in_channels=in_channels, n_classes=n_classes, width=spec.width)
