"""Cost of data: the second load of UTKFace, and augmented batches against a torch DataLoader over the same images.

The loader is what the field uses: two worker processes, torchvision's crop, flip, ToTensor and Normalize on each image.
Both sides run in this process, in turn, on the wall clock, since the loader's work is in other processes; the median of
the repeats counts. Run from the repository root with PYTHONPATH=. and QUANTFAIR_DATA set; one JSON document comes last.
`ratio` above 1 says how many times more images a second we give.
"""

import json
import os
import statistics
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torchvision.transforms as transforms
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from datasets import Batches, DatasetSpec, GroupedDataset, load_dataset

REPEATS, BATCH_SIZE, N_IMAGES = 5, 64, 16_000
SPECS = [DatasetSpec(name="utkface", task="gender"), DatasetSpec(name="cifar10", task="class")]


class PictureDataset(Dataset):
    """The same uint8 images, one by one, as torchvision's data sets give them."""

    def __init__(self, dataset: GroupedDataset, indices: np.ndarray):
        self.pixels = dataset.images.batch(indices).transpose(0, 2, 3, 1).squeeze()
        self.labels = dataset.labels_N[indices]
        mean, std = dataset.mean_C.tolist(), dataset.std_C.tolist()
        side = self.pixels.shape[1]
        steps = [transforms.RandomCrop(side, padding=side // 8), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


def time_epoch(batches: Iterable[Any]) -> float:
    """Images a second of one pass. The first batch is not timed: it waits for the loader's workers to start."""
    iterator = iter(batches)
    next(iterator)
    started, n = time.perf_counter(), 0
    for images_NCHW, _ in iterator:
        n += len(images_NCHW)
    return n / (time.perf_counter() - started)


def compare(spec: DatasetSpec) -> dict[str, float]:
    """Median images a second of both sides."""
    dataset = load_dataset(spec)
    indices = dataset.splits["train"][:N_IMAGES]
    ours = Batches(dataset, indices, batch_size=BATCH_SIZE, augment=("crop", "flip"))
    theirs = DataLoader(
        PictureDataset(dataset, indices),
        BATCH_SIZE,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
        drop_last=True,
    )
    rates: tuple[list[float], list[float]] = ([], [])
    for repeat in range(REPEATS + 1):
        pair = time_epoch(ours.epoch(torch.Generator().manual_seed(repeat))), time_epoch(theirs)
        if repeat:
            for side, rate in zip(rates, pair, strict=True):
                side.append(rate)
    ours_per_s, theirs_per_s = map(statistics.median, rates)
    ratios = [a / b for a, b in zip(*rates, strict=True)]
    return {
        "ours_images_per_s": round(ours_per_s),
        "loader_images_per_s": round(theirs_per_s),
        "ratio": round(statistics.median(ratios), 2),
        "lowest_ratio": round(min(ratios), 2),
    }


def time_loads(spec: DatasetSpec) -> dict[str, float]:
    """Seconds from spec to splits when the conversion is there; the files are in the page cache."""
    load_dataset(spec)
    times_s = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        load_dataset(spec)
        times_s.append(time.perf_counter() - started)
    return {"median_s": round(statistics.median(times_s), 4), "longest_s": round(max(times_s), 4)}


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    print(
        json.dumps(
            {
                "benchmark": "data",
                "torch": torch.__version__,
                "cpus": os.cpu_count(),
                "second_load": {spec.name: time_loads(spec) for spec in SPECS},
                "augmented_batches": {spec.name: compare(spec) for spec in SPECS},
                "goals": {"second_load_utkface_s": 1.0, "ratio": 5.0},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
