"""`import quantfair as qf`: the same as the commands, from Python; what ends a command with a code raises here."""

import json
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_sweep import run

import quantfair as qf

SPEC = {
    "name": "door",
    "seeds": [0],
    "experiments": [
        {
            "dataset": {"name": "digits", "task": "digit", "group_by": ["label"], "test_size": 100, "train_size": 200},
            "model": {"name": "small_cnn", "width": 4},
            "train": {"epochs": 1, "lr": 0.003},
        }
    ],
    "quant": [{"method": "ptq", "bits": [8, 4]}],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of three trials, given as a dict."""
    folder = tmp_path_factory.mktemp("door") / "store"
    qf.sweep(SPEC, store=folder, executor="inline", quiet=True)
    return folder


def test_a_dict_is_swept_and_its_tables_are_returned_as_frames(store: Path) -> None:
    frames = qf.sweep(SPEC, store=store, executor="inline", quiet=True)
    assert isinstance(frames.trials, pd.DataFrame)
    assert sorted(frames.trials["method"]) == ["fp32", "ptq", "ptq"]
    assert set(frames.trials["status"]) == {"ok"}


def test_a_dict_and_the_same_file_are_the_same_trials(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "door.toml"
    file.write_text(
        'name = "door"\nseeds = [0]\n[[experiments]]\n'
        'dataset = {name="digits", task="digit", group_by=["label"], test_size=100, train_size=200}\n'
        'model = {name="small_cnn", width=4}\ntrain = {epochs=1, lr=0.003}\n[[quant]]\nmethod = "ptq"\nbits = [8, 4]\n'
    )
    assert tomllib.loads(file.read_text()) == SPEC
    by_file, by_dict = qf.plan(file, store=store), qf.plan(SPEC, store=store)
    assert by_file == by_dict
    assert by_file["left"]["n_trials"] == 0


def test_the_spec_that_was_given_stays_as_it_is(tmp_path: Path) -> None:
    before = json.dumps(SPEC)
    qf.plan(SPEC, ["quant.0.bits=[4]", "seeds=[0, 1]"], store=tmp_path)
    assert json.dumps(SPEC) == before


def test_a_dict_may_extend_a_built_in_sweep(tmp_path: Path) -> None:
    found = qf.plan({"extends": "quickstart", "name": "mine", "seeds": [0]}, store=tmp_path)
    assert found["n_trials"] == qf.plan("quickstart", ["seeds=[0]"], store=tmp_path)["n_trials"] > 3


def test_plan_status_and_report_are_what_the_commands_print(store: Path) -> None:
    file = store.parent / "door.json"
    assert qf.status(store) == json.loads(run("status", str(store), "--json").stdout)
    assert qf.status(store)["command"] is None  # no command names a dict
    assert not file.exists()
    frames = qf.report(store)
    assert len(frames.trials) == 3
    assert qf.plan("quickstart", store=store.parent / "other") == json.loads(
        run("plan", "quickstart", "--store", str(store.parent / "other"), "--json").stdout
    )


def test_read_opens_what_is_there(store: Path) -> None:
    assert len(qf.read(str(store)).trials) == len(qf.read(store).trials) == 3


def test_every_problem_of_a_request_is_raised_at_once(tmp_path: Path) -> None:
    wrong = {**SPEC, "seeds": [], "quant": [{"method": "ptq", "bits": 17}]}
    with pytest.raises(qf.RequestError, match=r"2 problems in the sweep(.|\n)*`seeds`(.|\n)*`quant.0.bits`"):
        qf.sweep(wrong, store=tmp_path, executor="inline")


def test_arguments_that_are_none_are_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(qf.RequestError, match="`executor` must be one of ray, inline, got 'dask'"):
        qf.sweep(SPEC, store=tmp_path, executor="dask")  # pyright: ignore[reportArgumentType]
    with pytest.raises(qf.RequestError, match="`limit` must be at least 1, got 0"):
        qf.sweep(SPEC, store=tmp_path, executor="inline", limit=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overrides": "seeds=[0]"}, r"`overrides` must be a list of texts, got one: write \['seeds=\[0\]'\]"),
        ({"overrides": ["seeds=[0]", "quant"]}, "`quant` is no override: write it as key=value"),
        ({"flips": [0.02, 5]}, r"`flips` must be shares in \[0, 1\], got 5"),
    ],
)
def test_what_the_command_line_refuses_is_refused_here(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(qf.RequestError, match=message):
        qf.plan(SPEC, store=tmp_path, **arguments)


def test_a_time_out_inline_needs_the_main_thread(tmp_path: Path) -> None:
    spec = {**SPEC, "retry": {"timeout_s": 60}}
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(qf.sweep, spec, store=tmp_path, executor="inline", quiet=True)
        with pytest.raises(qf.RequestError, match=r"`retry.timeout_s` needs the main thread with the executor inline"):
            call.result()


def test_a_ray_of_the_users_own_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    with pytest.raises(
        qf.RequestError, match=r"`executor` finds a Ray that this process uses already: call `ray.shutd"
    ):
        qf.sweep(SPEC, store=tmp_path, quiet=True)


def test_a_store_without_a_sweep_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(qf.StoreError, match=str(tmp_path)):
        qf.report(tmp_path)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, quantfair; print([m for m in ('torch', 'ray', 'pandas', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_that_the_package_offers_is_there() -> None:
    assert {name: callable(getattr(qf, name)) for name in qf.__all__} == dict.fromkeys(qf.__all__, True)
