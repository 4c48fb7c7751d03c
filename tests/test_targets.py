"""What each runtime can represent: the table of settings, and the rules of TensorRT on graphs. No build is asked."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto
from qdq_graphs import float_conv, quantized_conv, quantized_matmul
from quant_digits import EXAMPLE, TRAIN, trained_model

from quant import Fp32FtSpec, Fp32Spec, PtqSpec, QatSpec, calibrate, export_onnx, find_unsupported, freeze, prepare
from quant.tensorrt_rules import find_int8_nodes, lint_for_tensorrt

SIGNED: dict[str, Any] = {"act_signed": "always"}
INT4: dict[str, Any] = {"weight_bits": 4, "act_bits": 32}
TABLE: list[tuple[dict[str, Any], str | None]] = [
    (SIGNED, None),
    ({**SIGNED, "granularity": "per_tensor"}, None),
    ({**SIGNED, "quantize_adds": True}, None),
    (INT4, None),
    ({**INT4, "granularity": "per_tensor"}, None),
    ({}, "takes the unsigned grids of activations for signed ones: set act_signed = 'always'"),
    ({"scheme": "asymmetric"}, "has no zero points: set scheme = 'symmetric'"),
    ({**INT4, "scheme": "asymmetric"}, "has no zero points"),
    ({**SIGNED, "weight_bits": 16, "act_bits": 16}, "has no W16A16: its integers have 8 bits at most; set bits = 8"),
    ({**SIGNED, "weight_bits": 4}, "has no W4A8: set bits = 8, or leave activations float with weight_bits = 4"),
    ({**SIGNED, "weight_bits": 4, "act_bits": 4}, "has no W4A4"),
    ({"act_bits": 32}, "has no W8A32: beside float activations its weights have 4 bits"),
    ({**SIGNED, "weight_bits": 6, "act_bits": 6}, "has no W6A6"),
    ({**SIGNED, "first_last_bits": 16}, "has no W16A16"),
    ({**INT4, "first_last_bits": 8}, "has no W8A32"),
    ({**SIGNED, "overrides": {"classifier": {"weight_bits": 4}}}, "has no W4A8"),
    ({**SIGNED, "overrides": {"classifier": {"quantize": False}}}, None),
]


@pytest.mark.parametrize(("settings", "reason"), TABLE, ids=str)
def test_tensorrt_takes_w8a8_signed_and_int4_weights_and_names_the_setting_to_change(
    settings: dict[str, Any], reason: str | None
) -> None:
    for spec in (PtqSpec(method="ptq", **settings), QatSpec(method="qat", epochs=1, lr=0.1, **settings)):
        found = find_unsupported(spec, "tensorrt")
        assert found is None if reason is None else reason in str(found)


def test_float_models_run_everywhere() -> None:
    for spec in (Fp32Spec(method="fp32"), Fp32FtSpec(method="fp32_ft", epochs=1, lr=0.1)):
        assert find_unsupported(spec, "onnxruntime") is find_unsupported(spec, "tensorrt") is None


@pytest.mark.parametrize("bits", [2, 3, 4, 7, 8, 12, 16])
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_onnxruntime_takes_every_grid(bits: int, scheme: Any) -> None:
    assert (
        find_unsupported(PtqSpec(method="ptq", weight_bits=bits, act_bits=bits, scheme=scheme), "onnxruntime") is None
    )


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_the_arithmetic_of_the_original_runs_nowhere_else(runtime: str) -> None:
    found = find_unsupported(PtqSpec(method="ptq", preset="iao", act_observer="percentile"), runtime)
    assert found == "preset = 'iao' rounds half away from zero, and ONNX half to even: set preset = 'none'"


# All but what no graph shows: 6 bits are stored in 8.
@pytest.mark.parametrize(("settings", "reason"), [row for row in TABLE if row[0].get("act_bits") != 6], ids=str)
def test_the_rules_say_of_an_exported_graph_what_the_table_says_of_its_settings(
    settings: dict[str, Any], reason: str | None, tmp_path: Path
) -> None:
    model = prepare(trained_model(), PtqSpec(method="ptq", **settings), EXAMPLE).model
    calibrate(model, [TRAIN.images_NCHW])
    freeze(model)
    export_onnx(model, EXAMPLE, tmp_path / "model.onnx", metadata={})
    assert bool(lint_for_tensorrt(onnx.load(tmp_path / "model.onnx"))) == (reason is not None)


def lint(path: Path) -> list[str]:
    return lint_for_tensorrt(onnx.load(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"act": TensorProto.UINT8}, "QuantizeLinear 'quantize_x' holds UINT8, .* set act_signed = 'always'"),
        ({"weight": TensorProto.INT16}, "DequantizeLinear 'dequantize_w' holds INT16, .* set bits = 8"),
        ({"weight": TensorProto.UINT4, "act": None}, "'dequantize_w' holds UINT4"),
        ({"offset": -10}, "'quantize_x' has a zero point that is not 0, .* set scheme = 'symmetric'"),
        ({"weight_offset": 3}, "'dequantize_w' has a zero point that is not 0"),
        ({"by_channel": True}, "'quantize_x' scales an activation by channel, .* use one scale"),
        ({"act": TensorProto.INT4}, "'quantize_x' quantizes an activation to INT4, .* set act_bits = 32"),
        (
            {"weight": TensorProto.INT4},
            "Conv 'conv' multiplies INT4 weights and a quantized input, .* set act_bits = 32",
        ),
        ({"act": None}, "Conv 'conv' has INT8 weights beside a float input, and runs in float: set act_bits = 8"),
    ],
)
def test_every_rule_names_the_node_and_the_remedy(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    import re

    found = lint(quantized_conv(tmp_path, **settings))
    assert any(re.search(message, fault) for fault in found), found


def test_int4_needs_its_opset(tmp_path: Path) -> None:
    found = lint(quantized_conv(tmp_path, weight=TensorProto.INT4, act=None, opset=19))
    assert found == ["DequantizeLinear 'dequantize_w' holds INT4 at opset 19: export at opset 21"]


@pytest.mark.parametrize(
    "make",
    [
        float_conv,
        quantized_conv,
        lambda folder: quantized_conv(folder, weight=TensorProto.INT4, act=None),
        lambda folder: quantized_matmul(folder, weight=TensorProto.INT8, act=TensorProto.INT8),
        lambda folder: quantized_matmul(folder, weight=TensorProto.INT4, act=None, block=32),
    ],
)
def test_what_tensorrt_documents_breaks_no_rule(make: Any, tmp_path: Path) -> None:
    assert lint(make(tmp_path)) == []


def test_builds_that_succeed_with_wrong_scales_are_refused(tmp_path: Path) -> None:
    blocked = lint(quantized_matmul(tmp_path, weight=TensorProto.INT4, act=TensorProto.INT8, block=32))
    assert any("'matmul' takes a weight in blocks and a quantized input" in fault for fault in blocked)
    blocked = lint(quantized_matmul(tmp_path, weight=TensorProto.INT8, act=TensorProto.INT8, block=32))
    assert [fault.split(":")[0] for fault in blocked] == [
        "MatMul 'matmul' takes a weight in blocks and a quantized input"
    ]
    four = lint(quantized_matmul(tmp_path, weight=TensorProto.INT4, act=TensorProto.INT4))
    assert any("quantizes an activation to INT4" in fault for fault in four)


def test_nodes_that_are_to_run_in_int8_are_those_with_two_quantized_inputs(tmp_path: Path) -> None:
    assert find_int8_nodes(onnx.load(quantized_conv(tmp_path))) == ["conv"]
    assert find_int8_nodes(onnx.load(quantized_conv(tmp_path, act=None))) == []
    assert find_int8_nodes(onnx.load(float_conv(tmp_path))) == []
