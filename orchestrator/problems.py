"""Everything that is wrong with a sweep file, said at once, each with its path, the value and the remedy."""

import difflib
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeGuard, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


class Problem(NamedTuple):
    """One thing that is wrong: where, and what to do about it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"`{self.path}` {self.message}" if self.path else self.message


class RequestError(ValueError):
    """The request was wrong: nothing was started. Holds every problem that was found."""

    def __init__(self, problems: Iterable[Problem], source: str = ""):
        self.problems = tuple(dict.fromkeys(problems))
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        head = f"{count} in {source}:" if source else f"{count}:"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known name, or nothing."""
    near = difflib.get_close_matches(str(value), list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def describe_errors(
    error: ValidationError, model: type[BaseModel], path: str, *, also_known: Iterable[str] = ()
) -> list[Problem]:
    """Translate pydantic's errors on `model`, whose data stands at `path`; `also_known`: shorthand keys."""
    return [_describe(details, model, path, also_known) for details in error.errors()]


def _describe(details: ErrorDetails, model: type[BaseModel], path: str, also_known: Iterable[str]) -> Problem:
    context: dict[str, Any] = details.get("ctx", {})
    location = [str(step) for step in details["loc"]] + ([context["field"]] if "field" in context else [])
    where = ".".join([path, *location] if path else location)
    value = context.get("value", details["input"])
    fields = [step for step in location if not step.isdigit()]
    field = fields[-1] if fields else ""
    model = _owner(model, fields)
    match details["type"]:
        case "extra_forbidden":
            known = [*model.model_fields, *also_known]
            return Problem(where, f"is not a known key.{did_you_mean(field, known)} Known here: {', '.join(known)}.")
        case "missing":
            return Problem(where, f"is missing; it must be {_rule(model, field)}.")
        case "literal_error":
            known = [name.strip(" '") for name in context["expected"].replace(" or ", ",").split(",")]
            return Problem(where, f"must be one of {', '.join(known)}, got {value!r}.{did_you_mean(value, known)}")
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return Problem(where, f"must be {_rule(model, field)}, got {value!r}.")
        case "misfit":
            return Problem(where, f"{context['message']}.{did_you_mean(value, context.get('known', ()))}")
        case "string_pattern_mismatch":
            return Problem(where, f"must match {context['pattern']}, got {value!r}.")
        case "finite_number":
            return Problem(where, f"must be {_rule(model, field)}, got {value!r}.")
        case kind if kind.endswith("_type"):
            return Problem(where, f"must be {_rule(model, field)}, got {value!r} ({_kind(value)}).")
        case _:
            return Problem(where, f"{details['msg']}, got {value!r}.")


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
}


def _owner(model: type[BaseModel], fields: list[str]) -> type[BaseModel]:
    """The model that holds the last field: tables may hold tables."""
    for field in fields[:-1]:
        inner = model.model_fields[field].annotation
        if _is_model(inner):
            model = inner
    return model


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _rule(model: type[BaseModel], field: str) -> str:
    """Say what a field takes, from its annotation: "a whole number in 2..16", "a list of texts"."""
    annotation, metadata = model.model_fields[field].annotation, model.model_fields[field].metadata
    if get_origin(annotation) is tuple:
        kinds = {"int": "whole numbers from 0 up", "float": "numbers"}
        return f"a list of {next((kinds[kind] for kind in kinds if kind in str(annotation)), 'texts')}"
    if _is_model(annotation):
        return "a table"
    kinds = [_KINDS[kind] for kind in (annotation, *get_args(annotation)) if kind in _KINDS]
    bounds = {type(item).__name__: getattr(item, type(item).__name__.lower(), None) for item in metadata}
    return " ".join([kinds[0] if kinds else "a text", *_range(bounds)])


def _range(bounds: dict[str, Any]) -> list[str]:
    if bounds.get("Ge") is not None and bounds.get("Le") is not None:
        return [f"in {bounds['Ge']}..{bounds['Le']}"]
    signs = {"Ge": "at least", "Gt": "above", "Le": "at most", "Lt": "below"}
    said = [f"{word} {bounds[name]}" for name, word in signs.items() if bounds.get(name) is not None]
    return [" and ".join(said)] if said else []
