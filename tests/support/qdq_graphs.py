"""Small Q/DQ graphs made by hand with onnx.helper: what an export writes, and what it never should."""

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

INT4, INT8, INT16, UINT8 = TensorProto.INT4, TensorProto.INT8, TensorProto.INT16, TensorProto.UINT8


class GraphMaker:
    """Collects nodes and constants; every method returns the name of a tensor."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._random = np.random.default_rng(0)

    def constant(self, name: str, values: Any, data_type: int = TensorProto.FLOAT) -> str:
        array = np.asarray(values)
        if data_type == TensorProto.FLOAT:
            self.constants.append(numpy_helper.from_array(array.astype(np.float32), name))
        else:
            flat = array.astype(np.int32).flatten().tolist()
            self.constants.append(helper.make_tensor(name, data_type, array.shape, flat))
        return name

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def activation(
        self, tensor: str, name: str, data_type: int = INT8, *, scale: Any = 0.05, zero_point: int | None = None
    ) -> str:
        """Quantize and dequantize; with a zero point as an input where one is given."""
        scale_name = self.constant(f"{name}_scale", scale)
        axis = {"axis": 1} if np.ndim(scale) else {}
        if zero_point is None:
            quantized = self.node("QuantizeLinear", f"{name}_q", tensor, scale_name, output_dtype=data_type, **axis)
            return self.node("DequantizeLinear", f"{name}_dq", quantized, scale_name, **axis)
        zero = self.constant(f"{name}_zero", np.full(np.shape(scale), zero_point), data_type)
        quantized = self.node("QuantizeLinear", f"{name}_q", tensor, scale_name, zero, **axis)
        return self.node("DequantizeLinear", f"{name}_dq", quantized, scale_name, zero, **axis)

    def weight(
        self, name: str, shape: tuple[int, ...], data_type: int | None = INT8, *, axis: int | None = 0, block: int = 0
    ) -> str:
        """A constant: floats, or integers that are dequantized per tensor, per channel of `axis`, or in blocks."""
        if data_type is None:
            return self.constant(name, self._random.normal(size=shape, scale=0.05))
        scale_shape = [shape[axis]] if axis is not None else []
        if block and axis is not None:
            scale_shape = [size // block if i == axis else size for i, size in enumerate(shape)]
        scale = self.constant(f"{name}_scale", self._random.uniform(0.01, 0.02, scale_shape))
        integers = self.constant(name, self._random.integers(-7, 8, shape), data_type)
        where = {} if axis is None else {"axis": axis, "block_size": block} if block else {"axis": axis}
        return self.node("DequantizeLinear", f"{name}_dq", integers, scale, **where)

    def model(self, output: str, image: tuple[int, ...], *, opset: int = 21) -> onnx.ModelProto:
        """A model from `input`, of open batch and `image`, to `logits`, whose shape is inferred."""
        self.nodes.append(helper.make_node("Identity", [output], ["logits"], name="last"))
        graph = helper.make_graph(
            self.nodes, "graph",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *image])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
            initializer=self.constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        shape = onnx.shape_inference.infer_shapes(model).graph.output[0]
        model.graph.output[0].CopyFrom(shape)
        return model


def make_convnet(weight: int | None = INT8, act: int | None = INT8, *, axis: int | None = 0) -> onnx.ModelProto:
    """Two convolutions and a linear layer, all with these types; None: float."""
    make, x = GraphMaker(), "input"
    for name, shape in (("conv1", (32, 3, 3, 3)), ("conv2", (64, 32, 3, 3))):
        x = x if act is None else make.activation(x, f"{name}_in", act)
        bias = make.constant(f"{name}_bias", np.zeros(shape[0]))
        x = make.node("Conv", name, x, make.weight(f"{name}_weight", shape, weight, axis=axis), bias, strides=[2, 2])
        x = make.node("Relu", f"{name}_relu", x)
    x = make.node("Flatten", "flatten", make.node("GlobalAveragePool", "pool", x))
    x = x if act is None else make.activation(x, "fc_in", act)
    bias = make.constant("fc_bias", np.zeros(10))
    x = make.node("Gemm", "fc", x, make.weight("fc_weight", (10, 64), weight, axis=axis), bias, transB=1)
    return make.model(x, (3, 16, 16))


def make_layer(
    kind: str, image: tuple[int, ...], shape: tuple[int, ...], weight: int | None = INT8, act: int | None = INT8,
    *, axis: int | None = 0, block: int = 0, scale: Any = 0.05, zero_point: int | None = None, opset: int = 21,
    **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """One layer named "layer", whose input quantizer is "in_q"."""
    make = GraphMaker()
    x = "input" if act is None else make.activation("input", "in", act, scale=scale, zero_point=zero_point)
    weights = make.weight("weight", shape, weight, axis=axis, block=block)
    return make.model(make.node(kind, "layer", x, weights, **attributes), image, opset=opset)


def make_matmul(weight: int | None = INT8, act: int | None = INT8, *, axis: int = 1, block: int = 0) -> onnx.ModelProto:
    """One MatMul of 64 inputs and 32 outputs."""
    return make_layer("MatMul", (64,), (64, 32), weight, act, axis=axis, block=block)


def make_added() -> onnx.ModelProto:
    """A convolution whose output is added to its input, both quantized on one grid (`quantize_adds`)."""
    make = GraphMaker()
    x = make.node("Conv", "conv", make.activation("input", "in"), make.weight("w", (16, 16, 3, 3)), pads=[1, 1, 1, 1])
    both = make.activation(x, "left"), make.activation("input", "right")
    return make.model(make.node("Add", "add", *both), (16, 8, 8))


def make_transposed() -> onnx.ModelProto:
    """A MatMul with the transposed weight of a linear layer."""
    make = GraphMaker()
    weight = make.node("Transpose", "turn", make.weight("weight", (32, 64)), perm=[1, 0])
    return make.model(make.node("MatMul", "layer", make.activation("input", "in"), weight), (64,))


def make_clipped(low: float, high: float) -> onnx.ModelProto:
    """A Clip before the quantizer, whose scale is 0.05."""
    make = GraphMaker()
    x = make.node("Clip", "clip", "input", make.constant("low", low), make.constant("high", high))
    x = make.activation(x, "in")
    return make.model(make.node("Conv", "layer", x, make.weight("weight", (16, 16, 3, 3))), (16, 8, 8))


def make_bias_quantized() -> onnx.ModelProto:
    """A bias of int32, as ONNX Runtime's quantizer writes it."""
    make = GraphMaker()
    x, weight = make.activation("input", "in"), make.weight("weight", (16, 16, 3, 3))
    bias = make.constant("bias", np.ones(16), TensorProto.INT32)
    bias = make.node("DequantizeLinear", "bias_dq", bias, make.constant("bias_scale", np.full(16, 1e-3)), axis=0)
    return make.model(make.node("Conv", "layer", x, weight, bias), (16, 8, 8))


