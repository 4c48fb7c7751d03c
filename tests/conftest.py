"""What every test shares: one torch thread, one seed, a private home for data, and real data where it must be."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("quantfair", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("quantfair")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Give layers that a test makes the same weights in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real files. Where QUANTFAIR_DATA is set, as in CI, missing files fail the test."""
    if "QUANTFAIR_DATA" not in os.environ:
        pytest.skip("QUANTFAIR_DATA is not set: it names the folder with the real MNIST, CIFAR-10 and UTKFace")
    return Path(os.environ["QUANTFAIR_DATA"])
