"""What TensorRT documents of Q/DQ graphs, checked on the graph: no package of NVIDIA's is needed.

Each rule yields a sentence for every node that breaks it. Sources: NVIDIA, TensorRT documentation, "Working with
Quantized Types" (symmetric grids, INT4 for weights only, per-tensor scales of activations); onnx-tensorrt 10.1, the
parser (zero points, types; a UINT8 zero point is read as INT8); the two builds of tensorrt-rtx 1.7 that succeed with
scales that cannot be right: blocks of a weight beside a quantized other input, and INT4 activations.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

_TYPES: Final = {TensorProto.INT8: "INT8", TensorProto.INT4: "INT4"}
_PAIRED: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Graph:
    """A model's nodes, by what they make, and the constants they take. Its types are those of shape inference."""

    def __init__(self, model: onnx.ModelProto):
        inferred = onnx.shape_inference.infer_shapes(model)
        self.nodes = list(inferred.graph.node)
        self.opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.makers = {output: node for node in self.nodes for output in node.output}
        self.constants = {tensor.name: tensor for tensor in inferred.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.types |= {name: tensor.data_type for name, tensor in self.constants.items()}

    def pairs(self) -> Iterator[NodeProto]:
        """Yield every QuantizeLinear and DequantizeLinear."""
        return (node for node in self.nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear"))

    def integers(self, node: NodeProto) -> int:
        """Return the type of the integers of a Q or DQ node."""
        return self.types.get(node.output[0] if node.op_type == "QuantizeLinear" else node.input[0], 0)

    def is_weight(self, node: NodeProto) -> bool:
        """Whether a Q or DQ node is of a constant, directly or through the other one."""
        if node.input[0] in self.constants:
            return True
        maker = self.makers.get(node.input[0])
        return node.op_type == "DequantizeLinear" and maker is not None and maker.input[0] in self.constants

    def dequantizers(self, node: NodeProto) -> list[NodeProto]:
        """Return what dequantizes the first two inputs of a node."""
        makers = (self.makers.get(name) for name in node.input[:2])
        return [maker for maker in makers if maker is not None and maker.op_type == "DequantizeLinear"]


def lint_for_tensorrt(model: onnx.ModelProto) -> list[str]:
    """Return what TensorRT cannot represent of a model, a sentence with a remedy for each fault; none: it may build."""
    graph = Graph(model)
    return [f"{node.op_type} '{node.name}' {fault}" for rule in RULES for node, fault in rule(graph)]


Faults = Iterator[tuple[NodeProto, str]]


def _types_are_known(graph: Graph) -> Faults:
    for node in graph.pairs():
        if (kind := graph.integers(node)) not in _TYPES:
            name = TensorProto.DataType.Name(kind)
            remedy = "act_signed = 'always'" if name == "UINT8" else "bits = 8 and scheme = 'symmetric'"
            yield node, f"holds {name}, and TensorRT has INT8 and, for weights, INT4: set {remedy}"


def _zero_points_are_zero(graph: Graph) -> Faults:
    for node in graph.pairs():
        if len(node.input) < 3 or not node.input[2]:
            continue
        offset = graph.constants.get(node.input[2])
        if offset is None or np.any(numpy_helper.to_array(offset).astype(np.int64)):
            yield node, "has a zero point that is not 0, and TensorRT has none: set scheme = 'symmetric'"


def _activations_have_one_scale(graph: Graph) -> Faults:
    for node in graph.pairs():
        scale = graph.constants.get(node.input[1])
        if not graph.is_weight(node) and (scale is None or np.prod(scale.dims, dtype=int) != 1):
            yield node, "scales an activation by channel, which runs in float without a word: use one scale"


def _int4_is_of_weights(graph: Graph) -> Faults:
    for node in graph.pairs():
        if graph.integers(node) == TensorProto.INT4:
            if not graph.is_weight(node):
                yield node, "quantizes an activation to INT4, which TensorRT has for weights alone: set act_bits = 32"
            elif graph.opset < 21:
                yield node, f"holds INT4 at opset {graph.opset}: export at opset 21"


def _int4_weights_meet_float(graph: Graph) -> Faults:
    for node in graph.nodes:
        found = graph.dequantizers(node) if node.op_type in _PAIRED else []
        if len(found) == 2 and any(graph.integers(pair) == TensorProto.INT4 for pair in found):
            yield (
                node,
                "multiplies INT4 weights and a quantized input, with scales that come out wrong: set act_bits = 32",
            )


def _blocks_meet_float(graph: Graph) -> Faults:
    for node in graph.nodes:
        found = graph.dequantizers(node) if node.op_type in _PAIRED else []
        blocked = [p for p in found if any(a.name == "block_size" and a.i for a in p.attribute)]
        if len(found) == 2 and blocked:
            yield (
                node,
                "takes a weight in blocks and a quantized input: scales of blocks cannot follow the sum over them",
            )


def _int8_weights_meet_int8(graph: Graph) -> Faults:
    for node in graph.nodes:
        found = graph.dequantizers(node) if node.op_type in _PAIRED else []
        if len(found) == 1 and graph.is_weight(found[0]) and graph.integers(found[0]) == TensorProto.INT8:
            yield node, "has INT8 weights beside a float input, and runs in float: set act_bits = 8, or weight_bits = 4"


RULES: Final[tuple[Callable[[Graph], Faults], ...]] = (
    _types_are_known,
    _zero_points_are_zero,
    _activations_have_one_scale,
    _int4_is_of_weights,
    _int4_weights_meet_float,
    _blocks_meet_float,
    _int8_weights_meet_int8,
)


def find_int8_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes whose input and weight are both quantized: those that are to run in INT8."""
    graph = Graph(model)
    return [node.name for node in graph.nodes if node.op_type in _PAIRED and len(graph.dequantizers(node)) == 2]
