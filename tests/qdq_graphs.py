"""Small Q/DQ graphs made by hand with onnx.helper: a convolution or a matrix product, quantized in many ways."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

RNG = np.random.default_rng(0)


def constant(name: str, kind: int, values: Any) -> TensorProto:
    array = np.asarray(values)
    return helper.make_tensor(name, kind, array.shape, array.flatten().tolist())


def save(
    folder: Path, nodes: list[NodeProto], constants: list[TensorProto], *shapes: list[Any], opset: int = 21
) -> Path:
    kinds = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip("xy", shapes, strict=True)]
    inputs, outputs = kinds[:1], kinds[1:]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path = folder / "graph.onnx"
    onnx.save(model, path)
    return path


def quantized_conv(
    folder: Path,
    *,
    weight: int = TensorProto.INT8,
    act: int | None = TensorProto.INT8,
    offset: int = 0,
    weight_offset: int = 0,
    by_channel: bool = False,
    opset: int = 21,
) -> Path:
    """A convolution of 8 channels with scales of its weights by channel."""
    nodes, constants, x = [], [], "x"
    if act is not None:
        scale = np.full(8, 0.05) if by_channel else 0.05
        zero = np.full(8, offset) if by_channel else offset
        constants += [constant("x_scale", TensorProto.FLOAT, scale), constant("x_zero", act, zero)]
        where: dict[str, Any] = {"axis": 1} if by_channel else {}
        nodes += [helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_q"], name="quantize_x", **where)]
        nodes += [
            helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x_dq"], name="dequantize_x", **where)
        ]
        x = "x_dq"
    constants += [
        constant("w", weight, RNG.integers(0, 7, (16, 8, 3, 3))),
        constant("w_scale", TensorProto.FLOAT, np.full(16, 0.01)),
        constant("w_zero", weight, np.full(16, weight_offset)),
    ]
    nodes += [
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_dq"], name="dequantize_w", axis=0),
        helper.make_node("Conv", [x, "w_dq"], ["y"], name="conv", pads=[1, 1, 1, 1]),
    ]
    return save(folder, nodes, constants, ["batch", 8, 8, 8], ["batch", 16, 8, 8], opset=opset)


def quantized_matmul(folder: Path, *, weight: int, act: int | None, block: int = 0) -> Path:
    """x of 128 features times a weight of 128 x 64, its scales by output or by blocks of inputs."""
    nodes, constants, x = [], [], "x"
    if act is not None:
        constants += [constant("x_scale", TensorProto.FLOAT, 0.05)]
        nodes += [helper.make_node("QuantizeLinear", ["x", "x_scale"], ["x_q"], name="quantize_x", output_dtype=act)]
        nodes += [helper.make_node("DequantizeLinear", ["x_q", "x_scale"], ["x_dq"], name="dequantize_x")]
        x = "x_dq"
    scale = np.full((128 // block, 64), 0.01) if block else np.full(64, 0.01)
    where: dict[str, Any] = {"axis": 0, "block_size": block} if block else {"axis": 1}
    constants += [constant("w", weight, RNG.integers(-7, 7, (128, 64))), constant("w_scale", TensorProto.FLOAT, scale)]
    nodes += [
        helper.make_node("DequantizeLinear", ["w", "w_scale"], ["w_dq"], name="dequantize_w", **where),
        helper.make_node("MatMul", [x, "w_dq"], ["y"], name="matmul"),
    ]
    return save(folder, nodes, constants, ["batch", 128], ["batch", 64])


def float_conv(folder: Path) -> Path:
    weight = constant("w", TensorProto.FLOAT, RNG.standard_normal((16, 8, 3, 3)))
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    return save(folder, [node], [weight], ["batch", 8, 8, 8], ["batch", 16, 6, 6])
