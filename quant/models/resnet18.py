"""ResNet-18 for small images (He et al. 2016): a stem of one 3 x 3 convolution at full resolution, without pooling."""

from torch import Tensor, nn

from quantfair.quant.layers.modules import Add
from quantfair.quant.models.layers import check_sides, initialize

SMALLEST_SIDE = 9  # three strides of 2 leave 2 x 2, so that batch norm has statistics even in a batch of one


class ResNet18(nn.Module):
    """Four stages of two residual blocks with width, 2, 4 and 8 times width channels; 11.17 M parameters at 64."""

    def __init__(self, *, in_channels: int, n_classes: int, width: int):
        super().__init__()
        self.conv1 = nn.Sequential(*_conv_bn(in_channels, width, 3), nn.ReLU(inplace=True))
        self.conv2_x = _stage(width, width, stride=1)
        self.conv3_x = _stage(width, 2 * width, stride=2)
        self.conv4_x = _stage(2 * width, 4 * width, stride=2)
        self.conv5_x = _stage(4 * width, 8 * width, stride=2)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, n_classes)
        initialize(self)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return logits_NK. Raises ValueError for images smaller than 9 x 9."""
        check_sides("resnet18", images_NCHW, SMALLEST_SIDE)
        features = self.conv3_x(self.conv2_x(self.conv1(images_NCHW)))
        return self.fc(self.avg_pool(self.conv5_x(self.conv4_x(features))).flatten(1))


class _Residual(nn.Module):
    """Two convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        first, second = _conv_bn(in_channels, out_channels, 3, stride), _conv_bn(out_channels, out_channels, 3)
        self.residual_function = nn.Sequential(*first, nn.ReLU(inplace=True), *second)
        changes = stride > 1 or in_channels != out_channels
        self.shortcut = nn.Sequential(*(_conv_bn(in_channels, out_channels, 1, stride) if changes else []))
        self.add = Add()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.relu(self.add(self.residual_function(images_NCHW), self.shortcut(images_NCHW)))


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Residual(in_channels, out_channels, stride), _Residual(out_channels, out_channels, 1))


def _conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]
