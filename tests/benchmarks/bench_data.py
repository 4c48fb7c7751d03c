"""Cost of data: the second load of UTKFace, augmented batches against a torch DataLoader over the same images, and an
epoch's batches against the training steps that they are for.

The loader is what the field uses: two worker processes, torchvision's crop, flip, ToTensor and Normalize on each image.
Both sides run in this process, in turn, on the wall clock, since the loader's work is in other processes; the median of
the repeats counts. Run it with QUANTFAIR_DATA set; one JSON document comes last.
`ratio` above 1 says how many times more images a second we give. `share_of_training` is the time of making N_STEPS
augmented batches over that of the steps on Trident between them, in one `quant.fit`.
"""

import json
import os
import statistics
import time
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
import torchvision.transforms as transforms
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from quantfair.datasets import Batches, DatasetSpec, GroupedDataset, load_dataset
from quantfair.quant import ModelSpec, TrainSpec, build_model, fit

REPEATS, BATCH_SIZE, N_IMAGES, N_STEPS = 5, 64, 16_000, 60
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


class TimedBatches:
    """Batches that note how long each took to make, and how long until the next was asked for: the training step."""

    def __init__(self, batches: Batches):
        self.batches = batches
        self.made_s: list[float] = []
        self.used_s: list[float] = []

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, generator: torch.Generator | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The same pass."""
        batches = self.batches.epoch(generator)
        started = time.perf_counter()
        for batch in batches:
            made = time.perf_counter()
            yield batch
            used = time.perf_counter()
            self.made_s.append(made - started)
            self.used_s.append(used - made)
            started = time.perf_counter()


def compare_with_training(precision: Literal["fp32", "bf16"]) -> dict[str, float]:
    """Time of augmented batches of UTKFace and of the steps on Trident; the first of each is not counted."""
    dataset = load_dataset(SPECS[0])
    train, val = dataset.splits["train"][: BATCH_SIZE * (N_STEPS + 1)], dataset.splits["val"][:BATCH_SIZE]
    batches = TimedBatches(Batches(dataset, train, batch_size=BATCH_SIZE, augment=("crop", "flip")))
    model = build_model(ModelSpec(name="trident"), in_channels=1, n_classes=2, task="gender", seed=0)
    spec = TrainSpec(epochs=1, lr=0.001, batch_size=BATCH_SIZE, precision=precision)
    fit(model, spec, train=batches, val=Batches(dataset, val, batch_size=BATCH_SIZE), seed=0, log=lambda _: None)
    made_s, used_s = batches.made_s[1:], batches.used_s[1:]
    return {
        "batch_ms": round(statistics.median(made_s) * 1e3, 3),
        "step_ms": round(statistics.median(used_s) * 1e3, 1),
        "share_of_training": round(sum(made_s) / sum(used_s), 4),
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
                "trident": {precision: compare_with_training(precision) for precision in ("fp32", "bf16")},
                "goals": {"second_load_utkface_s": 1.0, "ratio": 5.0, "share_of_training": 0.05},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