CONV = (16, 8, 8), (16, 16, 3, 3)
# What TensorRT takes: every layer with a weight comes out as the last word says.
ACCEPTED = {
    "fp32": (make_convnet(None, None), "float"),
    "w8a8": (make_convnet(), "int8"),
    "w8a8 per tensor": (make_convnet(axis=None), "int8"),
    "w8a8 with a zero point of 0": (make_layer("Conv", *CONV, zero_point=0), "int8"),
    "w8a8 conv1d": (make_layer("Conv", (16, 32), (32, 16, 3)), "int8"),
    "w8a8 conv3d": (make_layer("Conv", (16, 8, 8, 8), (32, 16, 3, 3, 3)), "int8"),
    "w8a8 depthwise": (make_layer("Conv", (32, 8, 8), (32, 1, 3, 3), group=32), "int8"),
    "w8a8 grouped": (make_layer("Conv", (12, 8, 8), (12, 3, 3, 3), group=4), "int8"),
    "w8a8 matmul": (make_matmul(), "int8"),
    "w8a8 transposed weight": (make_transposed(), "int8"),
    "w8a8 added": (make_added(), "int8"),
    "w8a8 behind relu6": (make_clipped(0, 6), "int8"),
    "int4 weights": (make_convnet(INT4, None), "int4 weights"),
    "int4 weights per tensor": (make_convnet(INT4, None, axis=None), "int4 weights"),
    "int4 weights in blocks": (make_matmul(INT4, None, axis=0, block=32), "int4 weights"),
    "int4 weights transposed conv": (
        make_layer("ConvTranspose", (16, 8, 8), (16, 32, 3, 3), INT4, None, axis=1), "int4 weights",
    ),
}  # fmt: skip
# What the rules refuse, with a pattern of what they say, and whether tensorrt-rtx 1.7.1 builds it all the same.
REFUSED = {
    "int16": (make_convnet(INT16, INT16), "conv1_in_q: TensorRT has no INT16", False),
    "uint8": (make_layer("Conv", *CONV, act=UINT8), "in_q: TensorRT has no UINT8.*act_signed = 'always'", False),
    "uint8 zero point": (make_layer("Conv", *CONV, act=UINT8, zero_point=0), "in_q: TensorRT has no UINT8", True),
    "zero point 3": (make_layer("Conv", *CONV, zero_point=3), "in_q: its zero point is not 0.*'symmetric'", False),
    "int32 bias": (make_bias_quantized(), "bias_dq: TensorRT has no INT32.* leave biases float", False),
    "scale per channel of an activation": (
        make_layer("Conv", *CONV, scale=np.linspace(0.01, 0.02, 16)), "in_q: an activation with 16 scales", True,
    ),
    "w4a8 conv": (make_convnet(INT4, INT8), "conv1: INT4 weights with INT8 activations.* set weight_bits = 8", False),
    "w4a8 matmul": (make_matmul(INT4, INT8), "layer: INT4 weights with INT8 activations", True),
    "w4a4 matmul": (make_matmul(INT4, INT4), "in_q: an INT4 activation.* set act_bits = 8 or 32", True),
    "w4a8 in blocks": (make_matmul(INT4, axis=0, block=32), "layer: a weight in blocks meets a quantized input", True),
    "w8a8 in blocks": (make_matmul(axis=0, block=32), "a weight in blocks .* take one scale per output channel", True),
    "int8 weights": (make_convnet(INT8, None), "conv1: INT8 weights with float activations.* act_bits = 8", True),
    "scales of inputs, conv": (
        make_layer("Conv", *CONV, axis=1), "layer: the scales of its weight lie on axis 1", True,
    ),
    "scales of inputs, gemm": (
        make_layer("Gemm", (64,), (32, 64), axis=1, transB=1), "layer: the scales of its weight lie on axis 1", True,
    ),
    "transposed conv": (
        make_layer("ConvTranspose", (16, 8, 8), (16, 32, 3, 3), axis=1),
        "layer: a quantized ConvTranspose is computed in float; leave it float", True,
    ),
    "6 bits": (make_clipped(-1.6, 1.55), "in_q: a Clip makes a grid of 6 bits of it.* set act_bits = 8", True),
}  # fmt: skip
