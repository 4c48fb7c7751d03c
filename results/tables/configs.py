"""Rows of the table `trials` -> configurations: trials that differ in the seed alone, and what they share. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from quantfair.results.schema import IMPORTED

Row = Mapping[str, Any]
T = TypeVar("T")

_COLUMNS: Final = (  # of the table `trials`, which have the value of a setting also where it is the default
    *("weight_bits", "act_bits", "scheme", "granularity", "weight_observer", "act_observer", "bn_fold", "act_signed"),
    *("preset", "base", "init"),
)


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
    columns = {name: row.get(name) for name in _COLUMNS}
    settings = {**quant, **{name: value for name, value in columns.items() if value is not None}}
    method = str(row["method"])
    role = "scratch" if row.get("init") == "scratch" else "control" if method == "fp32_ft" else method
    training = json.dumps([config.get("model"), config.get("train")], sort_keys=True)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    data = config.get("dataset", {})
    return Config(config_id, row["dataset_id"], role, rows, data, training, texts, frozenset(quant))
