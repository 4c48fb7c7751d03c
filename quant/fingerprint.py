"""The content of a file of weights as a hash, for the identity of a trial. No torch here: the plan uses it."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from quantfair.quant.model_spec import ModelSpec


def fingerprint_weights(spec: ModelSpec) -> str | None:
    """Return the sha256 of the file of the model's own weights; None without a file.

    torchvision's weights are no file of the user's: their name says which they are. Raises ValueError for no such file.
    """
    if spec.weights is None or spec.has_torchvision_weights:
        return None
    path = Path(spec.weights)
    if not path.is_file():
        raise ValueError(
            f"`model.weights`: there is no file {path}; give the path of a state dict saved with torch.save"
        )
    return _hash(path, os.stat(path))


@lru_cache
def _hash(path: Path, _stat: os.stat_result) -> str:
    """Read the file once for each state that it is in."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
