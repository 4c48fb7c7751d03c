"""The precision of every layer of a built engine: from a build log, or from TensorRT's inspector. Pure text work.

The log is all there is without a GPU: with detailed profiling and a verbose logger, one message begins with "Layers:".
Seen with tensorrt-rtx 1.7.1 (the log); the inspector's JSON is read as NVIDIA documents it, and was never seen here.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

COMPUTE_KINDS: Final = ("correlation", "gemm", "runtime_fusion")  # of the log; `kgen` are elementwise kernels
COMPUTE_WORDS: Final = re.compile(r"conv|gemm|matmul|matrix|fully|correlation", re.IGNORECASE)  # of the inspector
_LINE: Final = re.compile(
    r"Name: (?P<name>\S+), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>.*?), Constants: (?P<constants>.*?), "
    r"Outputs: (?P<outputs>.*?), TacticName:"
)
_TENSOR: Final = re.compile(r"Dimensions: \[[^\]]*\][^}]*?Datatype: (\w+)")


class EngineLayer(NamedTuple):
    """A layer of an engine: TensorRT's names of the types of its inputs, constants and outputs."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def computes(self) -> bool:
        """Whether it multiplies: elementwise kernels and changes of form do not count."""
        return self.kind in COMPUTE_KINDS or bool(COMPUTE_WORDS.search(self.kind))

    @property
    def precision(self) -> str:
        """The type of what it multiplies, such as Int8 or Float."""
        return self.inputs[0] if self.inputs else "unknown"


def read_build_log(messages: Iterable[str]) -> list[EngineLayer]:
    """Return the layers that a verbose build log lists."""
    listed = (message for message in messages if message.startswith("Layers:"))
    matches = (match for message in listed for line in message.splitlines() if (match := _LINE.match(line)))
    parts = ("inputs", "constants", "outputs")
    return [
        EngineLayer(match["name"], match["kind"], *(tuple(_TENSOR.findall(match[part])) for part in parts))
        for match in matches
    ]


def read_inspector(text: str) -> list[EngineLayer]:
    """Return the layers of `EngineInspector.get_engine_information(JSON)`. Raises ValueError for other text."""
    try:
        layers = json.loads(text)["Layers"]
        return [_read_layer(layer) for layer in layers]
    except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        remedy = "build with profiling_verbosity DETAILED"
        raise ValueError(f"the engine's inspector did not list layers with their types: {remedy}") from error


def _read_layer(layer: dict[str, Any]) -> EngineLayer:
    sides = (tuple(_name_type(tensor["Format/Datatype"]) for tensor in layer[side]) for side in ("Inputs", "Outputs"))
    inputs, outputs = sides
    constants = tuple(
        str(value["Type"]) for name, value in layer.items() if isinstance(value, dict) and "Type" in value
    )
    name = f"{layer['Name']} {layer.get('Metadata', '')}".strip()
    return EngineLayer(name, str(layer.get("LayerType", "")), inputs, constants, outputs)


def _name_type(text: str) -> str:
    """Return Int8, Half or Float from "Channel major INT8 format where ...", or the text itself."""
    names = {"int8": "Int8", "int4": "Int4", "half": "Half", "fp16": "Half", "float": "Float", "fp32": "Float"}
    return next((name for word, name in names.items() if word in text.lower()), text)


def find_float_layers(layers: Iterable[EngineLayer], int8_nodes: Iterable[str]) -> list[str]:
    """Return what was to run in INT8 and does not: ONNX nodes by name where the engine keeps their names.

    An engine that fuses nodes keeps no names of them; then the layers in float are named, if fewer run in INT8 than
    were to.
    """
    computing, int8_nodes = [layer for layer in layers if layer.computes], list(int8_nodes)
    in_float = [layer for layer in computing if layer.precision != "Int8"]
    named = [node for node in int8_nodes if any(_has_node(layer.name, node) for layer in in_float)]
    n_int8 = len(computing) - len(in_float)
    if named or n_int8 >= len(int8_nodes):
        return named
    return [f"{layer.name} ({layer.precision})" for layer in in_float] or ["no layer that computes was found"]


def _has_node(layer: str, node: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(node)}(?![0-9])", layer) is not None
