"""Whether TensorRT would compute what an ONNX graph says: its documented rules, checked without any NVIDIA package.

The answer counts more than a build, which may succeed and be wrong. Each rule names its source: [types] TensorRT's
documentation, "Working with Quantized Types"; [layer] its reference of IQuantizeLayer; [parser] onnx-tensorrt, its ONNX
parser; [log] build logs of tensorrt-rtx 1.7.1 on a CPU, where no engine was ever executed.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from quantfair.quant.deploy.onnx_graph import Graph, attribute, node_name, type_name, weighted_layers

Violations = Iterator[str]
LAYERS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SUPPORTED: Final = {TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1}


def lint_for_tensorrt(model: onnx.ModelProto) -> list[str]:
    """Return every violation of a rule, with its node, the reason and the remedy; none if nothing speaks against it."""
    graph = Graph(model)
    return [violation for rule in RULES for violation in rule(model, graph)]


def has_one_graph(model: onnx.ModelProto, graph: Graph) -> Violations:
    """Control flow and functions of the model would hide quantizers from the rules below, which see the main graph."""
    if model.functions:
        yield f"the model has functions of its own ({model.functions[0].name}): inline them before the export is saved"
    for node in graph.nodes:
        if any(one.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for one in node.attribute):
            yield f"{node_name(node)} is {node.op_type}, control flow: export a model whose forward has none"


def types_are_supported(_: onnx.ModelProto, graph: Graph) -> Violations:
    """[types] INT8, INT4, FP8E4M3 and FP4E2M1. [log] uint8 with a zero-point input builds, and is taken for int8."""
    for node in graph.operators("QuantizeLinear", "DequantizeLinear"):
        is_second = node.op_type == "DequantizeLinear" and graph.quantizer(node) is not None
        if not is_second and (data_type := graph.integer_type(node)) not in SUPPORTED:
            yield (
                f"{node_name(node)}: TensorRT has no {type_name(data_type)}, but INT8, and INT4 for weights alone; "
                "set bits = 8 and act_signed = 'always', and leave biases float"
            )


def zero_points_are_zero(_: onnx.ModelProto, graph: Graph) -> Violations:
    """[layer] "zeroPt must only contain zero-valued coefficients". [parser] shiftIsAllZeros."""
    for node in graph.operators("QuantizeLinear", "DequantizeLinear"):
        if len(node.input) < 3 or not node.input[2]:
            continue
        zero_point = graph.values(node.input[2])
        if zero_point is None:
            yield f"{node_name(node)}: its zero point is computed; make it a constant 0, or leave it out"
        elif np.any(zero_point.astype(np.int64)):
            yield f"{node_name(node)}: its zero point is not 0; quantize with scheme = 'symmetric'"


def scales_are_positive_constants(_: onnx.ModelProto, graph: Graph) -> Violations:
    """[layer] "All scale coefficients must have strictly positive values"; [parser] they are read when it is built."""
    for node in graph.operators("QuantizeLinear", "DequantizeLinear"):
        scale = graph.values(node.input[1])
        if scale is None:
            yield f"{node_name(node)}: its scale is computed; calibrate and freeze the model before it is exported"
        elif not np.all(scale.astype(np.float32) > 0):
            yield f"{node_name(node)}: a scale is not above 0; freeze the model, which floors its scales"


def activations_have_one_scale(_: onnx.ModelProto, graph: Graph) -> Violations:
    """[types] per channel and blocks are for weights. [log] a scale per channel of the input: computed in float."""
    for node in graph.operators("QuantizeLinear"):
        scale = graph.values(node.input[1])
        if node.input[0] not in graph.constants and scale is not None and scale.size > 1:
            yield f"{node_name(node)}: an activation with {scale.size} scales; give it one for the whole tensor"


def int4_is_for_weights(_: onnx.ModelProto, graph: Graph) -> Violations:
    """[types] "Weight-only quantization is supported for INT4". [log] W4A4 builds all the same: not trusted."""
    for node in graph.operators("QuantizeLinear"):
        if graph.integer_type(node) == TensorProto.INT4 and node.input[0] not in graph.constants:
            yield f"{node_name(node)}: an INT4 activation, where INT4 is for weights alone; set act_bits = 8 or 32"


def int4_weights_meet_float(_: onnx.ModelProto, graph: Graph) -> Violations:
    """[types] as above. [log] refused by the builder for a convolution; a MatMul builds, by casting INT4 to INT8."""
    for layer in weighted_layers(graph):
        if layer.weight_type == "INT4" and layer.act_type != "FLOAT":
            yield (
                f"{layer.layer}: INT4 weights with {layer.act_type} activations, where INT4 is for weights alone; "
                "set weight_bits = 8, or act_bits = 32"
            )


def int8_weights_meet_int8(_: onnx.ModelProto, graph: Graph) -> Violations:
    """[types] weight-only quantization is INT4's. [log] int8 weights alone: dequantized, computed in float."""
    for layer in weighted_layers(graph):
        if layer.weight_type == "INT8" and layer.act_type == "FLOAT":
            yield f"{layer.layer}: INT8 weights with float activations; set act_bits = 8, or weight_bits = 4"


