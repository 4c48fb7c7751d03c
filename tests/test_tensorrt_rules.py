"""The rules for TensorRT, on graphs made by hand: no NVIDIA package is asked."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from qdq_graphs import ACCEPTED, CONV, INT4, REFUSED, GraphMaker, make_convnet, make_layer, make_matmul

from quantfair.quant import OnnxFileError, lint_for_tensorrt
from quantfair.quant.deploy.onnx_graph import Graph, read_onnx, weighted_layers
from quantfair.quant.deploy.tensorrt.rules import RULES


@pytest.mark.parametrize("name", ACCEPTED)
def test_graphs_that_tensorrt_computes_as_they_say_pass(name: str) -> None:
    onnx.checker.check_model(ACCEPTED[name][0])
    assert lint_for_tensorrt(ACCEPTED[name][0]) == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_violation_names_its_node_the_reason_and_the_remedy(name: str) -> None:
    model, pattern, _ = REFUSED[name]
    onnx.checker.check_model(model)
    with pytest.raises(ValueError, match=pattern):
        raise ValueError("\n".join(lint_for_tensorrt(model)))


@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        (make_matmul(INT4, None, axis=1), "weight_dq: INT4 and blocks need opset 21, the model has 19"),
        (make_matmul(axis=0, block=32), "weight_dq: INT4 and blocks need opset 21, the model has 19"),
    ],
)
def test_int4_and_blocks_need_opset_21(model: onnx.ModelProto, pattern: str) -> None:
    model.opset_import[0].version = 19
    assert pattern in "\n".join(lint_for_tensorrt(model))


def test_scales_and_zero_points_are_positive_constants() -> None:
    make = GraphMaker()
    shown = make.node("ReduceMax", "peak", "input", keepdims=0)
    zero = make.node("Cast", "zero", make.constant("nought", 0.0), to=TensorProto.INT8)
    x = make.node("QuantizeLinear", "q", "input", shown, zero)
    model = make.model(make.node("DequantizeLinear", "dq", x, shown, zero), (16, 8, 8))
    violations = "\n".join(lint_for_tensorrt(model))
    assert "q: its scale is computed; calibrate and freeze the model" in violations
    assert "q: its zero point is computed; make it a constant 0" in violations
    dead = "\n".join(lint_for_tensorrt(make_layer("Conv", *CONV, scale=0.0)))
    assert "in_q: a scale is not above 0; freeze the model" in dead


def test_graphs_inside_the_graph_are_refused_as_no_rule_sees_them() -> None:
    make = GraphMaker()
    truth = make.constant("truth", True, TensorProto.BOOL)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["inner"])],
        "branch", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = make.model(make.node("If", "choice", truth, then_branch=branch, else_branch=branch), (16, 8, 8))
    assert "choice is If, control flow: export a model whose forward has none" in lint_for_tensorrt(model)
    model = make_convnet()
    model.functions.append(helper.make_function("own", "hidden", ["x"], ["y"], [], [helper.make_opsetid("", 21)]))
    assert "functions of its own (hidden): inline them" in "\n".join(lint_for_tensorrt(model))


def test_every_rule_is_broken_by_some_test_and_documented() -> None:
    models = [model for model, *_ in REFUSED.values()]
    broken = {rule for rule in RULES for model in models if list(rule(model, Graph(model)))}
    elsewhere = {"has_one_graph", "scales_are_positive_constants", "opset_has_the_types"}
    assert {rule.__name__ for rule in RULES} - {rule.__name__ for rule in broken} == elsewhere
    assert all(rule.__doc__ for rule in RULES)


def test_what_a_graph_asks_of_its_layers_is_read_from_its_quantizers() -> None:
    asked = [(one.layer, one.act_type, one.weight_type) for one in weighted_layers(Graph(make_convnet()))]
    assert asked == [(name, "INT8", "INT8") for name in ("conv1", "conv2", "fc")]
    (int4,) = weighted_layers(Graph(make_matmul(INT4, None, axis=1)))
    assert (int4.act_type, int4.weight_type, int4.dequantizer) == ("FLOAT", "INT4", "weight_dq")


def test_weights_may_be_floats_behind_a_quantizer() -> None:
    make = GraphMaker()
    scale = make.constant("scale", np.full(16, 0.01))
    quantized = make.node("QuantizeLinear", "wq", make.weight("w", CONV[1], None), scale, axis=0, output_dtype=INT4)
    weight = make.node("DequantizeLinear", "wdq", quantized, scale, axis=0)
    model = make.model(make.node("Conv", "layer", "input", weight), CONV[0])
    assert lint_for_tensorrt(model) == []
    assert [one.weight_type for one in weighted_layers(Graph(model))] == ["INT4"]


def test_files_that_are_no_models_are_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(OnnxFileError, match=r"model.onnx is no file: name an ONNX file"):
        read_onnx(path)
    for content in (b"", b"not a model" * 99, make_convnet().SerializeToString()[:-200]):
        path.write_bytes(content)
        with pytest.raises(OnnxFileError, match=r"model.onnx is no valid ONNX model \(.*\): export it again"):
            read_onnx(path)
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse: takes no room
    with pytest.raises(OnnxFileError, match="larger than 2 GB, the end of a protobuf message: save its weights as ext"):
        read_onnx(path)
