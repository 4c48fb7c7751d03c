"""An ONNX file and its main graph, looked at from the outside: who makes a tensor, who takes it, what is a constant.

Needs onnx alone. Names of nodes are those that TensorRT's parser gives them, so that its words find their node.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import NodeProto, TensorProto, helper, numpy_helper

from quantfair.quant.deploy.runtimes import DeploymentError

LARGEST_MESSAGE_BYTES: Final = 2**31 - 1  # of protobuf
# What may stand between a DequantizeLinear and the layer that it belongs to, without computing anything.
PASSED_THROUGH: Final = ("Cast", "Identity", "Reshape", "Transpose", "Unsqueeze")


class OnnxFileError(DeploymentError):
    """A file that is no usable ONNX model; the message names it and the remedy."""


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read and check a model. Raises OnnxFileError for a missing, damaged or oversized file."""
    if not path.is_file():
        raise OnnxFileError(f"{path} is no file: name an ONNX file, such as one that `export` wrote")
    if path.stat().st_size > LARGEST_MESSAGE_BYTES:
        raise OnnxFileError(
            f"{path} is larger than 2 GB, the end of a protobuf message: save its weights as external data"
        )
    try:
        model = onnx.load(path)
        onnx.checker.check_model(str(path))
    except (DecodeError, onnx.checker.ValidationError, ValueError, FileNotFoundError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise OnnxFileError(f"{path} is no valid ONNX model ({reason}): export it again") from error
    return model


def node_name(node: NodeProto) -> str:
    """The name of a node, or what TensorRT's parser calls a node without one."""
    return node.name or f"node_of_{node.output[0]}"


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute, or `default`."""
    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


class Graph:
    """Look-ups in the main graph of a model."""

    def __init__(self, model: onnx.ModelProto):
        self.opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
        self.nodes = list(model.graph.node)
        self.makers = {output: node for node in self.nodes for output in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.constants |= {
            node.output[0]: value
            for node in self.nodes
            if node.op_type == "Constant" and isinstance(value := attribute(node, "value"), TensorProto)
        }

    def values(self, name: str) -> np.ndarray | None:
        """The values of a constant; None where it is computed."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def operators(self, *kinds: str) -> Iterator[NodeProto]:
        """Yield the nodes of these kinds, in their order."""
        return (node for node in self.nodes if node.op_type in kinds)

    def source(self, name: str) -> NodeProto | None:
        """The node that a tensor comes from, seen through nodes that compute nothing."""
        node = self.makers.get(name)
        while node is not None and node.op_type in PASSED_THROUGH:
            node = self.makers.get(node.input[0])
        return node

    def dequantizer(self, name: str) -> NodeProto | None:
        """The DequantizeLinear that a tensor comes from, if any."""
        node = self.source(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def quantizer(self, dequantizer: NodeProto) -> NodeProto | None:
        """The QuantizeLinear before a DequantizeLinear, if any."""
        node = self.source(dequantizer.input[0])
        return node if node is not None and node.op_type == "QuantizeLinear" else None

    def is_constant(self, dequantizer: NodeProto) -> bool:
        """Whether a DequantizeLinear is of a constant, of integers or of floats behind a QuantizeLinear."""
        quantizer = self.quantizer(dequantizer)
        return (dequantizer if quantizer is None else quantizer).input[0] in self.constants

    def integer_type(self, node: NodeProto) -> int:
        """The data type (TensorProto.DataType) of the integers on the quantized side of a Q or DQ node."""
        if node.op_type == "DequantizeLinear":
            quantizer = self.quantizer(node)
            tensor = self.constants.get(node.input[0])
            if quantizer is not None:
                return self.integer_type(quantizer)
            if tensor is not None:
                return tensor.data_type
        if (zero_point := self._zero_point(node)) is not None:
            return zero_point.data_type
        return attribute(node, "output_dtype", 0) or TensorProto.UINT8  # what ONNX takes where nothing is said

    def _zero_point(self, node: NodeProto) -> TensorProto | None:
        return self.constants.get(node.input[2]) if len(node.input) > 2 else None


class WeightedLayer(NamedTuple):
    """A layer that multiplies by a weight, as the graph asks for it. Types are those of ONNX, such as "INT8"."""

    layer: str  # the name of its node
    operator: str
    act_type: str  # "FLOAT" where the input is not quantized
    weight_type: str  # "FLOAT" where the weight is not
    dequantizer: str | None  # the name of the node that dequantizes its weight


def weighted_layers(graph: Graph) -> Iterator[WeightedLayer]:
    """Yield every Conv, ConvTranspose, Gemm and MatMul with a constant weight, in their order."""
    for node in graph.operators("Conv", "ConvTranspose", "Gemm", "MatMul"):
        activation, weight = graph.dequantizer(node.input[0]), graph.dequantizer(node.input[1])
        if weight is not None and not graph.is_constant(weight):
            weight = None  # a product of two activations
        act_type, weight_type = (
            "FLOAT" if one is None else type_name(graph.integer_type(one)) for one in (activation, weight)
        )
        dequantizer = None if weight is None else node_name(weight)
        yield WeightedLayer(node_name(node), node.op_type, act_type, weight_type, dequantizer)


def type_name(data_type: int) -> str:
    """Such as "INT8"."""
    return TensorProto.DataType.Name(data_type) if data_type in TensorProto.DataType.values() else str(data_type)
