"""In what precision an engine computes each layer: read from a build log or from TensorRT's inspector, in one schema.

On a CPU the build log is the only source, on a GPU the inspector (`EngineInspector`) tells the same of the engine that
will run. Formats: the log is that of tensorrt-rtx 1.7.1, read on a CPU; the inspector's JSON is as documented for
TensorRT 10 and 11 ("Engine Inspector"; "Migrating IEngineInspector Usage"), and has never been read from a real engine.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from quantfair.quant.deploy.onnx_graph import WeightedLayer

_LINE: Final = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: (?P<inputs>.*?), Constants: (?P<constants>.*?), "
    r"Outputs: (?P<outputs>.*?), TacticName:.*?, Metadata: ?(?P<metadata>.*)"
)
_TENSOR: Final = re.compile(r"Dimensions: \[([^\]]*)\][^}]*?Datatype: (\w+)")
_NODE: Final = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_TYPE: Final = re.compile(r"\b(Int8|Int4|FP8|FP4|FP32|FP16|BF16|BFloat16|Float|Half|Int32|Int64|Bool)\b", re.IGNORECASE)
_ALIASES: Final = {"fp32": "Float", "float": "Float", "fp16": "Half", "half": "Half", "bfloat16": "BF16"}
# Generated element-wise kernels, shapes and copies: they carry the names of layers around them, and multiply nothing.
_NOT_COMPUTING: Final = ("kgen", "shape_call", "Reformat", "NoOp", "Shuffle", "Constant", "Quantize", "Dequantize")
_UNTOLD: Final = "runtime_fusion"  # casts inside: that its inputs are int8 does not say that it multiplies them


class EngineLayer(NamedTuple):
    """A layer of an engine. Types are the engine's words: Int8, Int4, Half, Float ...; "" where it does not say."""

    name: str
    kind: str
    input_type: str
    weight_type: str
    constant_types: tuple[str, ...]
    output_type: str
    onnx_nodes: tuple[str, ...]  # what it was made of


class LayerPrecision(NamedTuple):
    """What was asked of a layer of the model, and how the engine computes it. `fault`: why these do not agree."""

    layer: str
    operator: str
    asked: str  # "int8", "int4 weights" or "float"
    input_type: str
    weight_type: str
    output_type: str
    engine_layer: str
    fault: str | None


def parse_build_log(messages: Iterable[str]) -> list[EngineLayer]:
    """Return the layers that a build with detailed verbosity logged, in one message that starts with "Layers:"."""
    lists = [message for message in messages if message.startswith("Layers:")]
    return [_read_line(match) for text in lists[-1:] for line in text.splitlines() if (match := _LINE.match(line))]


def _read_line(match: re.Match[str]) -> EngineLayer:
    inputs, constants, outputs = (_TENSOR.findall(match[part]) for part in ("inputs", "constants", "outputs"))
    weights = [one for one in (*inputs[1:], *constants) if "-1" not in one[0]]
    largest = max(weights, key=lambda one: math.prod(int(size) for size in one[0].split(",")), default=("", ""))
    return EngineLayer(
        match["name"], match["kind"],
        input_type=inputs[0][1] if inputs else "",
        weight_type=largest[1],
        constant_types=tuple(kind for _, kind in constants),
        output_type=outputs[0][1] if outputs else "",
        onnx_nodes=tuple(_NODE.findall(match["metadata"])),
    )  # fmt: skip


def parse_inspector(text: str) -> list[EngineLayer]:
    """Return the layers in the JSON of `get_engine_information`. Raises ValueError where it holds names alone."""
    layers = json.loads(text).get("Layers", [])
    if any(isinstance(layer, str) for layer in layers):
        raise ValueError("the engine tells its layers' names alone: build it with ProfilingVerbosity.DETAILED")
    return [_read_record(layer) for layer in layers]


def _read_record(layer: dict[str, Any]) -> EngineLayer:
    inputs, constants, outputs = (layer.get(part, []) for part in ("Inputs", "Constants", "Outputs"))
    weights = layer.get("Weights") or {}
    others = [one for one in (*inputs[1:], *constants) if -1 not in one.get("Dimensions", [-1])]
    largest = max(others, key=lambda one: math.prod(one["Dimensions"]), default={})
    weight_type = _type_of(str(weights["Type"])) if "Type" in weights else _type_of_tensor(largest)
    nodes = _NODE.findall(layer.get("Metadata", "")) or layer.get("Name", "").split(" + ")
    return EngineLayer(
        layer.get("Name", ""), layer.get("LayerType", ""),
        input_type=_type_of_tensor(inputs[0]) if inputs else "",
        weight_type=weight_type,
        constant_types=(*map(_type_of_tensor, constants), *([weight_type] if "Type" in weights else [])),
        output_type=_type_of_tensor(outputs[0]) if outputs else "",
        onnx_nodes=tuple(nodes),
    )  # fmt: skip


def _type_of_tensor(tensor: dict[str, Any]) -> str:
    return _type_of(str(tensor.get("Datatype", tensor.get("DataType", tensor.get("Format/Datatype", "")))))


def _type_of(text: str) -> str:
    match = _TYPE.search(text)
    return _ALIASES.get(match[0].lower(), match[0]) if match else ""


def compare_precisions(asked: Iterable[WeightedLayer], engine: Sequence[EngineLayer]) -> list[LayerPrecision]:
    """Return how the engine computes each layer of the model, with a fault where it is not what the graph asks for."""
    return [_compare(layer, engine) for layer in asked]


def find_faults(precisions: Iterable[LayerPrecision]) -> list[str]:
    """Return a sentence for every layer that is not computed as asked."""
    return [f"{one.layer}: {one.fault}" for one in precisions if one.fault]


def _compare(layer: WeightedLayer, engine: Sequence[EngineLayer]) -> LayerPrecision:
    named = [one for one in engine if layer.layer in one.onnx_nodes]
    computing = [one for one in named if one.kind not in _NOT_COMPUTING]
    sources = (layer.layer, layer.dequantizer)
    stored = {kind for one in engine if any(node in sources for node in one.onnx_nodes) for kind in one.constant_types}
    asked, shown = _name_request(layer), next(iter(computing), None)
    fault = None
    if asked != "float" and shown is None:
        fault = f"{asked} is asked for, but no layer of the engine that computes names it, so that nothing shows it"
    elif asked == "int8" and not any(_is_int8(one) for one in computing):
        fault = f"int8 is asked for, but the engine computes it in {_describe(computing)}"
    elif asked == "int4 weights" and "Int4" not in stored:
        fault = f"int4 weights are asked for, but the engine stores {', '.join(sorted(stored)) or 'none'}"
    if shown is None:
        return LayerPrecision(layer.layer, layer.operator, asked, "", "", "", "", fault)
    weight_type = "Int4" if asked == "int4 weights" and fault is None else shown.weight_type
    types = {"input_type": shown.input_type, "weight_type": weight_type, "output_type": shown.output_type}
    return LayerPrecision(layer.layer, layer.operator, asked, **types, engine_layer=shown.name, fault=fault)


def _name_request(layer: WeightedLayer) -> str:
    if layer.weight_type == "INT4":
        return "int4 weights"
    return "int8" if (layer.act_type, layer.weight_type) == ("INT8", "INT8") else "float"


def _is_int8(layer: EngineLayer) -> bool:
    return layer.kind != _UNTOLD and (layer.input_type, layer.weight_type) == ("Int8", "Int8")


def _describe(layers: Iterable[EngineLayer]) -> str:
    return ", ".join(f"{one.input_type or '?'} x {one.weight_type or '?'} ({one.kind})" for one in layers)
