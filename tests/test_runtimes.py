"""The table of runtimes: who reads its names, what every row must have, and a runtime that is added to it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from installations import copy_checkout
from typer.testing import CliRunner

from quantfair.orchestrator.checkout import make_links
from quantfair.orchestrator.commands import deploy
from quantfair.orchestrator.commands.app import app
from quantfair.orchestrator.config import spec as sweep_spec
from quantfair.orchestrator.config.spec import SweepHead
from quantfair.quant import RUNTIMES, LayerReport, PtqSpec, find_unsupported, find_unsupported_layers
from quantfair.quant.deploy.onnxruntime import SESSIONS
from quantfair.quant.deploy.runtimes import Form, Runtime, RuntimeCode
from quantfair.results import DEPLOYED, EXACT, Store

ROOT = Path(__file__).resolve().parent.parent
CODE = [name for name in vars(RuntimeCode) if not name.startswith("_")]


def test_sweep_files_commands_and_results_know_the_runtimes_of_the_table() -> None:
    assert get_args(sweep_spec.Runtime) == ("torch", *RUNTIMES)
    assert SweepHead.model_json_schema()["properties"]["runtimes"]["items"]["enum"] == ["torch", *RUNTIMES]
    assert list(vars(deploy)["Target"]) == list(RUNTIMES)
    assert tuple(RUNTIMES) == DEPLOYED, "results/schema.py"


def test_an_unknown_runtime_is_refused_with_those_of_the_table() -> None:
    result = CliRunner().invoke(app, ["export", "store", "trial", "--runtime", "openvino"])
    assert result.exit_code == 2
    assert all(f"'{name}'" in result.output for name in RUNTIMES)


def test_the_exact_session_is_stored_under_the_name_that_results_reads() -> None:
    assert SESSIONS == {"fast": "onnxruntime", "exact": EXACT}


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_row_has_a_file_with_every_function_and_its_program(name: str) -> None:
    row = RUNTIMES[name]
    assert CODE == ["why_unavailable", "open_predictors", "ship"]
    assert all(callable(getattr(row.load(), function)) for function in CODE)
    assert row.forms
    assert row.program is None or (ROOT / "orchestrator" / "shipped" / row.program).is_file()


# --- a runtime without words of its own ---

PLAIN = Runtime(
    title="Plain",
    module="no.such.file",
    forms=(
        Form(
            weight_bits=(4, 8),
            act_bits=(8,),
            scheme=("symmetric",),
            act_signed=("auto", "always"),
            granularity=("per_tensor",),
            operators=("Linear",),
        ),
    ),
)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(RUNTIMES, "plain", PLAIN)
    return "plain"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, 'granularity = "per_channel": Plain has granularity = "per_tensor" alone'),
        ({"granularity": "per_tensor"}, None),
        (
            {"granularity": "per_tensor", "scheme": "asymmetric"},
            'scheme = "asymmetric": Plain has scheme = "symmetric"',
        ),
        ({"act_bits": 4}, "weight_bits = 8 and act_bits = 4: Plain has weight_bits = 4 or 8 with act_bits = 8"),
    ],
)
def test_what_no_form_has_is_refused_in_the_words_of_the_forms(
    plain: str, settings: dict[str, object], reason: str | None
) -> None:
    told = find_unsupported(PtqSpec.model_validate({"method": "ptq", **settings}), plain)
    assert told is None if reason is None else str(told).startswith(reason)


def test_every_form_of_the_bits_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = PLAIN.forms
    second = first._replace(scheme=("asymmetric",), granularity=("per_channel",), operators=("Conv2d",))
    monkeypatch.setitem(RUNTIMES, "two", replace(PLAIN, forms=(first, second)))
    for granularity, scheme, fits in [
        ("per_tensor", "symmetric", True),
        ("per_channel", "asymmetric", True),
        ("per_tensor", "asymmetric", False),
        ("per_channel", "symmetric", False),
    ]:
        spec = PtqSpec.model_validate({"method": "ptq", "granularity": granularity, "scheme": scheme})
        assert (find_unsupported(spec, "two") is None) == fits
    layer = LayerReport("conv", "Conv2d", "quantized", None, 9, 8, 8, "asymmetric", "per_channel", "signed -128..127")
    assert find_unsupported_layers([layer], "two") is None
    assert "no quantized form of it" in str(find_unsupported_layers([layer._replace(kind="Linear")], "two"))
    join = LayerReport("add", "Add", "quantized", None, 0, None, 8, "asymmetric", None, "signed -128..127")
    only_four = first._replace(weight_bits=(4,), scheme=("asymmetric",))
    monkeypatch.setitem(RUNTIMES, "four", replace(PLAIN, forms=(only_four,)))
    assert find_unsupported_layers([join], "four") is None  # a join has no weights, so their bits do not count


def test_a_layer_that_no_form_has_is_left_float_by_name(plain: str) -> None:
    linear = LayerReport("fc", "Linear", "quantized", None, 9, 8, 8, "symmetric", "per_tensor", "signed -128..127")
    conv = linear._replace(layer="conv", kind="Conv2d")
    join = LayerReport("add", "Add", "quantized", None, 0, None, 8, "symmetric", None, "signed -128..127")
    assert find_unsupported_layers([linear, join], plain) is None
    told = find_unsupported_layers([linear, conv], plain)
    assert str(told).startswith("layer 'conv' (Conv2d): Plain has no quantized form of it; leave it float: overrides =")
    told = find_unsupported_layers([linear._replace(granularity="per_channel")], plain)
    assert 'granularity = "per_channel": Plain has granularity = "per_tensor" alone' in str(told)


# --- a runtime is one file and one row ---

PRETENDED = '''
"""A pretended runtime: it takes every image for the first class."""

from pathlib import Path

import numpy as np

from quantfair.quant.deploy.runtimes import Predictor


def why_unavailable():
    return None


def open_predictors(path, *, n_threads):
    def predict(images_NCHW):
        logits_NK = np.zeros((len(images_NCHW), 10), np.float32)
        logits_NK[:, 0] = 1
        return logits_NK

    columns = {"session": "only", "kernels": "none", "version": "pretended 1", "file_bytes": path.stat().st_size}
    yield Predictor(name="pretended", predict=predict, columns=columns)


def ship(path, about):
    path.with_suffix(".pretended").write_text(about["quantfair.class_names"])
    return [path.with_suffix(".pretended")]
'''
ROW = """
    "pretended": Runtime(
        title="Pretended",
        module="quantfair.quant.deploy.pretended",
        forms=(
            Form(
                weight_bits=(8,),
                act_bits=(8,),
                scheme=("symmetric",),
                act_signed=("auto", "always"),
                granularity=("per_channel",),
                operators=("Conv2d", "Linear"),
            ),
        ),
        program="predict_onnxruntime.py",
    ),
