"""A trial's result is its own: whatever its worker ran before, in any order, inline or on Ray, on 1 or 2 workers."""

import json
from pathlib import Path

import pytest
from cluster_nodes import ENVIRONMENT, NODE, end_of, start_sweep
from ray.cluster_utils import Cluster
from test_sweep import SWEEP, assert_equal_tables, run, start

from quantfair.results import Store

SETTINGS = """
[[quant]]
method = "ptq"
bits = [4, 8]
act_observer = ["mse", "percentile"]
rounding = ["nearest", "adaround"]
calib_images = [200]
"""
ONE_SEED = "seeds=[1]"


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("sweep") / "tiny.toml"
    file.write_text(SWEEP.replace("seeds = [0, 1, 2]", "seeds = [0, 1]") + SETTINGS)
    return str(file)


@pytest.fixture(scope="module")
def one_worker(sweep_file: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All 26 trials, one after another, in this process."""
    store = tmp_path_factory.mktemp("one_worker")
    assert run("sweep", sweep_file, "--executor", "inline", "--store", str(store)).exit_code == 0
    return Store.open(str(store))


def show_all(sweep_file: str, store: Store, *words: str) -> None:
    """Rebuild the tables for the whole request; nothing is left to run."""
    assert "Nothing to run" in run("sweep", sweep_file, *words, "--store", store.location).stdout


def test_trials_in_another_order_end_alike(sweep_file: str, one_worker: Store, tmp_path: Path) -> None:
    import tomllib

    blocks = tomllib.loads(Path(sweep_file).read_text())["quant"]
    backwards = [
        {name: value[::-1] if isinstance(value, list) else value for name, value in block.items()} for block in blocks
    ]
    texts = ", ".join(
        "{" + ", ".join(f"{key} = {json.dumps(v)}" for key, v in block.items()) + "}" for block in backwards[::-1]
    )
    words = ("--executor", "inline", "--store", str(tmp_path))
    assert run("sweep", sweep_file, f"quant=[{texts}]", "seeds=[1, 0]", *words).exit_code == 0
    store = Store.open(str(tmp_path))
    show_all(sweep_file, store)
    assert_equal_tables(store, one_worker)


@pytest.mark.slow
def test_a_process_for_each_trial_ends_alike(sweep_file: str, tmp_path: Path) -> None:
    together, apart = Store.open(str(tmp_path / "together")), Store.open(str(tmp_path / "apart"))
    words = (sweep_file, ONE_SEED, "--executor", "inline")
    assert run("sweep", *words, "--store", together.location).exit_code == 0
    for n_rows in range(1, len(together.trial_ids()) + 1):
        process = start("sweep", *words, "--limit", "1", "--store", apart.location)
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, said
        assert len(apart.trial_ids()) == n_rows
    show_all(sweep_file, apart, ONE_SEED)
    assert_equal_tables(together, apart)


@pytest.mark.slow
def test_on_ray_two_workers_end_alike(sweep_file: str, one_worker: Store, tmp_path: Path) -> None:
    process = start("sweep", sweep_file, "--store", str(tmp_path))
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "on Ray, 2 trials at a time" in said
    assert_equal_tables(Store.open(str(tmp_path)), one_worker)


@pytest.mark.slow
def test_on_ray_one_worker_ends_alike(
    sweep_file: str, one_worker: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 1, "include_dashboard": False})
    try:
        code, said = end_of(start_sweep(sweep_file, "--address", str(cluster.address), "--store", str(tmp_path)))
    finally:
        cluster.shutdown()
    assert code == 0, said
    assert "on Ray, 1 trials at a time" in said
    assert_equal_tables(Store.open(str(tmp_path)), one_worker)
