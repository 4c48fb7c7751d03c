"""Sweeps as submitted jobs, on nodes with disks of their own, and under an autoscaler: real Ray processes."""

import json
import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from cluster_nodes import (
    AS_A_JOB,
    ENVIRONMENT,
    LIMIT_S,
    RAY,
    ROOT,
    end_of,
    environment,
    free_port,
    own_folder,
    places,
    start_simulation,
    start_sweep,
    started,
)
from data_files import write_class_folders
from installations import build, copy_checkout, make_environment, read_seen, run_program, write_sweep
from processes import wait_until
from ray._private.services import get_node_ip_address
from ray.job_submission import JobSubmissionClient
from test_sweep import SWEEP

from quantfair.orchestrator.executors.ray_preflight import probe_machine
from quantfair.results import Store

pytestmark = pytest.mark.alone
START = ("start", "--block", "--disable-usage-stats", "--object-store-memory=100000000")
FIND = "import importlib.util; print(importlib.util.find_spec('quantfair'))"
FEW = ("seeds=[0]", "experiments.0.train.epochs=1", "quant=[{method='ptq', bits=8}]")


class Head(NamedTuple):
    """Where a cluster is joined, and where it takes jobs."""

    address: str
    jobs: str


def takes_jobs(url: str) -> bool:
    """Whether the head has taken a job, which does nothing: its dashboard answers before its node can run one."""
    try:
        JobSubmissionClient(url).submit_job(entrypoint="true")
    except (RuntimeError, ConnectionError):
        return False
    return True


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which `quantfair` is not installed, but all that it needs."""
    programs = make_environment(tmp_path_factory.mktemp("bare"))
    assert run_program(programs / "python", "-c", FIND, cwd=programs) == "None\n"
    return programs


@pytest.fixture(scope="module")
def head(bare: Path) -> Iterator[Head]:
    """The head of a cluster, with the dashboard that takes jobs. Nothing of ours is installed on its node."""
    port, dashboard_port = free_port(), free_port()
    url = f"http://127.0.0.1:{dashboard_port}"
    ports = (f"--port={port}", f"--dashboard-port={dashboard_port}", "--num-cpus=2", "--labels=pool=head")
    ray = (str(bare / "python"), "-m", "ray.scripts.scripts")
    variables = {"PYTHONPATH": "", "PATH": f"{bare}{os.pathsep}{os.environ['PATH']}"}
    with started(*ray, *START, "--head", *ports, **variables):
        wait_until(lambda: takes_jobs(url), "the head takes jobs")
        yield Head(f"{get_node_ip_address()}:{port}", url)


def submit(head: Head, *words: str, cwd: Path = ROOT) -> tuple[int, str]:
    """A sweep as a job of a checkout: exit code of `ray job submit`, which waits, and what it printed."""
    command = [RAY, "job", "submit", "--address", head.jobs, "--working-dir", ".", "--"]
    done = subprocess.run(
        [*command, "python", "-m", "orchestrator", "sweep", *words],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_submitted_job_runs_a_sweep_into_a_store_outside_it(head: Head, tmp_path: Path) -> None:
    store = tmp_path / "store"
    code, said = submit(head, "quickstart", *FEW, "--store", str(store))
    assert code == 0, said
    assert "2 of 2 trials ok, 0 failed, 0 missing" in said
    assert Store.open(str(store)).read_trials()["status"].to_pylist() == ["ok", "ok"]
    assert (store / "report.html").is_file()


def check_seen(folder: Path, *, n_least: int) -> list[dict[str, Any]]:
    """Check that each process that made the pictures had Hugging Face's `datasets`; return what else it saw."""
    seen = read_seen(folder)
    assert len({one["pid"] for one in seen}) >= n_least  # the driver, and what it asked and told to run
    for one in seen:
        assert one["datasets"].startswith("datasets.")
        assert Path(one["files"]["datasets"]).parent.parent == Path(sysconfig.get_path("purelib"))
    return seen