"""
SWEEP = """
name = "pretended"
seeds = [0]
runtimes = ["torch", "pretended"]

[[experiments]]
dataset = {name = "digits", task = "digit", test_share = 0.5, train_size = 200}
model = {name = "small_cnn", width = 4}
train = {epochs = 1, lr = 0.01}

[[quant]]
method = "ptq"
scheme = "asymmetric"
"""


def add(path: Path, before: str, text: str) -> None:
    """Put text before the one place where `before` stands."""
    code = path.read_text()
    assert code.count(before) == 1, f"{path}: {before}"
    path.write_text(code.replace(before, text + before))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the checkout that has one more runtime: its file, its row, and its name in `results`."""
    folder = tmp_path_factory.mktemp("extended")
    checkout = copy_checkout(folder / "checkout")
    (checkout / "quant" / "deploy" / "pretended.py").write_text(PRETENDED)
    add(checkout / "quant" / "deploy" / "runtimes.py", '    "tensorrt": Runtime(', ROW.lstrip("\n"))
    add(checkout / "results" / "schema.py", '"tensorrt")', '"pretended", ')
    make_links(checkout, checkout / ".links")
    (folder / "sweep.toml").write_text(SWEEP)
    return folder


# Three commands in one process, which imports torch once. The last line is [exit code, output] of each, as JSON.
PROGRAM = """
import json
from typer.testing import CliRunner
from quantfair.orchestrator.commands.app import app
from quantfair.results import Store

def run(*words):
    done = CliRunner().invoke(app, words)
    return done.exit_code, done.output + repr(done.exception or "")

done = [run("sweep", "sweep.toml", "--store", "store", "--executor", "inline")]
done.append(run("plan", "sweep.toml", "--store", "store"))
trial_id = next(row["trial_id"] for row in Store.open("store").read_manifest()["plan"] if row["method"] == "fp32")
done.append(run("export", "store", trial_id, "--runtime", "pretended", "--output", "out"))
print(json.dumps(done))
"""


def test_a_new_runtime_is_measured_compared_and_shipped(extended: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(extended / "checkout" / ".links")}
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, cwd=extended, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    done = json.loads(run.stdout.splitlines()[-1])
    assert [code for code, _ in done] == [0, 0, 0], done
    assert "pretended: 1 ok, 0 failed, 1 unsupported, 0 missing" in done[1][1]
    names = {path.name for path in (extended / "out").iterdir()}
    assert names == {"model.onnx", "model.pretended", "predict.py"}

    store = Store.open(str(extended / "store"))
    trials = store.read_table("trials").to_pandas().set_index("trial_id")
    rows = store.read_table("runtimes").to_pandas().query("runtime == 'pretended'").set_index("trial_id")
    statuses = rows.groupby(trials["method"].reindex(rows.index).to_numpy())["status"].agg(set)
    assert statuses.to_dict() == {"fp32": {"ok"}, "ptq": {"unsupported"}}
    reason = rows.loc[rows["status"] == "unsupported", "reason"].item()
    assert reason == 'scheme = "asymmetric": Pretended has scheme = "symmetric" alone'
    timed = rows.loc[rows["status"] == "ok"]
    assert (timed["p50_ms"] > 0).all()
    assert set(timed["batch"]) == {1, 256}
    groups = store.read_table("group_metrics").to_pandas()
    recall = groups.query("runtime == 'pretended' and metric == 'accuracy' and grouping == 'label'")
    assert set(recall.loc[recall["group"] == "0", "value"]) == {1.0}
    assert set(recall.loc[recall["group"] != "0", "value"]) == {0.0}
