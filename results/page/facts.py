"""Tables in, the same facts indexed for reading out, and the words for methods, bits and configurations.

Only what the page shows is read, in plain Python: the simulation (runtime torch), the test split, a few columns.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from statistics import fmean
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

Tables = Mapping[str, pa.Table]
Trial = dict[str, Any]  # one row of the table `trials`

RUNTIME: Final = "torch"
METHODS: Final = ("fp32", "fp32_ft", "ptq", "qat")
# Settings that tell configurations of one method and bits apart, with the words that stand before their values.
SETTINGS: Final = {
    "act_observer": "",
    "weight_observer": "weights ",
    "scheme": "",
    "granularity": "",
    "bn_fold": "BN ",
    "act_signed": "sign ",
    "preset": "preset ",
    "base": "base ",
    "init": "init ",
}


class Spread(NamedTuple):
    """The mean, the smallest and the largest value of `n` trials."""

    n: int
    mean: float
    low: float
    high: float


class Group(NamedTuple):
    """A group and its number of test images."""

    name: str
    n: int


class Pair(NamedTuple):
    """What a trial and its partner differ by in one group, in percentage points."""

    drop_pp: float | None
    low_pp: float | None
    high_pp: float | None
    eag_pp: float | None
    reason: str | None


@dataclass(frozen=True)
class Facts:
    """The tables, indexed for reading. Trials are in the order in which the page shows them."""

    trials: list[Trial]
    groups: dict[tuple[str, str], list[Group]]  # (dataset_id, grouping) -> largest first
    accuracies: dict[tuple[str, str], dict[str, float | None]]  # (trial_id, grouping) -> group -> accuracy
    pairs: dict[tuple[str, str, str], dict[str, Pair]]  # (trial_id, comparison, grouping) -> group -> pair
    disparities: dict[tuple[str, str, str, str], float | None]  # (trial_id, comparison, grouping, metric) -> pp
    provenance: dict[str, str]


def take_spread(values: Iterable[float | None]) -> Spread | None:
    """Return the spread of the values that are there; None if there are none."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    return Spread(len(found), fmean(found), min(found), max(found)) if found else None


def read_facts(tables: Tables) -> Facts:
    """Index the tables. Only the simulation (runtime torch) and the test split are read; a missing table is empty."""
    return Facts(
        trials=_read_trials(tables),
        groups=_read_groups(tables),
        accuracies=_read_accuracies(tables),
        pairs=_read_pairs(tables),
        disparities=_read_disparities(tables),
        provenance=dict(_rows(tables.get("provenance"), "key", "value")),
    )


def _rows(table: pa.Table | None, *columns: str, **equals: str) -> Iterator[tuple[Any, ...]]:
    """Yield the chosen columns of the rows where every `equals` holds."""
    if table is None:
        return iter(())
    conditions = [pc.field(column) == value for column, value in equals.items()]
    chosen = table.filter(reduce(and_, conditions)) if conditions else table
    return zip(*(chosen.column(column).to_pylist() for column in columns), strict=True)


def _read_trials(tables: Tables) -> list[Trial]:
    table = tables.get("trials")
    trials = table.drop_columns(["traceback"]).to_pylist() if table is not None else []
    _name_float_models(trials)
    return sorted(trials, key=lambda trial: (*order_of(trial), trial["seed"] or 0, trial["trial_id"]))


def _name_float_models(trials: list[Trial]) -> None:
    """Give every trial its `float_model`: the network with those settings, of it and its training, that vary.

    Float models that differ are never pooled. Settings of the quantization that have no column become entries of the
    trial, "quant epochs" and the like, so that they can name configurations.
    """
    peers: dict[tuple[str, str], list[tuple[Trial, dict[str, str]]]] = defaultdict(list)
    for trial in trials:
        peers[trial["dataset_id"], trial["task"]].append((trial, _flatten(trial["config"])))
    for alike in peers.values():
        names = sorted({name for _, settings in alike for name in settings} - {"model name"})
        varying = [name for name in names if len({settings.get(name) for _, settings in alike}) > 1]
        of_model = [name for name in varying if not name.startswith("quant ")]
        for trial, settings in alike:
            values = [f"{name.removeprefix('model ')} {settings.get(name, 'default')}" for name in of_model]
            trial["float_model"] = ", ".join([str(trial["model"] or ""), *values])
            trial.update({name: settings.get(name) for name in varying if name.startswith("quant ")})


def _flatten(config: str | None) -> dict[str, str]:
    """Return "section key" -> value of a trial's `config`; what has a column of its own is left out."""
    known = {"method", "weight_bits", "act_bits", *SETTINGS}
    sections = json.loads(config or "{}")
    return {
        f"{section} {key}": _say_value(value)
        for section in ("model", "train", "quant")
        for key, value in sections.get(section, {}).items()
        if section != "quant" or key not in known
    }


