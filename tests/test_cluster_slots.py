"""How many trials fit on nodes that are there, and on those that an autoscaler could add."""

from pathlib import Path

import pytest
from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig  # type: ignore[attr-defined]

from quantfair.orchestrator.config.spec import Resources, ResourcesByMethod
from quantfair.orchestrator.executors import ray_cluster
from quantfair.orchestrator.executors.ray_cluster import NO_LIMIT, Node, count_slots, find_node_types, n_slots, reserve

A100 = {"CPU": 8.0, "GPU": 2.0, "memory": 16e9, "accelerator_type:A100": 1.0}
NODE = Node("n", A100, {"pool": "gpu", "ray.io/node-id": "1"})


@pytest.mark.parametrize(
    ("shape", "n"),
    [
        (Resources(), 8),
        (Resources(cpu=0.1), 80),
        (Resources(cpu=3), 2),
        (Resources(gpu=0.5), 4),
        (Resources(gpu=0.6), 2),  # one on each: no share spans two GPUs
        (Resources(gpu=2), 1),
        (Resources(gpu=3), 0),
        (Resources(memory_gb=5), 3),
        (Resources(accelerator_type="A100"), 8),
        (Resources(accelerator_type="H100"), 0),
        (Resources(labels=(("pool", "gpu"),)), 8),
        (Resources(labels=(("pool", "cpu"),)), 0),
        (Resources(labels=(("pool", "gpu"), ("zone", "a"))), 0),
    ],
)
def test_a_node_has_as_many_slots_as_every_resource_and_label_allows(shape: Resources, n: int) -> None:
    assert n_slots([NODE], shape) == n
    assert n_slots([NODE._replace(limit=3)], shape) == 3 * n


def test_what_is_reserved_names_labels_and_accelerator_type() -> None:
    placed = reserve(Resources(gpu=0.5, memory_gb=2, accelerator_type="A100", labels=(("pool", "gpu"),)))
    assert placed.bundles == [{"CPU": 1.0, "GPU": 0.5, "memory": 2e9, "accelerator_type:A100": 0.001}]
    assert placed._kwargs["bundle_label_selector"] == [{"pool": "gpu"}]
    assert reserve(Resources()) == reserve(Resources(gpu=0))


def test_a_cluster_without_a_node_that_fits_has_one_slot_and_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_nodes", lambda: [NODE])
    monkeypatch.setattr(ray_cluster, "find_node_types", lambda: [])
    resources = ResourcesByMethod(fp32=Resources(gpu=1), ptq=Resources(gpu=0.25))
    assert count_slots(resources, {"fp32"}) == 2
    assert count_slots(resources, {"fp32", "ptq"}) == 8
    monkeypatch.setattr(ray_cluster, "find_nodes", list)
    assert count_slots(resources, {"fp32"}) == 1


def test_what_an_autoscaler_can_add_counts_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_cluster, "find_nodes", lambda: [NODE])
    groups = [
        NodeGroupConfig(name="gpu", resources={"CPU": 4, "GPU": 1}, max_count=5),
        NodeGroupConfig(name="cpu", resources={"CPU": 1}, max_count=-1),
    ]
    told = ClusterConfig(node_group_configs=groups)
    monkeypatch.setattr(ray_cluster.ray_state, "get_cluster_config", lambda: told)
    assert [(node.name, node.limit) for node in find_node_types()] == [("gpu", 5), ("cpu", NO_LIMIT)]
    assert count_slots(ResourcesByMethod(qat=Resources(gpu=1)), {"qat"}) == 5
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text("available_node_types: {big: {resources: {GPU: 8, CPU: 8}, labels: {pool: b}, max_workers: 2}}")
    monkeypatch.setattr(ray_cluster.ray_state, "get_cluster_config", lambda: None)
    monkeypatch.setattr(ray_cluster, "BOOTSTRAP_FILE", str(file))
    assert count_slots(ResourcesByMethod(qat=Resources(gpu=1, labels=(("pool", "b"),))), {"qat"}) == 16
