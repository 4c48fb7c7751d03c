"""Real builds and refusals of tensorrt-rtx on a CPU: do they agree with the table and the rules? Nothing is executed.

The package is optional, so that builds are slow tests here; `test_trt_exports.py` has one that always runs. Without
the extra `trt-check` these tests are skipped, unless the variable QUANTFAIR_REQUIRE names "trt_aot".
"""

import json
import os
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper
from qdq_graphs import ACCEPTED, REFUSED, make_convnet
from typer.testing import CliRunner

from quantfair.orchestrator.commands.app import app
from quantfair.quant import TensorRTFailedError, check_ahead_of_time
from quantfair.quant.deploy.onnx_graph import Graph, weighted_layers
from quantfair.quant.deploy.tensorrt.build import Build, BuildRefusedError, build_plan
from quantfair.quant.deploy.tensorrt.inspection import compare_precisions, find_faults
from quantfair.quant.deploy.tensorrt.runtime import load_plan, why_unavailable

pytestmark = pytest.mark.trt_aot


def build(trt: Any, model: onnx.ModelProto, folder: Path, **options: Any) -> Build:
    onnx.save(model, folder / "model.onnx")
    return build_plan(trt, folder / "model.onnx", **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_what_the_rules_pass_builds_in_the_precision_asked_for(trt: Any, name: str, tmp_path: Path) -> None:
    model, precision = ACCEPTED[name]
    layers = compare_precisions(weighted_layers(Graph(model)), build(trt, model, tmp_path).layers)
    assert find_faults(layers) == []
    assert {layer.asked for layer in layers} == {precision}
    types = {"int8": {("Int8", "Int8")}, "float": {("Float", "Float")}, "int4 weights": {("Float", "Int4")}}
    assert {(layer.input_type, layer.weight_type) for layer in layers} == types[precision]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (_, _, builds) in REFUSED.items() if not builds])
def test_the_parser_or_the_builder_refuses_too_and_says_why(trt: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(BuildRefusedError, match=r"the (parser|builder) refused it: .*[a-z]{4}"):
        build(trt, REFUSED[name][0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (_, _, builds) in REFUSED.items() if builds])
def test_a_build_that_succeeds_proves_nothing(trt: Any, name: str, tmp_path: Path) -> None:
    assert len(build(trt, REFUSED[name][0], tmp_path).plan) > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["scale per channel of an activation", "scales of inputs, conv", "scales of inputs, gemm", "transposed conv"],
)
def test_int8_layers_that_came_out_float_are_faults_even_without_the_rules(trt: Any, name: str, tmp_path: Path) -> None:
    model = REFUSED[name][0]
    faults = find_faults(compare_precisions(weighted_layers(Graph(model)), build(trt, model, tmp_path).layers))
    assert len(faults) == 1
    assert faults[0].startswith("layer: int8 is asked for, but the engine computes it in ")


@pytest.mark.slow
def test_a_half_model_is_built_in_half(trt: Any, tmp_path: Path) -> None:
    model = make_convnet(None, None)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float16"), tensor.name))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    layers = compare_precisions(weighted_layers(Graph(model)), build(trt, model, tmp_path).layers)
    assert {(layer.input_type, layer.weight_type) for layer in layers} == {("Half", "Half")}


@pytest.mark.slow
def test_the_profile_is_that_of_open_batches_and_a_fixed_batch_stays(trt: Any, tmp_path: Path) -> None:
    opened = build(trt, make_convnet(), tmp_path, max_batch=64)
    assert opened.profile == ((1, 3, 16, 16), (64, 3, 16, 16), (64, 3, 16, 16))
    assert opened.input_name == "input"
    fixed = make_convnet()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    assert build(trt, fixed, tmp_path).profile == ((4, 3, 16, 16),) * 3
    fixed.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    with pytest.raises(
        BuildRefusedError, match=r"its input has shape \(4, 3, 16, -1\); only the batch may be left open"
    ):
        build(trt, fixed, tmp_path)


@pytest.mark.slow
def test_a_timing_cache_is_written_whole_and_may_be_of_another_kind(trt: Any, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of another version")
    first = build(trt, make_convnet(), tmp_path, timing_cache=cache)
    assert cache.read_bytes() != b"of another version"
    again = build(trt, make_convnet(), tmp_path, timing_cache=cache)
    assert len(again.layers) == len(first.layers)  # the log of the process was emptied in between
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "timing.cache"]


@pytest.mark.slow
def test_without_a_gpu_an_engine_is_no_error_of_pythons_but_of_ours(trt: Any, tmp_path: Path) -> None:
    if why_unavailable() is None:
        pytest.skip("there is a GPU here")
    plan = build(trt, make_convnet(), tmp_path).plan
    with pytest.raises(TensorRTFailedError, match=r"the engine cannot be loaded: .*CUDA"):
        load_plan(trt, plan)


@pytest.mark.slow
def test_a_check_in_a_process_of_its_own_reports_layers_or_reasons(trt: Any, tmp_path: Path) -> None:
    onnx.save(make_convnet(), tmp_path / "fine.onnx")
    fine = check_ahead_of_time(tmp_path / "fine.onnx")
    assert (fine.refused_by, fine.reasons, fine.version) == (None, (), trt.__version__)
    assert [layer.layer for layer in fine.layers] == ["conv1", "conv2", "fc"]
    onnx.save(REFUSED["w8a8 in blocks"][0], tmp_path / "blocks.onnx")  # which builds, and is wrong
    blocks = check_ahead_of_time(tmp_path / "blocks.onnx")
    assert blocks.refused_by == "rules"
    assert blocks.reasons[0].startswith("layer: a weight in blocks")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocks.onnx", "fine.onnx"]  # no engine is kept


def test_a_package_that_cannot_be_imported_ends_the_command_with_2_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(make_convnet(), tmp_path / "fine.onnx")
    (tmp_path / "tensorrt_rtx.py").write_text("raise ImportError('no such library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    told = CliRunner().invoke(app, ["trt-check", str(tmp_path / "fine.onnx")])
    assert told.exit_code == 2
    assert "tensorrt_rtx cannot be imported (no such library); install it" in told.stderr
    assert "pip install tensorrt-rtx" in told.stderr
    (tmp_path / "tensorrt_rtx.py").write_text("import os; os.abort()")
    died = check_ahead_of_time(tmp_path / "fine.onnx")
    assert (died.refused_by, died.layers) == ("build", ())
    assert died.reasons[0].startswith("the builder died (exit -6)")


def test_a_file_that_is_not_there_is_a_wrong_request(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["trt-check", str(tmp_path / "none.onnx")])
    assert told.exit_code == 2
    assert "`FILE.onnx` names no file" in told.stderr


@pytest.mark.slow
def test_the_command_tells_files_apart_and_ends_with_1_if_one_is_refused(trt: Any, tmp_path: Path) -> None:
    onnx.save(make_convnet(), tmp_path / "fine.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    runner = CliRunner()
    told = runner.invoke(app, ["trt-check", str(tmp_path / "fine.onnx")])
    assert told.exit_code == 0, told.output
    assert f"builds with tensorrt-rtx {trt.__version__} (a check; its engine is not kept)" in told.output
    assert "conv1  Conv          int8          Int8 x Int8 -> Float" in told.output
    told = runner.invoke(app, ["trt-check", str(tmp_path / "fine.onnx"), str(tmp_path / "broken.onnx"), "--json"])
    assert told.exit_code == 1
    assert [report["refused_by"] for report in json.loads(told.stdout)] == [None, "file"]
