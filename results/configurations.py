"""The words for methods, bits, float models and configurations: page and tables for papers call trials by them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import pyarrow as pa

from quantfair.results.schema import IMPORTED, SETTINGS

Trial = dict[str, Any]  # one row of the table `trials`

METHODS: Final = ("fp32", "fp32_ft", "ptq", "qat", IMPORTED)
# Settings that tell configurations of one method and bits apart, in the order in which a name has them.
_TOLD: Final = sorted((setting for setting in SETTINGS if setting.words is not None), key=lambda setting: setting.rank)
_WORDS: Final = {setting.name: setting.words for setting in _TOLD}
NAMING_COLUMNS: Final = tuple(setting.name for setting in _TOLD if setting.type is not None)
# The columns that have the value of a setting of the quantization also where it is the default.
_QUANT_COLUMNS: Final = tuple(
    setting.name
    for setting in sorted(SETTINGS, key=lambda setting: max(setting.rank, 0))  # contrasts come in this order
    if setting.type is not None and setting.path[0] == "quant"
)


def order_trials(table: pa.Table) -> list[Trial]:
    """Return the rows of the table `trials` in the order in which people read them, each with its `float_model`."""
    trials = table.drop_columns(["traceback"]).to_pylist()
    _name_float_models(trials)
    return sorted(trials, key=lambda trial: (*_order_of(trial), trial["seed"] or 0, trial["trial_id"]))


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
    sections = json.loads(config or "{}")
    return {
        f"{section} {key}": _format_value(value)
        for section in ("model", "train", "quant")
        for key, value in sections.get(section, {}).items()
        if section != "quant" or key not in _QUANT_COLUMNS
    }


def _format_value(value: Any) -> str:
    """Return a setting's value in words: overrides become "conv1, weight_bits 8, fc, quantize False"."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_format_value(inner)}" for key, inner in value.items())
    return ", ".join(map(_format_value, value)) if isinstance(value, list) else str(value)


def name_variant(trial: Trial) -> str:
    """Return the method in words, with the base or the start where it is not the usual one.

    Imported predictions have the name that they came with.
    """
    method = trial["method"]
    if method == IMPORTED:
        return json.loads(trial["config"])[IMPORTED]["name"]
    if method == "ptq" and trial["base"] == "fp32_ft":
        return "PTQ on FP32-FT"
    if method == "qat" and trial["init"] == "scratch":
        return "QAT from scratch"
    return {"fp32": "FP32", "fp32_ft": "FP32-FT", "ptq": "PTQ", "qat": "QAT"}.get(method, str(method))


def name_bits(trial: Trial) -> str:
    """Return "8" for 8-bit weights and activations, "W4A8" where they differ, "FP32" for a float model.

    Of imported predictions they are not known: "imported".
    """
    weight_bits, act_bits = trial["weight_bits"], trial["act_bits"]
    if trial["method"] == IMPORTED:
        return IMPORTED
    if weight_bits is None and act_bits is None:
        return "FP32"
    return str(weight_bits) if weight_bits == act_bits else f"W{weight_bits or 32}A{act_bits or 32}"


def _order_of(trial: Trial) -> tuple[Any, ...]:
    """Sort by data set, then method, then falling bits, then settings."""
    method = METHODS.index(trial["method"]) if trial["method"] in METHODS else len(METHODS)
    bits = (-(trial["weight_bits"] or 32), -(trial["act_bits"] or 32))
    names = tuple(trial[column] or "" for column in ("dataset", "task", "dataset_id", "float_model"))
    settings = tuple(trial[column] or "" for column in NAMING_COLUMNS)
    return (*names, method, name_variant(trial), *bits, *settings, trial["config_id"] or "")


def _is_told(column: str, value: Any) -> bool:
    return value != "auto" and (column in NAMING_COLUMNS or value is not None)


def _format_setting(column: str, value: Any) -> str:
    name = column.removeprefix("quant ")
    words = _WORDS.get(name)
    if words is None:  # a setting that nobody listed, such as one of a later version
        words = f"{name} "
    return words + str(value or "none")


