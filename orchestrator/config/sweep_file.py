"""A sweep's plain values: a built-in or a TOML file, what it extends, and `key=value` overrides on top.

A file with `extends` holds changes. Tables merge; a value or a list replaces that of the sweep it extends; and where
that has a list, a table with numbers for keys changes single elements: `quant.1.bits = [4]`, as on the command line.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from quantfair.orchestrator.config.errors import ConfigProblem, RequestError, did_you_mean

BUILT_IN_FOLDER = Path(__file__).parent.parent / "sweeps"
COMMAND_LINE = "on the command line"
SweepSource = str | Path | Mapping[str, Any]  # the name of a built-in sweep, a TOML file, or its values


class SweepFile(NamedTuple):
    """The values of a sweep, and which file (or the command line) set what stands at and below a path."""

    values: dict[str, Any]
    origins: dict[str, str]

    def locate(self, problem: ConfigProblem, source: str) -> ConfigProblem:
        """Return the problem with the place where its value was set, if that is not `source`."""
        steps = problem.path.split(".")
        paths = [".".join(steps[:n]) for n in range(len(steps), -1, -1)]
        origin = next((self.origins[path] for path in paths if path in self.origins), source)
        if origin == source or not problem.path:
            return problem
        return problem._replace(where=origin if origin == COMMAND_LINE else f"in {origin}")


def built_in_sweeps() -> list[str]:
    """Names of the sweep files that come with the program."""
    return sorted(path.stem for path in BUILT_IN_FOLDER.glob("*.toml"))


def is_file(path: str | Path) -> bool:
    """Whether there is such a file. Unlike pathlib's, it takes a word that is too long for a path: an override."""
    return os.path.isfile(path)


def name_source(source: SweepSource) -> str:
    """Return what errors call a source: the file or built-in sweep, or "the sweep" for a dict."""
    return "the sweep" if isinstance(source, Mapping) else str(source)


def read_sweep_file(source: SweepSource, overrides: Iterable[str] = ()) -> SweepFile:
    """Read a built-in sweep, a file or a dict, with everything it extends, and set `key=value` overrides.

    A dict extends files that are relative to the current folder.

    Raises:
        RequestError: a file is missing or no TOML, extends itself, or a path leads nowhere.
    """
    if isinstance(source, Mapping):
        file = _extend(deepcopy(dict(source)), name_source(source), folder=Path(), chain=())
    else:
        file = _read(str(source), folder=Path(), chain=())
    problems = apply_overrides(file.values, overrides)
    if problems:
        raise RequestError(problems, "the overrides")
    said = {".".join(map(_format_key, _steps(text.partition("=")[0]))): COMMAND_LINE for text in overrides}
    return file._replace(origins=_replace_origins(file.origins, said))


def check_overrides(overrides: Iterable[str]) -> list[str]:
    """Return the overrides as a list. Raises RequestError if it is one text, or a text has no `=`."""
    if isinstance(overrides, str):
        raise RequestError([ConfigProblem("overrides", f"must be a list of texts, got one: write [{overrides!r}].")])
    overrides = list(overrides)
    strangers = [word for word in overrides if "=" not in word]
    if strangers:
        raise RequestError([ConfigProblem(word, "is no override: write it as key=value.") for word in strangers])
    return overrides


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> list[ConfigProblem]:
    """Set each `path=value` in place; a value is read as TOML, and as plain text where it is none."""
    return [problem for text in overrides if (problem := _override(values, text))]


def _read(name: str, *, folder: Path, chain: tuple[str, ...]) -> SweepFile:
    """Read one file and, before it, what it extends. `chain`: the files that led here, by what they are called."""
    path = _find(name, folder, chain)
    called = name if path.parent == BUILT_IN_FOLDER else os.path.normpath(folder / name)
    if called in chain:
        way = " -> ".join([*chain[chain.index(called) :], called])
        raise RequestError(
            [ConfigProblem("extends", f"leads back to where it started: {way}; remove one of them.")], called
        )
    return _extend(_parse(path, called), called, folder=path.parent, chain=chain)