@pytest.mark.slow
def test_a_job_finds_the_checkout_and_a_users_module_in_what_ray_ships(head: Head, tmp_path: Path) -> None:
    copy = copy_checkout(tmp_path / "checkout")
    write_sweep(copy)
    code, said = submit(head, "pictures.toml", "--store", str(tmp_path / "store"), cwd=copy)
    assert code == 0, said
    assert "1 of 1 trials ok, 0 failed, 0 missing" in said
    for one in check_seen(copy, n_least=2):
        package = Path(one["files"]["quantfair"]).parent
        shipped = package.parent.parent
        assert package == shipped / ".links" / "quantfair"
        assert shipped.name.startswith("_ray_pkg_")
        assert one["path"][-1] == str(shipped)
        assert str(shipped) not in one["path"][:-1]


@pytest.mark.slow
def test_a_checkout_ships_itself_to_a_cluster_that_has_nothing_of_ours(head: Head, bare: Path, tmp_path: Path) -> None:
    copy = copy_checkout(tmp_path / "checkout")
    file = write_sweep(copy)
    words = ["sweep", file, "--address", head.address, "--store", tmp_path / "store"]
    said = run_program(bare / "python", "-m", "orchestrator", *words, cwd=copy, **ENVIRONMENT)
    assert "1 of 1 trials ok, 0 failed, 0 missing" in said
    driver, *workers = check_seen(copy, n_least=2)
    assert driver["path"][-1] == str(copy)
    for one in workers:
        if one["pid"] != driver["pid"]:
            assert "_ray_pkg_" in one["files"]["quantfair"]
            assert Path(one["path"][-1]).name.startswith("_ray_pkg_")


@pytest.mark.slow
def test_a_wheel_ships_itself_to_a_cluster_that_has_nothing_of_ours(head: Head, tmp_path: Path) -> None:
    _, wheel = build(copy_checkout(tmp_path / "checkout"), tmp_path / "built")
    installed = make_environment(tmp_path / "installed", wheel=wheel)
    folder = tmp_path / "folder"
    folder.mkdir()
    write_sweep(folder)
    words = ["sweep", "pictures.toml", "--address", head.address]
    said = run_program(installed / "quantfair", *words, cwd=folder, **ENVIRONMENT)
    assert "1 of 1 trials ok, 0 failed, 0 missing" in said
    assert Store.open(str(folder / "quantfair-runs" / "pictures")).read_trials()["status"].to_pylist() == ["ok"]
    driver, *workers = check_seen(folder, n_least=2)
    package = Path(driver["files"]["quantfair"]).parent
    assert package.is_relative_to(installed.parent)
    shipped = {Path(one["files"]["quantfair"]).parent for one in workers if one["pid"] != driver["pid"]}
    for place in shipped:
        assert place.parent.name.startswith("_ray_pkg_")
        # The package alone was shipped, and none of the packages that are installed next to it.
        assert {path.name for path in place.parent.iterdir()} == {"quantfair"}


def test_a_store_inside_the_folder_that_a_job_ships_is_refused(head: Head) -> None:
    code, said = submit(head, "quickstart", *FEW)
    assert code == 1, said  # of `ray job submit`: the job failed
    assert "exit code 2" in said
    assert "`--store` is inside the folder that Ray ships with this job" in said
    assert "name a folder that all nodes share, or a URI such as s3://bucket/folder" in said


