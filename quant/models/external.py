"""Networks that are not ours: torchvision's classifiers, and what a user's own function builds."""

import importlib
from typing import Any

from torch import nn

# What some constructors need besides the number of classes: no second output in training, no warning.
_OPTIONS: dict[str, dict[str, Any]] = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}


def build_torchvision(name: str, *, in_channels: int, n_classes: int) -> nn.Module:
    """Build the classifier `torchvision:NAME`. Raises ValueError for an unknown one, and for images without colours."""
    import torchvision.models

    known = torchvision.models.list_models(module=torchvision.models)
    short = name.removeprefix("torchvision:")
    if short not in known:
        raise ValueError(f"`model.name`: torchvision has no classifier '{short}'; it has {', '.join(known)}")
    if in_channels != 3:
        raise ValueError(
            f"{name} takes images of 3 channels, those of the data set have {in_channels}; "
            "repeat the channel in the data, or take a model of ours"
        )
    return torchvision.models.get_model(short, weights=None, num_classes=n_classes, **_OPTIONS.get(short, {}))


def build_by_factory(name: str, *, in_channels: int, n_classes: int) -> nn.Module:
    """Call the user's `package.module:factory`. Raises ValueError where it cannot be found or returns no network."""
    home, _, function = name.partition(":")
    try:
        factory = getattr(importlib.import_module(home), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"`model.name`: '{name}' cannot be loaded ({error}); name a function of a module that Python finds from "
            "the folder where the sweep is started"
        ) from error
    model = factory(in_channels=in_channels, n_classes=n_classes)
    if not isinstance(model, nn.Module):
        raise ValueError(f"`model.name`: '{name}' must return a torch.nn.Module, it returned {type(model).__name__}")
    return model
