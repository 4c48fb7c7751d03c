"""Sweeps on a Ray cluster of several nodes, on one machine: placement, loss and gain of nodes, and what is refused.

GPUs are pretended: Ray schedules them, and trials on them only sleep.
"""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_nodes import (
    ENVIRONMENT,
    NODE,
    add_node,
    end_of,
    most_at_once,
    places,
    start_simulation,
    start_sweep,
)
from processes import wait_until
from ray.cluster_utils import Cluster
from test_sweep import SWEEP, assert_equal_tables, run

from quantfair.results import Store

pytestmark = pytest.mark.alone
GPU_NODE = {"num_gpus": 1, "resources": {"accelerator_type:A100": 1}, "labels": {"pool": "gpu"}}
PLACED = """
[resources]
fp32 = {labels = {pool = "cpu"}}
ptq = {gpu = 0.5, cpu = 0.5, labels = {pool = "gpu"}}
fp32_ft = {accelerator_type = "A100"}
qat = {accelerator_type = "A100", gpu = 1}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and a node with one GPU, for all tests that leave them as they are."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        head = NODE | {"labels": {"pool": "cpu"}, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        add_node(cluster, **GPU_NODE)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def placed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Where the trials of a sweep ran that says where each method is to run."""
    folder = tmp_path_factory.mktemp("placed")
    (folder / "tiny.toml").write_text(SWEEP + PLACED)
    code, said = end_of(
        start_simulation(folder / "store", str(cluster.address), [str(folder / "tiny.toml")], seconds=1)
    )
    assert code == 0, said
    return places(folder / "store")


def test_node_labels_place_a_method(placed: dict[str, list[dict[str, Any]]]) -> None:
    assert {place["labels"]["pool"] for place in placed["fp32"]} == {"cpu"}
    assert {place["labels"]["pool"] for place in placed["ptq"]} == {"gpu"}


def test_an_accelerator_type_places_a_method(placed: dict[str, list[dict[str, Any]]]) -> None:
    assert {place["labels"]["pool"] for place in placed["qat"] + placed["fp32_ft"]} == {"gpu"}


def test_two_trials_share_a_gpu_by_halves_and_whole_ones_have_it_alone(
    placed: dict[str, list[dict[str, Any]]],
) -> None:
    assert {place["gpu"] for place in placed["ptq"] + placed["qat"]} == {"0"}
    assert most_at_once(placed["ptq"]) == 2
    assert most_at_once(placed["qat"]) == 1


def test_every_shape_that_fits_no_node_is_refused_with_the_remedy(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(SWEEP)
    too_much = ("resources.fp32.gpu=2", "resources.ptq.labels={pool='tpu'}", "resources.qat.accelerator_type=H100")
    store = tmp_path / "store"
    code, said = end_of(start_sweep(str(file), *too_much, "--address", str(cluster.address), "--store", str(store)))
    assert code == 2, said
    assert "3 problems in what the cluster is to do" in said
    nodes = "(2 CPUs, 0 GPUs, pool=cpu; 2 CPUs, 1 GPUs, A100, pool=gpu)"
    assert f"`resources.fp32` asks for cpu 1, gpu 2, which no node has {nodes}." in said
    assert "`resources.ptq` asks for cpu 1, labels pool=tpu, which no node has" in said
    assert "`resources.qat` asks for cpu 1, accelerator_type H100, which no node has" in said
    assert "Ask for less, start such a node, or wait for one with --wait-for-nodes." in said
    assert not Store.open(str(store)).trial_ids()


def test_another_version_on_a_node_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    code, said = end_of(start_simulation(tmp_path / "store", str(cluster.address), ["quickstart"], numpy="0.0.1"))
    assert code == 2, said
    assert said.count("(here 0.0.1): install the same there") == 2


def test_a_node_that_does_not_answer_is_named(cluster: Cluster, tmp_path: Path) -> None:
    node = add_node(cluster)
    raylet = node.all_processes["raylet"][0].process.pid
    os.kill(raylet, signal.SIGSTOP)
    try:
        words = {"words": ["quickstart"], "ANSWER_S": 5}
        code, said = end_of(start_simulation(tmp_path / "store", str(cluster.address), **words))
    finally:
        os.kill(raylet, signal.SIGCONT)
        cluster.remove_node(node)
    assert code == 2, said
    assert re.search(rf"Node .*{node.node_id[:8]}.* does not answer within 5 s: remove or restart it", said), said


@pytest.mark.slow
def test_a_node_killed_under_a_sweep_costs_nothing_but_time(tmp_path: Path, cluster: Cluster) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(SWEEP)
    words = (str(file), "resources.ptq.labels={pool='extra'}", "resources.qat.labels={pool='extra'}", "retry.crash=3")
    store = Store.open(str(tmp_path / "store"))
    node = add_node(cluster, labels={"pool": "extra"})
    driver = start_sweep(*words, "--address", str(cluster.address), "--store", store.location)
    wait_until(lambda: len(store.trial_ids()) > 3 or driver.poll() is not None, "four trials are done")
    assert driver.poll() is None, driver.communicate()[0]
    cluster.remove_node(node, allow_graceful=False)
    add_node(cluster, labels={"pool": "extra"})
    code, said = end_of(driver)
    assert code == 0, said
    inline = run("sweep", str(file), "--executor", "inline", "--store", str(tmp_path / "inline"))
    assert inline.exit_code == 0, inline
    assert_equal_tables(store, Store.open(str(tmp_path / "inline")))


@pytest.mark.slow
def test_a_node_that_joins_later_gets_work_that_waited_for_it(cluster: Cluster, tmp_path: Path) -> None:
    words = ["quickstart", "seeds=[0]", "resources.ptq.labels={pool='late'}"]
    store = tmp_path / "store"
    driver = start_simulation(store, str(cluster.address), words, waits=True)
    wait_until(lambda: Store.open(str(store)).trial_ids() or driver.poll() is not None, "a trial is done")
    add_node(cluster, labels={"pool": "late"})
    code, said = end_of(driver)
    assert code == 0, said
    assert "warning: `resources.ptq` asks for cpu 1, labels pool=late, which no node has" in said
    found = places(store)
    assert {place["labels"]["pool"] for place in found["ptq"]} == {"late"}
    assert most_at_once(found["ptq"]) == 2