def _extend(changes: dict[str, Any], called: str, *, folder: Path, chain: tuple[str, ...]) -> SweepFile:
    """Return the values of a sweep on top of those that it extends. `called` is what errors call it."""
    if "extends" not in changes:
        return SweepFile(changes, {"": called})
    extended = changes.pop("extends")
    if not isinstance(extended, str):
        message = f"must be a text, a built-in sweep or a file relative to this one, got {extended!r}."
        raise RequestError([ConfigProblem("extends", message)], called)
    base = _read(extended, folder=folder, chain=(*chain, called))
    base.values.pop("name", None)  # each sweep has its own, since it names the store
    merge = _Merge()
    values = merge(base.values, changes)
    if merge.problems:
        raise RequestError(merge.problems, called)
    own = dict.fromkeys([*merge.replaced, "name"], called)
    return SweepFile(values, _replace_origins(base.origins, own))


def _find(name: str, folder: Path, chain: tuple[str, ...]) -> Path:
    """Return the file of a built-in sweep, or the one at a path that is relative to `folder`."""
    known = built_in_sweeps()
    path = BUILT_IN_FOLDER / f"{name}.toml" if name in known else folder / name
    if is_file(path):
        return path
    message = f"is neither a file nor a built-in sweep ({', '.join(known)}).{did_you_mean(name, known)}"
    if not chain:
        raise RequestError([ConfigProblem(name, message)])
    raise RequestError([ConfigProblem("extends", f"names {name!r}, which {message}")], chain[-1])


def _parse(path: Path, called: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RequestError([ConfigProblem(called, f"cannot be read: {error}.")]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError([ConfigProblem("", f"This is not TOML: {error}.")], called) from error


class _Merge:
    """Puts changes over values; afterwards `replaced` holds the paths that were set, `problems` what leads nowhere."""

    def __init__(self) -> None:
        self.replaced: list[str] = []
        self.problems: list[ConfigProblem] = []

    def __call__(self, base: Any, changes: Any, path: tuple[str, ...] = ()) -> Any:
        """Return `base` with `changes`, both at `path`; neither is touched."""
        if isinstance(changes, dict) and isinstance(base, dict):
            return base | {key: self._merge_item(base, key, change, path) for key, change in changes.items()}
        if isinstance(changes, dict) and isinstance(base, list):
            return self._change_elements(base, changes, path)
        self.replaced.append(".".join(path))
        return changes

    def _merge_item(self, base: dict[str, Any], key: str, change: Any, path: tuple[str, ...]) -> Any:
        return self(base.get(key), change, (*path, _format_key(key)))

    def _change_elements(self, base: list[Any], changes: dict[str, Any], path: tuple[str, ...]) -> list[Any]:
        merged = list(base)
        for key, change in changes.items():
            if _is_index(key, base):
                merged[int(key)] = self(base[int(key)], change, (*path, key))
            else:
                self.problems.append(_leads_nowhere(".".join([*path, key]), key, base))
        return merged


def _override(values: dict[str, Any], text: str) -> ConfigProblem | None:
    key, _, value = text.partition("=")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *parents, last = _steps(key)
    place: Any = values
    for step in parents:
        if _is_index(step, place):
            place = place[int(step)]
        elif isinstance(place, dict):
            place = place.setdefault(step, {})
        else:
            return _leads_nowhere(key, step, place)
    if _is_index(last, place):
        place[int(last)] = parsed
    elif isinstance(place, dict):
        place[last] = parsed
    else:
        return _leads_nowhere(key, last, place)
    return None


def _steps(key: str) -> list[str]:
    """Split a dotted key as TOML does: a pattern with dots stands in quotes."""
    try:
        place: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return key.split(".")
    steps = []
    while isinstance(place, dict):
        ((step, place),) = place.items()
        steps.append(step)
    return steps


def _is_index(step: str, place: Any) -> bool:
    return isinstance(place, list) and step.isdecimal() and int(step) < len(place)


def _leads_nowhere(path: str, step: str, place: Any) -> ConfigProblem:
    what = f"a list of {len(place)} (count from 0)" if isinstance(place, list) else repr(place)
    return ConfigProblem(path, f"cannot be set: there is no '{step}' in {what}.")


def _format_key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key) else f'"{key}"'


def _replace_origins(origins: dict[str, str], changed: dict[str, str]) -> dict[str, str]:
    """Return who set what after `changed`, whose paths hide everything below them."""
    below = tuple(f"{path}." for path in changed)
    return {path: origin for path, origin in origins.items() if not path.startswith(below)} | changed
