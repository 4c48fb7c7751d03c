"""Real digits (scikit-learn's, 8 x 8) and a float model trained on them, shared by the tests of the engine."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from quantfair.quant import ModelSpec, TrainSpec, build_model, fit

torch.set_num_threads(1)


class TensorBatches:
    """Batches of tensors in memory."""

    def __init__(self, images_NCHW: Tensor, labels_N: Tensor, batch_size: int = 64):
        self.images_NCHW, self.labels_N, self.batch_size = images_NCHW, labels_N, batch_size

    def __len__(self) -> int:
        return -(-len(self.labels_N) // self.batch_size)

    def epoch(self, generator: torch.Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.labels_N)
        order_N = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
        for rows in order_N.split(self.batch_size):
            yield self.images_NCHW[rows], self.labels_N[rows]


@lru_cache
def digits() -> tuple[Tensor, Tensor]:
    """All 1,797 images, normalized and in a fixed random order, and their labels."""
    source: Any = load_digits()
    order_N = torch.randperm(len(source.target), generator=torch.Generator().manual_seed(0))
    images_NCHW = torch.tensor(source.images, dtype=torch.float32)[:, None]
    images_NCHW = (images_NCHW - images_NCHW.mean()) / images_NCHW.std()
    return images_NCHW[order_N], torch.tensor(source.target)[order_N]


def split(start: int, stop: int) -> TensorBatches:
    images_NCHW, labels_N = digits()
    return TensorBatches(images_NCHW[start:stop], labels_N[start:stop])


TRAIN, VAL, TEST = split(0, 720), split(720, 900), split(900, 1797)
EXAMPLE = TRAIN.images_NCHW[:2]


def untrained_model() -> nn.Module:
    return build_model(ModelSpec(name="small_cnn"), in_channels=1, n_classes=10, seed=0)


@lru_cache
def trained_model() -> nn.Module:
    """A small_cnn after 15 epochs. Shared: do not change it, `prepare` copies."""
    model = untrained_model()
    fit(model, TrainSpec(epochs=15, lr=0.003), train=TRAIN, val=VAL, seed=0, log=lambda _: None)
    return model


def same_state(first: nn.Module, second: nn.Module) -> bool:
    """Whether two state dicts hold the same bits under the same names."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
