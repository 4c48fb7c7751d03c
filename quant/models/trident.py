"""A network with one trunk and three heads, for faces: age, gender and ethnicity from one 48 x 48 image.

VGG style: 3 x 3 convolutions with bias, no batch norm. Parameters are named as in the original: `CNN.CNN.<position>`
for the trunk and `ageNN`, `genNN`, `ethNN` for the heads.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from quantfair.quant.models.layers import check_sides, initialize

HEADS: Final[Mapping[str, int]] = MappingProxyType({"age": 9, "gender": 2, "ethnicity": 5})
SMALLEST_SIDE, LARGEST_SIDE = 33, 64  # five poolings must leave 2 x 2, which is what the linear layers take


class Trident(nn.Module):
    """6.41 million parameters at its original width of 32 and with 9, 2 and 5 classes.

    Runs the head of `task` and returns its logits_NK. With `all_heads` it runs all three and returns a tuple of logits:
    the task's first, then the others in the order age, gender, ethnicity. `heads` says how many classes each has;
    one that does not run may be left out, and has as many as originally.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        n_classes: int,
        width: int,
        task: str | None,
        heads: Mapping[str, int] | None = None,
        all_heads: bool = False,
    ):
        super().__init__()
        heads = _check_heads(HEADS if heads is None else heads, task, n_classes, all_heads=all_heads)
        self.returns_all = all_heads
        self.outputs = sorted(heads, key=lambda name: name != task)[: None if all_heads else 1]
        self.CNN = nn.ModuleDict({"CNN": _trunk(in_channels, width)})
        for name, n in heads.items():
            self.add_module(f"{name[:3]}NN", _Head(width, n))
        initialize(self)

    def forward(self, images_NCHW: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits_NK, or a tuple of them. Raises ValueError for images outside 33 x 33 to 64 x 64."""
        check_sides("trident", images_NCHW, SMALLEST_SIDE, LARGEST_SIDE)
        features = self.CNN["CNN"](images_NCHW)
        logits = tuple(self.get_submodule(f"{name[:3]}NN")(features) for name in self.outputs)
        return logits if self.returns_all else logits[0]


class _Head(nn.Module):
    """Two convolutions with poolings and four linear layers."""

    def __init__(self, width: int, n_classes: int):
        super().__init__()
        self.conv1, self.conv2 = _conv(4 * width, 8 * width), _conv(8 * width, 16 * width)
        self.fc1, self.fc2 = nn.Linear(16 * width * 4, 8 * width), nn.Linear(8 * width, 4 * width)
        self.fc3, self.fc4 = nn.Linear(4 * width, 2 * width), nn.Linear(2 * width, n_classes)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features_NCHW: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2):
            # A function, as in the original: preset iao quantizes the input of modules only.
            features_NCHW = self.relu(F.max_pool2d(conv(features_NCHW), 3, stride=2, padding=1))
        features_ND = features_NCHW.flatten(1)
        for linear in (self.fc1, self.fc2, self.fc3):
            features_ND = self.relu(linear(features_ND))
        return self.fc4(features_ND)


def _trunk(in_channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for out_channels in (width, 2 * width, 4 * width):
        layers += [_conv(in_channels, out_channels), nn.ReLU(inplace=True), _conv(out_channels, out_channels)]
        layers += [nn.MaxPool2d(3, stride=2, padding=1), nn.ReLU(inplace=True)]
        in_channels = out_channels
    return nn.Sequential(*layers)


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def _check_heads(heads: Mapping[str, int], task: str | None, n_classes: int, *, all_heads: bool) -> dict[str, int]:
    """Return the classes of trident's heads in their order. Raises ValueError where they do not fit the data."""
    if all_heads and (missing := sorted(HEADS.keys() - heads.keys())):
        raise ValueError(f"trident has heads {', '.join(HEADS)}; the data set has no {', '.join(missing)}")
    if task is None or task not in HEADS:
        raise ValueError(f"trident has heads {', '.join(HEADS)}; the task of the data set is {task!r}")
    if (n := heads.get(task, HEADS[task])) != n_classes:
        raise ValueError(f"the head '{task}' of trident has {n} classes, the task of the data set {n_classes}")
    return {**HEADS, **{name: heads[name] for name in HEADS if name in heads}}
