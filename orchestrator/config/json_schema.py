"""The JSON schema (draft 2020-12) of a sweep file, for editors: made from the specs, so that it cannot fall behind.

It says what one value may be, and not what two of them may be together: what it refuses the program refuses too, and
the program refuses more. Draft 2020-12: https://json-schema.org/draft/2020-12
"""

from typing import Any

from pydantic import BaseModel

from quantfair.datasets import DatasetSpec
from quantfair.orchestrator.config.spec import METHODS, SweepHead, is_list
from quantfair.quant import ModelSpec, TrainSpec

Schema = dict[str, Any]
SECTIONS: dict[str, type[BaseModel]] = {"dataset": DatasetSpec, "model": ModelSpec, "train": TrainSpec}
RECIPE = ["epochs", "lr"]  # QAT from scratch may leave them to `train`
ONE_ELEMENT = r"^[0-9]+$"
EXTENDS = "A built-in sweep, or a file relative to this one, that this file changes: tables merge, lists replace."


def make_schema() -> Schema:
    """Return the schema of a whole sweep file."""
    definitions: Schema = {}
    head = _read(SweepHead, definitions)
    sections = {name: _block(model, definitions) for name, model in SECTIONS.items()}
    methods = {name: _block(model, definitions) for name, model in METHODS.items()}
    experiment = {"type": "object", "properties": sections, "required": list(sections), "additionalProperties": False}
    lists = {"experiments": (experiment, _partial(experiment)), "quant": (_quant(methods), _any_method(methods))}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A sweep of Quantfair",
        "type": "object",
        "properties": {
            "extends": {"type": "string", "description": EXTENDS},
            **head["properties"],
            **{name: _list_or_changes(block, changes) for name, (block, changes) in lists.items()},
        },
        "required": ["name"],
        "anyOf": [{"required": ["extends"]}, {"required": ["seeds", "experiments"]}],
        "additionalProperties": False,
        "$defs": {name: _tidy(definition) for name, definition in definitions.items()},
    }


def _read(model: type[BaseModel], definitions: Schema) -> Schema:
    """Return pydantic's schema of a model; its definitions are put to the others."""
    schema = model.model_json_schema()
    definitions |= schema.pop("$defs", {})
    return _tidy(schema)


def _block(model: type[BaseModel], definitions: Schema) -> Schema:
    """Return the schema of a table in which any field may be a list, an axis, unless it is a list by nature."""
    schema = _read(model, definitions)
    fields = schema["properties"].items()
    schema["properties"] = {name: field if is_list(model, name) else _axis(field) for name, field in fields}
    return schema


def _axis(field: Schema) -> Schema:
    about = {key: field[key] for key in ("default", "description") if key in field}
    one = {key: value for key, value in field.items() if key not in about}
    return {**about, "anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


def _quant(methods: dict[str, Schema]) -> Schema:
    """Return the schema of a quant block: each method that it names must take all of it."""
    rules = []
    for name, block in methods.items():
        named = {"anyOf": [{"const": name}, {"type": "array", "contains": {"const": name}}]}
        then = {**block, "properties": {**block["properties"], "method": True}}
        if set(RECIPE) <= set(block["required"]):
            then["required"] = [field for field in block["required"] if field not in RECIPE]
            then["anyOf"] = [{"required": RECIPE}, {"required": ["init"]}]
        rules.append({"if": {"properties": {"method": named}, "required": ["method"]}, "then": then})
    return {**_any_method(methods), "required": ["method"], "allOf": rules}


def _any_method(methods: dict[str, Schema]) -> Schema:
    """Return a block with every field of any method, for editors that read no `if`, and for changes."""
    fields: dict[str, list[Schema]] = {"method": [_axis({"enum": list(methods)})]}
    for block in methods.values():
        for name, field in block["properties"].items():
            known = fields.setdefault(name, [])
            if name != "method" and field not in known:
                known.append(field)
    properties = {name: known[0] if len(known) == 1 else {"anyOf": known} for name, known in fields.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _list_or_changes(block: Schema, changes: Schema) -> Schema:
    """Return the schema of a list of blocks, or of changes by number to the list of the sweep that is extended."""
    numbered = {"type": "object", "patternProperties": {ONE_ELEMENT: changes}, "additionalProperties": False}
    return {"anyOf": [{"type": "array", "items": block}, numbered]}


def _partial(schema: Any) -> Any:
    """Return a schema that asks for no field."""
    if isinstance(schema, dict):
        return {key: _partial(value) for key, value in schema.items() if key != "required"}
    return [_partial(value) for value in schema] if isinstance(schema, list) else schema


def _with_bits(fields: Schema) -> Schema:
    """Return fields with the shorthand `bits`, where there are weight_bits and act_bits."""
    if not {"weight_bits", "act_bits"} <= fields.keys():
        return fields
    bits = {key: value for key, value in fields["weight_bits"].items() if key != "default"}
    return {"bits": {**bits, "description": "Sets weight_bits and act_bits."}, **fields}


def _tidy(schema: Any) -> Any:
    """Return a schema without what TOML has not (null) and without titles that only repeat names."""
    if isinstance(schema, list):
        return [_tidy(value) for value in schema if value != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    tidy = {key: _tidy(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    if tidy.get("default", 0) is None:
        del tidy["default"]
    if isinstance(tidy.get("properties"), dict):
        tidy["properties"] = _with_bits(tidy["properties"])
    return tidy
