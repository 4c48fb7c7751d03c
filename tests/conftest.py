"""What every test shares: one torch thread, one seed, a time limit, and real data where it must be."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import torch
from hypothesis import settings
from threadpoolctl import threadpool_limits
from time_limits import no_process_outlives_its_test, pytest_collection_modifyitems  # noqa: F401

from quantfair.quant import TensorRTMissingError
from quantfair.quant.deploy.tensorrt.runtime import load_trt
from quantfair.results import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
torch.set_num_threads(1)
threadpool_limits(1)  # of BLAS too: the last digits of a sum in float32 depend on how many threads share it
os.environ["OMP_NUM_THREADS"] = "1"  # the same for processes that tests start
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


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The sweep of `test_sweep.py`, run inline once for all files. Shared: copy it before you change it."""
    from test_sweep import SWEEP, run

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.toml").write_text(SWEEP)
    store = folder / "store"
    said = run("sweep", str(folder / "tiny.toml"), "--executor", "inline", "--store", str(store))
    assert said.exit_code == 0, said
    assert f"dashboard: {store}/report.html" in said.stdout
    return Store.open(str(store))


@pytest.fixture(scope="session")
def trt() -> Any:
    """The module tensorrt_rtx. Where QUANTFAIR_REQUIRE names trt_aot, as in CI, its absence fails the test."""
    try:
        return load_trt("tensorrt_rtx")
    except TensorRTMissingError as error:
        if "trt_aot" in os.environ.get("QUANTFAIR_REQUIRE", ""):
            pytest.fail(f"QUANTFAIR_REQUIRE asks for trt_aot, but {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="module")  # no longer: its event loop would be in the way of other tests' own
def browser() -> Iterator["Browser"]:
    """Chromium, driven by playwright. Where QUANTFAIR_REQUIRE names browser, as in CI, its absence fails the test."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _give_up_browser("the package playwright is not installed")
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        _give_up_browser(f"none of {', '.join(CHROMIUM)} is on the PATH")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def _give_up_browser(reason: str) -> NoReturn:
    if "browser" in os.environ.get("QUANTFAIR_REQUIRE", ""):
        pytest.fail(f"QUANTFAIR_REQUIRE asks for a browser, but {reason}")
    pytest.skip(reason)