def _say_value(value: Any) -> str:
    """Return a setting's value in words: overrides become "conv1, weight_bits 8, fc, quantize False"."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_say_value(inner)}" for key, inner in value.items())
    return ", ".join(map(_say_value, value)) if isinstance(value, list) else str(value)


def _read_groups(tables: Tables) -> dict[tuple[str, str], list[Group]]:
    groups: dict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
    columns = ("dataset_id", "grouping", "group", "group_index", "n")
    for dataset_id, grouping, group, index, n in _rows(tables.get("groups"), *columns, split="test"):
        groups[dataset_id, grouping].append((-(n or 0), index or 0, group))
    return {key: [Group(name, -minus_n) for minus_n, _, name in sorted(found)] for key, found in groups.items()}


def _read_accuracies(tables: Tables) -> dict[tuple[str, str], dict[str, float | None]]:
    accuracies: dict[tuple[str, str], dict[str, float | None]] = defaultdict(dict)
    columns = ("trial_id", "grouping", "group", "class", "value")
    rows = _rows(tables.get("group_metrics"), *columns, runtime=RUNTIME, metric="accuracy")
    for trial_id, grouping, group, class_name, value in rows:
        if class_name is None:
            accuracies[trial_id, grouping][group] = value
    return dict(accuracies)


def _read_pairs(tables: Tables) -> dict[tuple[str, str, str], dict[str, Pair]]:
    pairs: dict[tuple[str, str, str], dict[str, Pair]] = defaultdict(dict)
    keys = ("trial_id", "comparison", "grouping", "group")
    values = ("drop_pp", "drop_ci_low_pp", "drop_ci_high_pp", "eag_pp", "reason")
    rows = _rows(tables.get("paired_metrics"), *keys, *values, runtime=RUNTIME)
    for trial_id, comparison, grouping, group, *facts in rows:
        pairs[trial_id, comparison, grouping][group] = Pair(*facts)
    return dict(pairs)


def _read_disparities(tables: Tables) -> dict[tuple[str, str, str, str], float | None]:
    """Index by comparison; the gap, which is of one trial alone, has the comparison ''."""
    columns = ("trial_id", "comparison", "grouping", "value")
    return {
        (trial_id, comparison or "", grouping, metric): value
        for metric in ("acc_gap_maxmin_pp", "drop_disparity_pp")
        for trial_id, comparison, grouping, value in _rows(
            tables.get("disparity"), *columns, runtime=RUNTIME, metric=metric
        )
    }


def name_variant(trial: Trial) -> str:
    """Return the method in words, with the base or the start where it is not the usual one."""
    method = trial["method"]
    if method == "ptq" and trial["base"] == "fp32_ft":
        return "PTQ on FP32-FT"
    if method == "qat" and trial["init"] == "scratch":
        return "QAT from scratch"
    return {"fp32": "FP32", "fp32_ft": "FP32-FT", "ptq": "PTQ", "qat": "QAT"}.get(method, str(method))


def name_bits(trial: Trial) -> str:
    """Return "8" for 8-bit weights and activations, "W4A8" where they differ, "FP32" for a float model."""
    weight_bits, act_bits = trial["weight_bits"], trial["act_bits"]
    if weight_bits is None and act_bits is None:
        return "FP32"
    return str(weight_bits) if weight_bits == act_bits else f"W{weight_bits or 32}A{act_bits or 32}"


def order_of(trial: Trial) -> tuple[Any, ...]:
    """Sort by data set, then method, then falling bits, then settings."""
    method = METHODS.index(trial["method"]) if trial["method"] in METHODS else len(METHODS)
    bits = (-(trial["weight_bits"] or 32), -(trial["act_bits"] or 32))
    names = tuple(trial[column] or "" for column in ("dataset", "task", "dataset_id", "float_model"))
    settings = tuple(trial[column] or "" for column in SETTINGS)
    return (*names, method, name_variant(trial), *bits, *settings, trial["config_id"] or "")


def _say_setting(column: str, value: Any) -> str:
    if column in SETTINGS:
        return SETTINGS[column] + str(value or "none")
    return f"{column.removeprefix('quant ')} {'default' if value is None else value}"


def name_configurations(trials: Sequence[Trial]) -> dict[str, str]:
    """Return for each config_id a short unique name: method, bits and the settings that vary within the method."""
    varying: dict[str, list[str]] = {}
    for variant in {name_variant(trial) for trial in trials}:
        same = [trial for trial in trials if name_variant(trial) == variant]
        columns = [*SETTINGS, *sorted({name for trial in same for name in trial if name.startswith("quant ")})]
        varying[variant] = [column for column in columns if len({trial.get(column) for trial in same}) > 1]
    names = {}
    for trial in trials:
        variant, bits = name_variant(trial), name_bits(trial)
        start = variant if bits == "FP32" else f"{variant} {bits}"
        settings = [_say_setting(column, trial.get(column)) for column in varying[variant]]
        names[trial["config_id"]] = ", ".join([start, *settings]).replace("_", " ")
    uses = defaultdict(set)
    for config_id, name in names.items():
        uses[name].add(config_id)
    return {id_: name if len(uses[name]) == 1 else f"{name} ({id_[:6]})" for id_, name in names.items()}
