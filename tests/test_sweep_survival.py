"""Stores that break under a sweep: damaged files, a full disk, an object store, a second driver."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import start_process, wait_until
from test_sweep import SWEEP, assert_equal_tables, run, start

from quantfair.orchestrator.executors.recovery import find_damaged_stages
from quantfair.orchestrator.planning.request import read_state
from quantfair.results import SCHEMA_VERSION, TABLES, Store

SMALL = ("seeds=[0]", "experiments.0.train.epochs=3")  # fp32, fp32_ft, two ptq, one qat


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("sweep") / "tiny.toml"
    file.write_text(SWEEP)
    return str(file)


@pytest.fixture(scope="module")
def whole(sweep_file: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The small sweep, undisturbed; for tests that only read it."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    assert run("sweep", sweep_file, *SMALL, "--executor", "inline", "--store", str(folder)).exit_code == 0
    return Store.open(str(folder))


@pytest.fixture
def copy(whole: Store, tmp_path: Path) -> Store:
    """The same, to be damaged."""
    return Store.open(str(shutil.copytree(whole.location, tmp_path / "copy")))


def ids_by_method(store: Store) -> dict[str, str]:
    rows = store.read_trials()
    return dict(zip(rows["method"].to_pylist(), rows["trial_id"].to_pylist(), strict=True))


def versions(store: Store) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in Path(store.location, "trials").glob("*.parquet")}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip_bytes(path: Path) -> None:
    """Change bytes of the first page and its header, at the same length."""
    data = path.read_bytes()
    path.write_bytes(data[:20] + bytes(byte ^ 0xFF for byte in data[20:120]) + data[120:])


def empty(path: Path) -> None:
    path.write_bytes(b"")


PLACES = ("trials/%s.parquet", "predictions/%s.torch.parquet", "layers/%s.parquet")


@pytest.mark.parametrize(
    ("place", "harm"),
    [
        ("trials/%s.parquet", truncate),
        ("predictions/%s.torch.parquet", flip_bytes),
        ("layers/%s.parquet", empty),
        # `test_results_damage.py` finds every harm in every place; that a sweep goes on is the same for all.
        pytest.param("trials/%s.parquet", flip_bytes, marks=pytest.mark.slow),
        pytest.param("trials/%s.parquet", empty, marks=pytest.mark.slow),
        pytest.param("predictions/%s.torch.parquet", truncate, marks=pytest.mark.slow),
        pytest.param("predictions/%s.torch.parquet", empty, marks=pytest.mark.slow),
        pytest.param("layers/%s.parquet", truncate, marks=pytest.mark.slow),
        pytest.param("layers/%s.parquet", flip_bytes, marks=pytest.mark.slow),
    ],
)
def test_a_sweep_puts_damage_away_and_runs_that_trial_again(
    whole: Store, copy: Store, sweep_file: str, place: str, harm: Callable[[Path], object]
) -> None:
    before, victim = versions(copy), ids_by_method(copy)["qat"]
    harm(Path(copy.location, place % victim))
    said = run("sweep", sweep_file, *SMALL, "--executor", "inline", "--store", copy.location)
    assert said.exit_code == 0, said
    assert f"damaged: {place % victim} is damaged (" in said.stderr
    assert f"moved to corrupt/{place % victim}; `sweep` runs trial {victim} again." in said.stderr
    after = versions(copy)
    assert {trial_id for trial_id in before if after[trial_id] != before[trial_id]} == {victim}
    assert Path(copy.location, "corrupt", place % victim).exists()
    assert_equal_tables(copy, whole)


def test_predictions_that_are_missing_are_made_again_and_so_are_descriptions_of_images(
    whole: Store, copy: Store, sweep_file: str
) -> None:
    before, victim = versions(copy), ids_by_method(copy)["ptq"]
    Path(copy.location, "predictions", f"{victim}.torch.parquet").unlink()
    (samples,) = Path(copy.location, "samples").iterdir()
    truncate(samples)
    said = run("sweep", sweep_file, *SMALL, "--executor", "inline", "--store", copy.location)
    assert said.exit_code == 0, said
    assert f"damaged: predictions/{victim}.torch.parquet is missing; `sweep` runs trial {victim} again." in said.stderr
    assert f"samples/{samples.name} is damaged" in said.stderr
    after = versions(copy)
    assert {trial_id for trial_id in before if after[trial_id] != before[trial_id]} == {victim}
    assert_equal_tables(copy, whole)


@pytest.mark.parametrize(
    "harm", [Path.unlink, pytest.param(truncate, marks=pytest.mark.slow), pytest.param(empty, marks=pytest.mark.slow)]
)
def test_a_damaged_stage_is_trained_again_where_a_trial_needs_it(
    whole: Store, copy: Store, sweep_file: str, harm: Callable[[Path], object]
) -> None:
    before, ids = versions(copy), ids_by_method(copy)
    harm(Path(copy.location, "stages", f"{ids['fp32']}.pt"))
    request = read_state(sweep_file, SMALL, copy.location)
    assert find_damaged_stages(request) == []  # nobody needs it
    copy.remove_trial(ids["qat"])
    said = run("sweep", sweep_file, *SMALL, "--executor", "inline", "--store", copy.location)
    assert said.exit_code == 0, said
    assert f"damaged: stages/{ids['fp32']}.pt is " in said.stderr
    after = versions(copy)
    assert {t for t in after if after[t] != before[t]} == {ids["fp32"], ids["qat"]}
    assert_equal_tables(copy, whole)


def test_a_stage_is_read_once_however_many_trials_need_it(
    copy: Store, sweep_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ids_by_method(copy)
    for row in copy.read_trials().to_pylist():
        if row["method"] != "fp32":
            copy.remove_trial(row["trial_id"])
    read, really_read = [], Store.read_stage
    monkeypatch.setattr(Store, "read_stage", lambda store, stage: (read.append(stage), really_read(store, stage))[1])
    request = read_state(sweep_file, SMALL, copy.location)
    assert len(request.progress.to_run) == 4
    assert find_damaged_stages(request) == []
    assert read == [ids["fp32"]]


def test_status_names_damage_and_changes_nothing(copy: Store) -> None:
    victim = ids_by_method(copy)["qat"]
    truncate(Path(copy.location, "trials", f"{victim}.parquet"))
    said = run("status", copy.location)
    assert said.exit_code == 0
    assert "tiny: 4 of 5 trials ok, 0 failed, 1 missing" in said.stdout
    assert f"damaged: {copy.location}/trials/{victim}.parquet is damaged (" in said.stdout
    assert len(json.loads(run("status", copy.location, "--json").stdout)["damaged"]) == 1
    assert not Path(copy.location, "corrupt").exists()


@pytest.mark.parametrize("place", PLACES)
def test_report_puts_damage_away_and_goes_on_with_what_is_left(copy: Store, place: str) -> None:
    victim = ids_by_method(copy)["qat"]
    flip_bytes(Path(copy.location, place % victim))
    said = run("report", copy.location)
    assert said.exit_code == 0, said
    assert f"moved to corrupt/{place % victim}; `sweep` runs trial {victim} again." in said.stderr
    assert "4 of 5 trials ok, 0 failed, 1 missing." in said.stdout


def test_damaged_tables_are_built_again(whole: Store, copy: Store, sweep_file: str) -> None:
    words = ("sweep", sweep_file, *SMALL, "--store", copy.location)
    for name in ("trials", "paired_metrics"):
        truncate(Path(copy.location, "tables", f"{name}.parquet"))
        assert run(*words).exit_code == 0
        assert_equal_tables(copy, whole)


def test_a_finished_sweep_again_builds_nothing_and_says_the_same(copy: Store, sweep_file: str) -> None:
    words = ("sweep", sweep_file, *SMALL, "--store", copy.location)
    first, page = run(*words), Path(copy.location, "report.html")
    before = page.stat().st_mtime_ns
    assert run(*words) == first
    assert page.stat().st_mtime_ns == before
    assert run("report", copy.location).exit_code == 0
    built = page.stat().st_mtime_ns
    assert built != before
    copy.write_groups_csv(b"sample_id,odd\n0,a\n1,b\n")
    assert run(*words).exit_code == 0
    assert page.stat().st_mtime_ns != built
    page.unlink()
    assert run(*words).exit_code == 0
    assert page.exists()


def test_a_finished_sweep_again_loads_nothing_heavy(copy: Store, sweep_file: str) -> None:
    words = ["sweep", sweep_file, *SMALL, "--store", copy.location]
    assert run(*words).exit_code == 0
    heavy = ("torch", "ray", "plotly", "scipy", "pandas", "sklearn")
    code = f"import sys\nfrom quantfair.orchestrator.commands.app import app\napp({words!r}, standalone_mode=False)\n"
    code += f"print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["sweep", "plan", "report", "status"])
def test_a_store_of_a_newer_version_is_refused_before_anything_starts(
    copy: Store, sweep_file: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantfair.orchestrator.planning.request.make_plan", None)
    manifest = {**copy.read_manifest(), "schema_version": SCHEMA_VERSION + 1}
    Path(copy.location, "manifest.json").write_text(json.dumps(manifest))
    before = versions(copy)
    words = ("--store", copy.location) if command in ("sweep", "plan") else (copy.location,)
    said = run(command, *((sweep_file, *SMALL) if len(words) == 2 else ()), *words)
    assert said.exit_code == 2
    assert f"has schema version {SCHEMA_VERSION + 1}, and this program knows {SCHEMA_VERSION}" in said.stderr
    assert versions(copy) == before


def test_a_second_sweep_on_a_store_is_refused(copy: Store, sweep_file: str) -> None:
    with copy.locked(executor="ray"):
        said = run("sweep", sweep_file, *SMALL, "--store", copy.location)
        assert said.exit_code == 2
        assert f"is in use: process {os.getpid()} on " in said.stderr
        assert run("status", copy.location).exit_code == 0
        assert run("report", copy.location).exit_code == 0


def test_readers_never_stumble_over_files_that_come_and_go(tmp_path: Path) -> None:
    code = (
        "from quantfair.results import Store\n"
        f"store = Store.open({str(tmp_path)!r})\n"
        "for number in range(300):\n"
        "    store.write_trial({'trial_id': f't{number % 40}', 'status': 'failed', 'seed': number})\n"
        "    store.remove_trial(f't{(number * 7) % 40}')\n"
    )
    writer = start_process([sys.executable, "-c", code])
    store = Store.open(str(tmp_path))
    n_reads = 0
    while writer.poll() is None:
        assert len(store.read_trials()) <= 40
        assert len(store.trial_ids()) <= 40
        n_reads += 1
    assert writer.returncode == 0
    assert n_reads > 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        if "disk" in os.environ.get("QUANTFAIR_REQUIRE", ""):
            pytest.fail("QUANTFAIR_REQUIRE names disk, and no small disk can be mounted here")
        pytest.skip("no small disk can be mounted: that needs root and mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_full_disk_stops_the_sweep_whole_and_it_goes_on_when_there_is_room(
    whole: Store, small_disk: Path, sweep_file: str, executor: str
) -> None:
    ballast, store = small_disk / "ballast", Store.open(str(small_disk / "store"))
    ballast.write_bytes(b"x" * (16 * 2**20 - 250_000))
    words = ("sweep", sweep_file, *SMALL, "--executor", executor, "--store", store.location)
    process = start(*words)
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 1, said
    assert "No space left on device" in said
    assert "MiB are free there, and this file needs " in said
    assert "Finished trials are kept: the same command goes on from here." in said
    assert not list(Path(store.location, ".aside").glob("*"))
    n_before, before = len(store.trial_ids()), versions(store)
    assert set(store.read_trials()["status"].to_pylist()) <= {"ok"}
    assert n_before < 5
    assert n_before >= 1
    ballast.unlink()
    ended = run(*words)
    assert ended.exit_code == 0, ended
    assert {trial_id: versions(store)[trial_id] for trial_id in before} == before
    assert_equal_tables(store, whole)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a bucket on a real S3-compatible server, %s for a folder in it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patch = pytest.MonkeyPatch()
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("EC2_METADATA_DISABLED", "true")):
        patch.setenv(f"AWS_{name}", value)

    def answers() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
        except OSError:
            return server.poll() is not None
        return True

    wait_until(answers, "the server answers")
    options = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    yield f"s3://bucket/%s?{options}"
    server.terminate()
    server.wait()
    patch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_on_an_object_store_a_killed_sweep_goes_on_and_ends_like_one_on_a_disk(
    whole: Store, s3: str, sweep_file: str, executor: str
) -> None:
    store = Store.open(s3 % executor)
    words = ("sweep", sweep_file, *SMALL, "--executor", executor, "--store", store.location)
    first = start(*words)
    wait_until(lambda: store.trial_ids() or first.poll() is not None, "a row")
    assert first.poll() is None, first.communicate()[0]
    second = run(*words)
    assert second.exit_code == 2
    assert f"is in use: process {first.pid} on " in second.stderr
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    before = store.list_files("trials")
    assert store.find_driver() is None  # it died on this machine
    third = start(*words)
    said = third.communicate(timeout=240)[0]
    assert third.returncode == 0, said
    assert f"dashboard: {store.files.describe('report.html')}" in said
    after = store.list_files("trials")
    assert {name: after[name] for name in before} == before
    assert_equal_tables(store, whole)
    assert "tiny: 5 of 5 trials ok" in run("status", store.location).stdout
    assert run("report", store.location).exit_code == 0
    assert run(*words[:-2], "--store", store.location).exit_code == 0


def test_on_an_object_store_damage_is_put_away(whole: Store, s3: str) -> None:
    store = Store.open(s3 % "damaged")
    store.write_manifest(whole.read_manifest())
    for folder in ("trials", "predictions", "layers", "samples"):
        for path in Path(whole.location, folder).iterdir():
            store.files.write(f"{folder}/{path.name}", path.read_bytes())
    victim = ids_by_method(whole)["qat"]
    store.files.write(f"predictions/{victim}.torch.parquet", b"no parquet")
    said = run("report", store.location)
    assert said.exit_code == 0
    assert f"moved to corrupt/predictions/{victim}.torch.parquet" in said.stderr
    assert "4 of 5 trials ok, 0 failed, 1 missing." in said.stdout
    assert store.files.read(f"corrupt/predictions/{victim}.torch.parquet") == b"no parquet"
    assert set(TABLES) - {"predictions"} <= {name.removesuffix(".parquet") for name in store.list_files("tables")}


def test_a_bucket_that_is_not_there_is_a_wrong_request(s3: str, sweep_file: str) -> None:
    uri = (s3 % "x").replace("//bucket", "//nowhere").replace("&allow_bucket_creation=true", "")
    said = run("sweep", sweep_file, *SMALL, "--store", uri)
    assert said.exit_code == 2
    assert "cannot be written" in said.stderr
    assert "choose another --store" in said.stderr
