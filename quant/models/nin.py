"""Network in network for 32 x 32 images (Lin, Chen and Yan 2014), plain and with grouped convolutions.

Eight blocks of convolution, batch norm and ReLU, a ninth for the classes (so that logits are never negative), and the
mean over what is left of the image. The originals end in an average over 8 x 8, which is the same at 32 x 32 and limits
them to it; the mean over everything takes any image from 8 x 8 on. Parameters are named `model.<position>.conv` and
`.bn`; positions 3 and 7 are poolings.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from quantfair.quant.models.layers import check_sides, check_width, initialize

SMALLEST_SIDE = 8  # two poolings leave 2 x 2, so that batch norm has statistics even in a batch of one


class _Conv(NamedTuple):
    """One block. Its input channels are shuffled between `shuffle` groups first."""

    out_channels: int
    kernel: int
    groups: int = 1
    shuffle: int = 1


class _Block(nn.Module):
    def __init__(self, in_channels: int, spec: _Conv):
        super().__init__()
        self.shuffle = spec.shuffle
        self.conv = nn.Conv2d(in_channels, spec.out_channels, spec.kernel, padding=spec.kernel // 2, groups=spec.groups)
        self.bn = nn.BatchNorm2d(spec.out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        if self.shuffle > 1:  # interleave the groups; plain operations, which any exporter knows
            images_NCHW = images_NCHW.unflatten(1, (self.shuffle, -1)).transpose(1, 2).flatten(1, 2)
        return self.relu(self.bn(self.conv(images_NCHW)))


class _NetworkInNetwork(nn.Module):
    name: str

    def __init__(self, in_channels: int, stages: list[list[_Conv]], pooling: Callable[[], nn.Module]):
        super().__init__()
        layers: list[nn.Module] = []
        for stage in stages:
            layers += [pooling()] if layers else []  # two, since preset iao quantizes the input of each
            for spec in stage:
                layers.append(_Block(in_channels, spec))
                in_channels = spec.out_channels
        self.model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        initialize(self)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return logits_NK. Raises ValueError for images smaller than 8 x 8."""
        check_sides(self.name, images_NCHW, SMALLEST_SIDE)
        return self.model(images_NCHW).flatten(1)


class Nin(_NetworkInNetwork):
    """The plain network: 0.97 million parameters at its original width of 192."""

    name = "nin"

    def __init__(self, *, in_channels: int, n_classes: int, width: int):
        check_width(self.name, width, 6)
        full, mid, narrow = width, width * 5 // 6, width // 2
        stages = [
            [_Conv(full, 5), _Conv(mid, 1), _Conv(narrow, 1)],
            [_Conv(full, 5), _Conv(full, 1), _Conv(full, 1)],
            [_Conv(full, 3), _Conv(full, 1), _Conv(n_classes, 1)],
        ]
        super().__init__(in_channels, stages, partial(nn.MaxPool2d, 3, stride=2, padding=1))


class NinGc(_NetworkInNetwork):
    """With grouped convolutions and channel shuffles: 0.59 million parameters at its original width of 256."""

    name = "nin_gc"

    def __init__(self, *, in_channels: int, n_classes: int, width: int):
        check_width(self.name, width, 16)
        one, two, four = width, 2 * width, 4 * width
        stages = [
            [_Conv(one, 5), _Conv(one, 1, groups=2), _Conv(one, 1, groups=2, shuffle=2)],
            [
                _Conv(two, 3, groups=16, shuffle=2),
                _Conv(two, 1, groups=4, shuffle=16),
                _Conv(two, 1, groups=4, shuffle=4),
            ],
            [_Conv(four, 3, groups=32, shuffle=4), _Conv(four, 1, groups=8, shuffle=32), _Conv(n_classes, 1)],
        ]
        super().__init__(in_channels, stages, partial(nn.MaxPool2d, 2))
