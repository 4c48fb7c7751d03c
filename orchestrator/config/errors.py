"""Everything that is wrong with a sweep file, said at once, each with its path, the value and the remedy."""

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import Doc


class ConfigProblem(NamedTuple):
    """One thing that is wrong: where, and what to do about it."""

    path: str
    message: str
    where: str = ""  # such as "in utkface", if it is not in the file that was named

    def __str__(self) -> str:
        text = f"`{self.path}` {self.message}" if self.path else self.message
        return f"{text} ({self.where})" if self.where else text


class RequestError(ValueError):
    """The request was wrong: nothing was started. Holds every problem that was found."""

    def __init__(self, problems: Iterable[ConfigProblem], source: str = ""):
        self.problems = tuple(dict.fromkeys(problems))
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        head = f"{count} in {source}:" if source else f"{count}:"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known name, or nothing."""
    near = difflib.get_close_matches(str(value), list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def describe_errors(
    error: ValidationError, model: type[BaseModel], path: str, data: Any, *, also_known: Iterable[str] = ()
) -> list[ConfigProblem]:
    """Translate pydantic's errors on `model` for `data`, which stands at `path`; `also_known`: shorthand keys."""
    return [_describe(details, model, path, data, also_known) for details in error.errors()]


def _describe(
    details: ErrorDetails, model: type[BaseModel], path: str, data: Any, also_known: Iterable[str]
) -> ConfigProblem:
    context: dict[str, Any] = details.get("ctx", {})
    added = [context["field"]] if "field" in context else []
    location = [*_as_written(details["loc"], data), *added]
    where = ".".join([path, *location] if path else location)
    value = context.get("value", details["input"])
    fields = [step for step in details["loc"] if isinstance(step, str)] + added
    field = fields[-1] if fields else ""
    model = _owner(model, fields)
    match details["type"]:
        case "extra_forbidden":
            known = [*model.model_fields, *also_known]
            return ConfigProblem(
                where, f"is not a known key.{did_you_mean(field, known)} Known here: {', '.join(known)}."
            )
        case "missing":
            purpose = model.model_fields[field].description
            return ConfigProblem(
                where, f"is missing; it must be {_rule(model, field)}{f', {purpose}' if purpose else ''}."
            )
        case "literal_error":
            known = [name.strip(" '") for name in context["expected"].replace(" or ", ",").split(",")]
            return ConfigProblem(
                where, f"must be one of {', '.join(known)}, got {value!r}.{did_you_mean(value, known)}"
            )
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return ConfigProblem(where, f"must be {_rule(model, field)}, got {value!r}.")
        case "misfit":
            return ConfigProblem(where, f"{context['message']}.{did_you_mean(value, context.get('known', ()))}")
        case "string_pattern_mismatch":
            return ConfigProblem(where, f"must match {context['pattern']}, got {value!r}.")
        case "finite_number":
            return ConfigProblem(where, f"must be {_rule(model, field)}, got {value!r}.")
        case kind if kind.endswith("_type"):
            return ConfigProblem(where, f"must be {_rule(model, field)}, got {value!r} ({_kind(value)}).")
        case _:
            return ConfigProblem(where, f"{details['msg']}, got {value!r}.")


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
}


_SHORTHANDS = {"weight_bits": "bits", "act_bits": "bits"}


def _as_written(steps: Iterable[int | str], data: Any) -> list[str]:
    """Return the steps into `data` as a file writes them: by the keys of a table that was read as pairs."""
    written, place, rest = [], data, list(steps)
    while rest:
        step = rest.pop(0)
        if isinstance(place, dict) and isinstance(step, int):
            step = list(place)[step]
            rest = rest[1:]  # 0 for the key, 1 for the value
        elif isinstance(place, dict) and isinstance(step, str) and step not in place:
            step = _SHORTHANDS[step] if _SHORTHANDS.get(step) in place else step
        is_bare = isinstance(step, int) or re.fullmatch(r"[\w-]+", step)
        written.append(str(step) if is_bare else f'"{step}"')
        place = place.get(step) if isinstance(place, dict) else None
    return written


def _owner(model: type[BaseModel], fields: list[str]) -> type[BaseModel]:
    """The model that holds the last field: tables may hold tables."""
    for field in fields[:-1]:
        model = _inner_model(model.model_fields[field].annotation) or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation, also in one such as `tuple[tuple[str, Model], ...]`."""
    if isinstance(annotation, type) and not get_origin(annotation):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((model for part in get_args(annotation) if (model := _inner_model(part))), None)


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _rule(model: type[BaseModel], field: str) -> str:
    """Say what a field takes, from its annotation: "a whole number in 2..16", "a list of texts"."""
    annotation, metadata = model.model_fields[field].annotation, model.model_fields[field].metadata
    if _inner_model(annotation):
        return "a table"
    if get_origin(annotation) is tuple:
        kinds = {"int": "whole numbers from 0 up", "float": "numbers"}
        return f"a list of {next((kinds[kind] for kind in kinds if kind in str(annotation)), 'texts')}"
    parts = [annotation, *get_args(annotation)]
    if bounded := next((part for part in parts if get_origin(part) is Annotated), None):  # such as `Bits | None`
        kind, info, *others = get_args(bounded)
        parts, metadata = [kind], [*info.metadata, *others]
    if said := next((item.documentation for item in metadata if isinstance(item, Doc)), None):
        return said
    kinds = [_KINDS[kind] for kind in parts if kind in _KINDS]
    bounds = {type(item).__name__: getattr(item, type(item).__name__.lower(), None) for item in metadata}
    return " ".join([kinds[0] if kinds else "a text", *_range(bounds)])


def _range(bounds: dict[str, Any]) -> list[str]:
    if bounds.get("Ge") is not None and bounds.get("Le") is not None:
        return [f"in {bounds['Ge']}..{bounds['Le']}"]
    signs = {"Ge": "at least", "Gt": "above", "Le": "at most", "Lt": "below"}
    said = [f"{word} {bounds[name]}" for name, word in signs.items() if bounds.get(name) is not None]
    return [" and ".join(said)] if said else []