def may_mount() -> bool:
    """Whether this process may give a child a disk of its own."""
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(os.name != "posix" or not may_mount(), reason="mounts a disk for one node, which only root may")
@pytest.mark.slow
def test_a_node_with_a_disk_of_its_own_is_named_with_all_that_it_lacks(head: Head, tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    write_class_folders(apart / "pictures")
    file = tmp_path / "tiny.toml"
    file.write_text(SWEEP)
    pictures = f"{{name='image_folder', task='class', path='{apart / 'pictures'}', size=12}}"
    words = [str(file), f"experiments.0.dataset={pictures}", "seeds=[0]"]
    options = f"--temp-dir={own_folder()} --address={head.address} --num-cpus=1 --labels=pool=apart"
    node = f"{RAY} {' '.join(START)} {options}"
    with started("unshare", "-m", "bash", "-c", f"mount -t tmpfs tmpfs {apart} && {node}"):
        until_it_is_there = ["quickstart", *FEW, "resources.fp32.labels={pool='apart'}"]
        code, said = end_of(
            start_simulation(tmp_path / "there", head.address, until_it_is_there, waits=True, seconds=0)
        )
        assert code == 0, said
        code, said = end_of(start_sweep(*words, "--address", head.address, "--store", str(apart / "store")))
    assert code == 2, said
    assert "2 problems in what the cluster is to do" in said
    assert f"`--store` {apart}/store is another place on node" in said
    assert "what the driver wrote is not there. Name a folder that all nodes share" in said
    assert "the data set image_folder fails: DataError" in said
    assert "Put it into a folder that all nodes share, under an absolute path (data sets: QUANTFAIR_DATA)." in said
    assert not list((apart / "store").glob(".probes/*"))


def test_a_node_without_the_keys_of_a_store_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(store: Store, name: str) -> bool:
        raise OSError("ACCESS_DENIED")  # as pyarrow does where a node has no keys of a bucket

    monkeypatch.setattr(Store, "has_probe", refuse)
    _, fault = probe_machine(Store.open(str(tmp_path)), "asked", "answered")
    assert fault == "it cannot be read and written (ACCESS_DENIED)"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:8265", "must be `auto` or host:port of a cluster's head, got http://127.0.0.1:8265."),
        ("127.0.0.1:1", "127.0.0.1:1 cannot be joined (.*refused): name the head of a running cluster"),
        ("nonsense", "nonsense cannot be joined (.*): name the head of a running cluster of the same versions."),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(address: str, message: str, tmp_path: Path) -> None:
    from quantfair.orchestrator.config.errors import RequestError
    from quantfair.orchestrator.executors.ray_cluster import connect

    escaped = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(RequestError, match=f"`--address` {escaped}"):
        connect(address, job={})


TYPES = {
    "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
    "gpu": {
        "resources": {"CPU": 2, "GPU": 1},
        "labels": {"pool": "gpu"},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 2,
    },
}
LISTS = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands")
LISTS += ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


@pytest.mark.slow
def test_what_fits_a_node_type_of_an_autoscaler_makes_it_start_nodes(tmp_path: Path) -> None:
    port, head_id = free_port(), "f" * 51 + "00000"
    address = f"{get_node_ip_address()}:{port}"
    config = {
        "cluster_name": "fake",
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 2.0,
        "provider": {
            "type": "fake_multinode",
            "head_node_id": head_id,
            "gcs_address": address,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
        },
        "available_node_types": TYPES,
        "head_node_type": "ray.head.default",
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "auth": {},
        "docker": {},
        **{name: [] for name in LISTS},
    }
    file = tmp_path / "ray_bootstrap_config.yaml"  # its name on the head of a cluster that `ray up` started
    file.write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head_id}
    driver = {"HOME": str(tmp_path), **AS_A_JOB}
    options = (f"--port={port}", "--num-cpus=1", "--include-dashboard=false", f"--autoscaling-config={file}")
    words = ["quickstart", "quant=[{method='ptq', bits=[8, 4]}]", "resources.ptq={gpu=1, labels={pool='gpu'}}"]
    with started(RAY, *START, "--head", *options, **fake):
        code, said = end_of(
            start_simulation(tmp_path / "no", address, [*words, "resources.ptq.gpu=2"], variables=driver)
        )
        assert code == 2, said
        assert "nor can be added with (up to 2 gpu: 2 CPUs, 1 GPUs, pool=gpu)" in said
        code, said = end_of(start_simulation(tmp_path / "store", address, words, seconds=2, variables=driver))
        assert code == 0, said
    found = places(tmp_path / "store")
    assert {place["labels"]["pool"] for place in found["ptq"]} == {"gpu"}
    assert len({place["node"] for place in found["ptq"]}) == 2
