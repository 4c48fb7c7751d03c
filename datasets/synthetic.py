"""Bright bars in four directions on grey noise: 2,400 images of 16x16 whose hard group is known, since we made it.

Groups a, b and c hold 60, 30 and 10 % of every class. Of `hard_group`'s images (c unless set) a share of `hard_share`
(half unless set) has bars of a quarter of the contrast. The same settings give the same bits.
"""

from pathlib import Path

import numpy as np

from quantfair.datasets.spec import DatasetSpec
from quantfair.datasets.types import ArrayImages, Attribute, DataError, RawData

CLASSES = ("horizontal", "vertical", "falling", "rising")
GROUPS = ("a", "b", "c")
GROUP_SHARES = (0.6, 0.3, 0.1)
N_PER_CLASS, SIDE, SEED = 600, 16, 0
CONTRAST, HARD_CONTRAST, NOISE = 70.0, 17.5, 30.0


def load(folder: Path, spec: DatasetSpec) -> RawData:
    """Return all images, N x 1 x 16 x 16, with class and group; `folder` is not needed."""
    hard_group = spec.hard_group or GROUPS[-1]
    if hard_group not in GROUPS:
        raise DataError(f"`dataset.hard_group` must be one of {', '.join(GROUPS)}, got '{hard_group}'.")
    random = np.random.default_rng(SEED)
    class_N = np.repeat(np.arange(len(CLASSES)), N_PER_CLASS)
    counts = [round(share * N_PER_CLASS) for share in GROUP_SHARES]
    group_N = np.tile(np.repeat(np.arange(len(GROUPS)), counts), len(CLASSES))
    share = 0.5 if spec.hard_share is None else spec.hard_share
    is_hard_N = _choose(np.flatnonzero(group_N == GROUPS.index(hard_group)), share, len(group_N), random)
    contrast_N = np.where(is_hard_N, HARD_CONTRAST, CONTRAST)
    noise_NHW = random.normal(128, NOISE, (len(class_N), SIDE, SIDE))
    images_NHW = noise_NHW + contrast_N[:, None, None] * _draw_bars(class_N, random)
    images_NCHW = np.clip(np.rint(images_NHW), 0, 255).astype(np.uint8)[:, None]
    attributes = {"class": Attribute(class_N, CLASSES), "group": Attribute(group_N, GROUPS)}
    note = f"{is_hard_N.sum()} images of group {hard_group} are harder"
    return RawData(ArrayImages(images_NCHW), attributes, notes=(note,))


def _choose(members: np.ndarray, share: float, n: int, random: np.random.Generator) -> np.ndarray:
    chosen = random.permutation(members)[: round(share * len(members))]
    return np.isin(np.arange(n), chosen)


def _draw_bars(class_N: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return waves in [-1, 1] of random phase across the direction of each class."""
    down, right = np.mgrid[:SIDE, :SIDE]
    across_K = np.stack([down, right, down - right, down + right])
    phase_N = random.uniform(0, 2 * np.pi, len(class_N))
    return np.sin(across_K[class_N] * (2 * np.pi / 5) + phase_N[:, None, None])
