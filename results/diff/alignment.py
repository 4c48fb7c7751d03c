"""The configurations of two stores -> which of them are the same, by what they say and not by their ids. Pure.

Ids change with the data, the weights and the engine. Two configurations of one method are aligned if data set, task,
network and bits are equal, and all settings that vary within these in either of the stores; settings that differ
everywhere alike, such as the epochs of all trainings, are what the two stores differ by.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from quantfair.results.configurations import Config

Settings = Mapping[str, str | None]
BITS: Final = ("quant.weight_bits", "quant.act_bits")
ONLY_HERE = "the other store has no such configuration"
ONLY_THERE = "this store has no such configuration"
SEVERAL = "several configurations of one store say the same: give the settings that tell them apart different values"


class Aligned(NamedTuple):
    """A configuration of this store and the one of the other store, or one alone with the reason."""

    here: Config | None
    there: Config | None
    reason: str | None = None


def align_configs(here: Sequence[Config], there: Sequence[Config]) -> list[Aligned]:
    """Return the configurations of this store in their order, then those that only the other one has."""
    pairs: list[Aligned] = []
    for peers in dict.fromkeys(map(_name_peers, (*here, *there))):
        pairs += _align_peers(*([config for config in side if _name_peers(config) == peers] for side in (here, there)))
    order = {config.config_id: place for place, config in enumerate(here)}
    return sorted(pairs, key=lambda pair: order[pair.here.config_id] if pair.here else len(order))


def _name_peers(config: Config) -> tuple[str | None, ...]:
    """Return what configurations must share before their settings are looked at: method, data set, task, network."""
    settings = describe_settings(config)
    return config.role, *(settings.get(name) for name in ("dataset.name", "dataset.task", "model.name"))


def _align_peers(here: Sequence[Config], there: Sequence[Config]) -> list[Aligned]:
    varied = {*BITS} | _find_varied(here) | _find_varied(there)
    mine, theirs = (_group(side, varied) for side in (here, there))
    pairs = []
    for key in dict.fromkeys((*mine, *theirs)):
        own, other = mine.get(key, []), theirs.get(key, [])
        if len(own) == len(other) == 1:
            pairs.append(Aligned(own[0], other[0]))
            continue
        several = SEVERAL if own and other else None
        pairs += [Aligned(config, None, several or ONLY_HERE) for config in own]
        pairs += [Aligned(None, config, several or ONLY_THERE) for config in other]
    return pairs


def _group(configs: Iterable[Config], names: set[str]) -> dict[Any, list[Config]]:
    found: dict[Any, list[Config]] = {}
    for config in configs:
        settings = describe_settings(config)
        found.setdefault(tuple((name, settings.get(name)) for name in sorted(names)), []).append(config)
    return found


def _find_varied(configs: Sequence[Config]) -> set[str]:
    settings = [describe_settings(config) for config in configs]
    names = {name for one in settings for name in one}
    return {name for name in names if len({one.get(name) for one in settings}) > 1}


def describe_settings(config: Config) -> dict[str, str]:
    """Return every setting of a configuration by its path: `dataset.task`, `train.epochs`, `quant.weight_bits`."""
    model, train = json.loads(config.training)
    parts = {"dataset": config.data, "model": model or {}, "train": train or {}, "quant": config.settings}
    return {f"{part}.{name}": _format(value) for part, values in parts.items() for name, value in values.items()}


def _format(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


class SettingDifference(NamedTuple):
    """A setting with its values in both stores, of the configurations of one method; None: at its default."""

    method: str
    setting: str
    here: str | None
    there: str | None


def list_setting_differences(pairs: Iterable[Aligned]) -> list[SettingDifference]:
    """Return what aligned configurations differ by, each difference once."""
    found: dict[SettingDifference, None] = {}
    for pair in pairs:
        if pair.here and pair.there:
            mine, theirs = describe_settings(pair.here), describe_settings(pair.there)
            for name in sorted({*mine, *theirs}):
                if mine.get(name) != theirs.get(name):
                    difference = SettingDifference(pair.here.method, name, mine.get(name), theirs.get(name))
                    found[difference] = None
    return list(found)