def blocked_weights_meet_float(_: onnx.ModelProto, graph: Graph) -> Violations:
    """[log] W4A8 and W8A8 with `block_size` build with one sum over all blocks, and the scales of the blocks behind it.

    No scale of a block can be applied there any more: wrong numbers, silently.
    """
    for node in graph.operators(*LAYERS):
        first, second = graph.dequantizer(node.input[0]), graph.dequantizer(node.input[1])
        if first and second and any(attribute(one, "block_size", 0) for one in (first, second)):
            yield f"{node_name(node)}: a weight in blocks meets a quantized input; take one scale per output channel"


def scales_lie_on_output_channels(_: onnx.ModelProto, graph: Graph) -> Violations:
    """[types] "the quantization axis must be the output channel axis". [log] along the other one: computed in float."""
    for node in graph.operators(*LAYERS):
        weight = graph.dequantizer(node.input[1])
        if weight is None or not graph.is_constant(weight) or attribute(weight, "block_size", 0):
            continue
        scale, shape = graph.values(weight.input[1]), _shape_of_constant(graph, weight)
        if scale is None or scale.size <= 1 or graph.makers.get(node.input[1]) is not weight:
            continue  # one scale, or a transposed weight: its axis is not followed
        axis = attribute(weight, "axis", 1) % len(shape)
        if axis != _output_axis(node, len(shape)):
            yield f"{node_name(node)}: the scales of its weight lie on axis {axis}; put one on each output channel"


def transposed_convolutions_are_float(_: onnx.ModelProto, graph: Graph) -> Violations:
    """[log] a ConvTranspose of int8 values builds as a `deconv` of dequantized ones."""
    for layer in weighted_layers(graph):
        if layer.operator == "ConvTranspose" and layer.act_type != "FLOAT":
            yield f"{layer.layer}: a quantized ConvTranspose is computed in float; leave it float by `overrides`"


def grids_fill_their_type(_: onnx.ModelProto, graph: Graph) -> Violations:
    """[types] has no grid of other bits, for which a Clip to its bounds stands before QuantizeLinear.

    The Clip of a ReLU6 starts at 0, which no signed grid does.
    """
    for node in graph.operators("QuantizeLinear"):
        clip, scale = graph.makers.get(node.input[0]), graph.values(node.input[1])
        if clip is None or clip.op_type != "Clip" or scale is None or scale.size > 1 or len(clip.input) < 3:
            continue
        bounds = [graph.values(name) for name in clip.input[1:3]]
        if any(bound is None for bound in bounds):
            continue
        low, high = (float(bound) / float(scale.reshape(())) for bound in bounds if bound is not None)
        for bits in range(2, 8):
            if np.allclose((low, high), (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), rtol=1e-4):
                yield f"{node_name(node)}: a Clip makes a grid of {bits} bits of it, not TensorRT's 8; set act_bits = 8"


def opset_has_the_types(_: onnx.ModelProto, graph: Graph) -> Violations:
    """ONNX has INT4 and `block_size` in Q and DQ from opset 21, FP8 from 19 (ONNX Changelog)."""
    for node in graph.operators("QuantizeLinear", "DequantizeLinear"):
        is_new = graph.integer_type(node) == TensorProto.INT4 or attribute(node, "block_size", 0)
        if is_new and graph.opset < 21:
            yield f"{node_name(node)}: INT4 and blocks need opset 21, the model has {graph.opset}; export with opset 21"


def _shape_of_constant(graph: Graph, dequantizer: NodeProto) -> tuple[int, ...]:
    quantizer = graph.quantizer(dequantizer)
    return tuple(graph.constants[(dequantizer if quantizer is None else quantizer).input[0]].dims)


def _output_axis(node: NodeProto, ndim: int) -> int:
    if node.op_type == "MatMul":
        return ndim - 1
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


RULES: Final[tuple[Callable[[onnx.ModelProto, Graph], Violations], ...]] = (
    has_one_graph,
    types_are_supported,
    zero_points_are_zero,
    scales_are_positive_constants,
    activations_have_one_scale,
    int4_is_for_weights,
    int4_weights_meet_float,
    int8_weights_meet_int8,
    blocked_weights_meet_float,
    scales_lie_on_output_channels,
    transposed_convolutions_are_float,
    grids_fill_their_type,
    opset_has_the_types,
)
