"""Normalised float32 batches of one split, augmented where they are shuffled, on the device where they are needed."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from quantfair.datasets.augment import find_augmentations
from quantfair.datasets.types import GroupedDataset


class Batches:
    """Batches of (images_NCHW float32, labels int64) of the images at `indices`.

    The labels are labels_N of the attribute that `targets` names, or labels_NT where it names several.
    `augment` holds any of "crop" and "flip"; it acts on shuffled epochs alone, which are those of training.
    Images become `resize` pixels high and wide, bilinear with antialiasing, and are normalised by `mean` and `std`, for
    pixels in [0, 1], in place of those of the training split. Raises DataError where they do not fit the channels.
    """

    def __init__(
        self,
        dataset: GroupedDataset,
        indices: np.ndarray,
        *,
        batch_size: int,
        device: str = "cpu",
        augment: Iterable[str] = (),
        targets: Sequence[str] = ("label",),
        resize: int | None = None,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ):
        self.dataset, self.indices, self.batch_size, self.device = dataset, indices, batch_size, device
        self.augmentations = find_augmentations(augment, dataset=dataset.name, may_flip=dataset.may_flip)
        columns = [dataset.attributes[name].codes_N for name in targets]
        self.labels = columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
        self.resize, statistics = resize, dataset.normalization(mean, std)
        self.mean, self.std = (torch.from_numpy(values_C).reshape(1, -1, 1, 1).to(device) for values_C in statistics)

    def __len__(self) -> int:
        """Number of batches of a shuffled epoch, in which an incomplete last batch is left out."""
        return max(1, len(self.indices) // self.batch_size)

    def epoch(self, generator: torch.Generator | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One pass: in order and complete, or shuffled and augmented by `generator` in `len(self)` full batches."""
        indices = self.indices
        if generator is not None:
            indices = indices[torch.randperm(len(indices), generator=generator).numpy()]
            indices = indices[: len(self) * self.batch_size]
        for start in range(0, len(indices), self.batch_size):
            yield self._read(indices[start : start + self.batch_size], generator)

    def images(self) -> Iterator[torch.Tensor]:
        """The images of one pass in order, without labels."""
        for images_NCHW, _ in self.epoch():
            yield images_NCHW

    def _read(self, indices: np.ndarray, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.from_numpy(self.dataset.images.batch(indices)).to(self.device)
        labels = torch.from_numpy(self.labels[indices]).to(self.device)
        if generator is not None:
            for augmentation in self.augmentations:
                pixels = augmentation(pixels, generator)
        images = pixels.float().div_(255)
        if self.resize is not None:
            images = F.interpolate(images, (self.resize, self.resize), mode="bilinear", antialias=True)
        return images.sub_(self.mean).div_(self.std), labels