def name_configurations(trials: Sequence[Trial]) -> dict[str, str]:
    """Return for each config_id a short unique name: method, bits and the settings that vary within the method.

    A setting is left out where it is "auto", or has no column of its own and is at its default.
    """
    varying: dict[str, list[str]] = {}
    for variant in {name_variant(trial) for trial in trials}:
        same = [trial for trial in trials if name_variant(trial) == variant]
        columns = [*NAMING_COLUMNS, *sorted({name for trial in same for name in trial if name.startswith("quant ")})]
        varying[variant] = [column for column in columns if len({trial.get(column) for trial in same}) > 1]
    names = {}
    for trial in trials:
        variant, bits = name_variant(trial), name_bits(trial)
        start = variant if bits in ("FP32", IMPORTED) else f"{variant} {bits}"
        told = [column for column in varying[variant] if _is_told(column, trial.get(column))]
        settings = [_format_setting(column, trial.get(column)) for column in told]
        names[trial["config_id"]] = ", ".join([start, *settings]).replace("_", " ")
    uses = defaultdict(set)
    for config_id, name in names.items():
        uses[name].add(config_id)
    return {id_: name if len(uses[name]) == 1 else f"{name} ({id_[:6]})" for id_, name in names.items()}


def name_within_models(trials: Sequence[Trial]) -> dict[str, str]:
    """Return the names of all configurations, each unique among those of its data set, task and float model."""
    peers: dict[tuple[str, ...], list[Trial]] = defaultdict(list)
    for trial in trials:
        peers[trial["dataset_id"], trial["task"], trial["float_model"]].append(trial)
    return {config_id: name for alike in peers.values() for config_id, name in name_configurations(alike).items()}


Row = Mapping[str, Any]


T = TypeVar("T")


class Config(NamedTuple):
    """One configuration: its trials by seed, what it is, and its settings as texts; of imported ones their name.

    `given` are the settings that its config names, all others being at their default.
    """

    config_id: str
    dataset_id: str
    role: str
    rows: dict[int, Row]
    data: dict[str, Any]
    training: str
    settings: dict[str, str]
    given: frozenset[str]

    def alike(self, *names: str) -> tuple[Any, ...]:
        """What configurations have in common that differ by these settings alone."""
        rest = frozenset(item for item in self.settings.items() if item[0] not in names)
        return self.dataset_id, self.training, self.method, rest

    @property
    def method(self) -> str:
        """fp32, fp32_ft, ptq, qat, or where else the predictions come from."""
        return next(iter(self.rows.values()))["method"]


def find_configs(trials: Iterable[Row]) -> list[Config]:
    """Return the configurations of finished trials in plan order. A row without a config_id belongs to none."""
    rows: dict[str, dict[int, Row]] = {}
    for row in trials:
        if row.get("config_id") is not None:
            rows.setdefault(row["config_id"], {})[row["seed"]] = row
    return [_make_config(config_id, by_seed) for config_id, by_seed in rows.items()]


def group_by_key(items: Iterable[tuple[Any, T]]) -> Iterator[list[T]]:
    """Yield the items that share a key, in the order of first appearance."""
    groups: dict[Any, list[T]] = {}
    for key, item in items:
        groups.setdefault(key, []).append(item)
    yield from groups.values()


def _make_config(config_id: str, rows: dict[int, Row]) -> Config:
    row = next(iter(rows.values()))
    config = json.loads(row.get("config") or "{}")
    quant = {name: value for name, value in config.get("quant", {}).items() if name != "method"}
    if IMPORTED in config:
        quant[IMPORTED] = config[IMPORTED]["name"]
    columns = {name: row.get(name) for name in _QUANT_COLUMNS if name != "method"}
    settings = {**quant, **{name: value for name, value in columns.items() if value is not None}}
    method = str(row["method"])
    role = "scratch" if row.get("init") == "scratch" else "control" if method == "fp32_ft" else method
    training = json.dumps([config.get("model"), config.get("train")], sort_keys=True)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    data = config.get("dataset", {})
    return Config(config_id, row["dataset_id"], role, rows, data, training, texts, frozenset(quant))
