"""A small convolutional network with batch norm for images from 8 x 8 to 32 x 32, trained in seconds on one core."""

from collections import OrderedDict

from torch import Tensor, nn

from quantfair.quant.models.layers import check_sides

SMALLEST_SIDE = 8  # two poolings leave 2 x 2, so that batch norm has statistics even in a batch of one


class SmallCnn(nn.Module):
    """Three blocks of convolution, batch norm and ReLU with width, 2 * width and 4 * width channels; a linear layer.

    >>> SmallCnn(in_channels=1, n_classes=10, width=16)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    def __init__(self, *, in_channels: int, n_classes: int, width: int):
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                block1=_block(in_channels, width),
                pool1=nn.MaxPool2d(2),
                block2=_block(width, 2 * width),
                pool2=nn.MaxPool2d(2),
                block3=_block(2 * width, 4 * width),
                pool3=nn.AdaptiveAvgPool2d(1),
            )
        )
        self.classifier = nn.Linear(4 * width, n_classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return logits_NK. Raises ValueError for images smaller than 8 x 8."""
        check_sides("small_cnn", images_NCHW, SMALLEST_SIDE)
        return self.classifier(self.features(images_NCHW).flatten(1))


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            bn=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(inplace=True),
        )
    )
