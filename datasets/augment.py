"""Random shifts and mirror images of a whole batch at once, on its device, from one generator."""

from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor

from quantfair.datasets.types import DataError


def crop(pixels_NCHW: Tensor, generator: Generator) -> Tensor:
    """Shift each image by up to an eighth of its height (4 of 32 pixels) in either direction; black moves in."""
    n, _, height, width = pixels_NCHW.shape
    reach = max(1, height // 8)
    padded = torch.nn.functional.pad(pixels_NCHW, (reach,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: N x C x shifts x shifts x H x W
    down, right = torch.randint(2 * reach + 1, (2, n), generator=generator).to(pixels_NCHW.device)
    return windows[torch.arange(n, device=pixels_NCHW.device), :, down, right]


def flip(pixels_NCHW: Tensor, generator: Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    is_flipped = torch.randint(2, (len(pixels_NCHW), 1, 1, 1), generator=generator).bool().to(pixels_NCHW.device)
    return torch.where(is_flipped, pixels_NCHW.flip(3), pixels_NCHW)


AUGMENTATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {"crop": crop, "flip": flip}


def find_augmentations(names: Iterable[str], *, dataset: str, may_flip: bool) -> list[Callable]:
    """Return the functions of these names, in the order of `AUGMENTATIONS`.

    Raises:
        DataError: an unknown name, or a flip of images that mean something else in a mirror.
    """
    names = set(names)
    for name in sorted(names - AUGMENTATIONS.keys()):
        raise DataError(f"`train.augment` must hold only {', '.join(AUGMENTATIONS)}, got '{name}'.")
    if "flip" in names and not may_flip:
        raise DataError(f"`train.augment` must not hold 'flip' for {dataset}: its images mean something else mirrored.")
    return [function for name, function in AUGMENTATIONS.items() if name in names]
