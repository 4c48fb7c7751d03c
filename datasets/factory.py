"""Your own data set, as `name = "package.module:function"`: the function takes nothing and returns RawData.

    from quantfair.datasets import ArrayImages, Attribute, RawData

    def faces() -> RawData:
        images_NCHW = np.load("faces.npy")                           # uint8, N x C x H x W
        sex = Attribute(np.load("sex.npy"), ("female", "male"))      # codes 0..1 and their names
        return RawData(ArrayImages(images_NCHW), {"smiles": ..., "sex": sex})

Every attribute can be the task, and be grouped by. Splits, copies, statistics and the id follow from the content.
`images` may be anything with `__len__` and `batch(indices)`, so that a set of any size streams.
"""

import importlib
from pathlib import Path

import numpy as np

from quantfair.datasets.spec import DatasetSpec
from quantfair.datasets.types import DataError, RawData


def load(folder: Path, spec: DatasetSpec) -> RawData:
    """Call the user's function and check what it returns; `folder` is not needed."""
    module, _, function = spec.name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"`dataset.name` {spec.name} cannot be imported ({error}). Start in the folder that holds it, or name its "
            "folder in PYTHONPATH."
        ) from error
    raw = factory()
    if fault := _find_fault(raw):
        raise DataError(f"`dataset.name` {spec.name}: {fault}.")
    return raw


def _find_fault(raw: object) -> str | None:
    if not isinstance(raw, RawData):
        return f"it must return datasets.RawData, got {type(raw).__name__}"
    n = len(raw.images)
    if n == 0 or not raw.attributes:
        return "it must return at least one image and one attribute"
    first = raw.images.batch(np.arange(1))
    if first.dtype != np.uint8 or first.ndim != 4 or len(first) != 1:
        return f"images must be uint8 of shape N x C x H x W, got {first.dtype} of shape {first.shape}"
    if raw.is_test_N is not None and raw.is_test_N.shape != (n,):
        return f"is_test_N must have one value for each of {n} images, got shape {raw.is_test_N.shape}"
    for name, (codes_N, names) in raw.attributes.items():
        if name == "label" or "*" in name:
            return f"an attribute cannot be named '{name}': 'label' is the task's, and * crosses attributes"
        if codes_N.shape != (n,) or not np.issubdtype(codes_N.dtype, np.integer):
            return f"{name} must have one whole number for each of {n} images, got {codes_N.dtype} {codes_N.shape}"
        if codes_N.min() < 0 or codes_N.max() >= len(names):
            wrong = int(np.flatnonzero((codes_N < 0) | (codes_N >= len(names)))[0])
            return f"{name} of image {wrong} must be in 0..{len(names) - 1}, got {codes_N[wrong]}"
    return None
