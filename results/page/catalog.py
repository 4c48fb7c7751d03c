"""The tables `trials`, `groups` and `choices` -> what the page calls things: data, configurations, groupings. Pure.

*Data* is a data set with its task, told from its other mixtures by what differs ("utkface, imbalance longtail:20"). A
configuration is *primary* if it is the one that val chose among those of its method, start and bits (`choices`), or
where val chose none, the first by name. So the page names one configuration without a look at the test images.
"""

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from quantfair.results.configurations import Trial, name_bits, name_configurations, name_variant, order_trials
from quantfair.results.schema import MIN_RANKED, TABLES

Tables = Mapping[str, pa.Table]
OVERALL: Final = "overall"
CONTAINS_ANSWER: Final = " (contains the answer: class-wise recall)"
QUANTIZED: Final = ("ptq", "qat")


class Group(NamedTuple):
    """A group with its numbers of test and training images."""

    name: str
    n: int
    n_train: int | None

    @property
    def is_ranked(self) -> bool:
        """Whether it is large enough to be called the worst."""
        return self.n >= MIN_RANKED


class Grouping(NamedTuple):
    """One way to split the test images; `by_class` says that its groups are the classes themselves.

    `contains_answer` says that who knows the group knows the answer, so its accuracies are recalls of classes.
    """

    name: str
    title: str
    groups: tuple[Group, ...]  # the largest first
    by_class: bool
    contains_answer: bool = False

    @property
    def heading(self) -> str:
        """What a column or a table of its verdicts is called: "ethnicity", or "class (contains the answer: ...)"."""
        return self.title + (CONTAINS_ANSWER if self.contains_answer else "")

    @property
    def noun(self) -> str:
        """What its groups are called."""
        return "class" if self.by_class else "group"

    @property
    def prefix(self) -> str:
        """What stands before the name of one in a sentence: "class 7"."""
        return "class " if self.by_class else ""

    @property
    def smallest(self) -> Group | None:
        """The smallest group that has test images."""
        found = [group for group in self.groups if group.n]
        return found[-1] if found else None


@dataclass(frozen=True)
class Config:
    """One configuration: its trials differ in the seed alone."""

    config_id: str
    data: "Data"
    method: str
    variant: str
    bits: str
    name: str
    trials: tuple[Trial, ...]
    is_primary: bool
    is_chosen: bool  # val chose it, or it is the only one

    @property
    def settings(self) -> str:
        """What its name says beside method and bits."""
        return self.name.partition(", ")[2]

    @property
    def ok(self) -> list[Trial]:
        """Its finished trials."""
        return [trial for trial in self.trials if trial["status"] == "ok"]

    @property
    def is_quantized(self) -> bool:
        """Whether it is PTQ or QAT."""
        return self.method in QUANTIZED


@dataclass(frozen=True)
class Data:
    """A data set, task and float model: what configurations may be compared within. `name` tells mixtures apart."""

    dataset_id: str
    name: str
    task: str
    network: str
    groupings: tuple[Grouping, ...] = field(compare=False)

    @property
    def title(self) -> str:
        """Data set, task and network."""
        return f"{self.name} · {self.task} · {self.network}"


@dataclass(frozen=True)
class Catalog:
    """Everything that has a name on the page, in the order in which people read it."""

    trials: list[Trial]
    configs: list[Config]
    data: list[Data]

    @cached_property
    def _by_id(self) -> dict[str, Config]:
        return {config.config_id: config for config in self.configs}

    def find(self, config_id: str | None) -> Config | None:
        """Return a configuration by its id."""
        return self._by_id.get(config_id or "")

    def call(self, data: Data) -> str:
        """Return the name of the data, with task and network where others have the same name."""
        return data.name if sum(one.name == data.name for one in self.data) == 1 else data.title


def make_catalog(tables: Tables) -> Catalog:
    """Read the three tables; one that is missing is empty."""
    trials = order_trials(take(tables, "trials"))
    answers = _find_answers(take(tables, "verdicts"), trials)
    groupings, names = _read_groupings(take(tables, "groups"), answers), _name_data(trials)
    data: dict[tuple[str, ...], Data] = {}
    of_config: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        key = _key(trial)
        data.setdefault(key, Data(key[0], names[key[0]], key[1], key[2], groupings.get(key[0], ())))
        of_config[trial["config_id"] or trial["trial_id"]].append(trial)
    primary = _find_primary(take(tables, "choices"), of_config)
    called = {
        config_id: name
        for one in data
        for config_id, name in name_configurations([trial for trial in trials if _key(trial) == one]).items()
    }
    configs = [
        Config(
            config_id=config_id,
            data=data[_key(same[0])],
            method=same[0]["method"],
            variant=name_variant(same[0]),
            bits=name_bits(same[0]),
            name=called.get(config_id, config_id),
            trials=tuple(same),
            is_primary=config_id in primary,
            is_chosen=primary.get(config_id, False),
        )
        for config_id, same in of_config.items()
    ]
    return Catalog(trials, configs, list(data.values()))


def take(tables: Tables, name: str) -> pa.Table:
    """Return a table, an empty one where there is none."""
    return tables[name] if name in tables else TABLES[name].empty_table()


def _key(trial: Trial) -> tuple[str, str, str]:
    return trial["dataset_id"] or "", trial["task"] or "", trial["float_model"]


def _find_answers(verdicts: pa.Table, trials: Sequence[Trial]) -> set[tuple[str, str]]:
    """Return the data sets and groupings in which a group contains the answer."""
    dataset_of = {trial["config_id"]: trial["dataset_id"] for trial in trials}
    rows = verdicts.filter(pc.field("contains_answer")).group_by(["config_id", "grouping"]).aggregate([])
    return {(dataset_of.get(row["config_id"], ""), row["grouping"]) for row in rows.to_pylist()}


def _read_groupings(table: pa.Table, answers: Container[tuple[str, str]]) -> dict[str, tuple[Grouping, ...]]:
    """Return the groupings of each data set but `overall`; of those that split all images alike the first.

    Those whose groups contain the answer come last, since the first one is what headlines are about.
    """
    sizes: dict[tuple[str, str], dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for row in table.to_pylist():
        sizes[row["dataset_id"], row["grouping"]][row["group"]][row["split"]] = row["n"] or 0
    found: dict[str, list[Grouping]] = defaultdict(list)
    for (dataset_id, name), groups in sizes.items():
        if name != OVERALL:
            made = [Group(group, n.get("test", 0), n.get("train")) for group, n in groups.items()]
            ordered = tuple(sorted(made, key=lambda group: -group.n))
            is_answer = (dataset_id, name) in answers
            found[dataset_id].append(Grouping(name, name, ordered, name == "label", is_answer))
    return {
        dataset_id: tuple(sorted(_drop_twins(groupings), key=lambda grouping: grouping.contains_answer))
        for dataset_id, groupings in found.items()
    }


def _drop_twins(groupings: Sequence[Grouping]) -> Iterable[Grouping]:
    """Yield attributes first, then the classes. An attribute that is the class itself is the grouping by class."""
    classes = next((grouping for grouping in groupings if grouping.by_class), None)
    alike = [g.name for g in groupings if classes and not g.by_class and sorted(g.groups) == sorted(classes.groups)]
    yield from (grouping for grouping in groupings if not grouping.by_class and grouping.name not in alike)
    if classes:
        yield classes._replace(title=f"class ({', '.join(alike)})" if alike else "class")


def _name_data(trials: Sequence[Trial]) -> dict[str, str]:
    """Return for each dataset_id the name of the data set and what tells it from others of that name and task."""
    settings: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for trial in trials:
        of_data = json.loads(trial["config"] or "{}").get("dataset", {})
        settings[trial["dataset"] or "", trial["task"] or ""][trial["dataset_id"] or ""] = of_data
    names = {}
    for (name, _), alike in settings.items():
        keys = sorted({key for one in alike.values() for key in one} - {"name", "imbalance", "imbalance_by"})
        told = {
            id_: {**{key: _format(key, one.get(key)) for key in keys}, "mixture": _format_mixture(one)}
            for id_, one in alike.items()
        }
        varying = [key for key in (*keys, "mixture") if len({texts[key] for texts in told.values()}) > 1]
        texts = {id_: ", ".join([name, *(one[key] for key in varying)]) for id_, one in told.items()}
        unique = len(set(texts.values())) == len(texts)
        names |= texts if unique else {id_: f"{text} ({id_[:6]})" for id_, text in texts.items()}
    return names


def _format(key: str, value: Any) -> str:
    """Return a setting of the data in words."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
    return f"{key.replace('_', ' ')} {text}"


def _format_mixture(settings: Mapping[str, Any]) -> str:
    """Return how even the training data are, as people call it."""
    kind, _, numbers = str(settings.get("imbalance") or "none").partition(":")
    by = f" by {settings['imbalance_by']}" if settings.get("imbalance_by") else ""
    if kind == "shares":
        shares = [f"{100 * float(share):g}" for share in numbers.split(",")]
        return f"equal shares{by}" if len(set(shares)) == 1 else f"shares {', '.join(shares)} %{by}"
    if kind == "longtail":
        ratio, _, is_reversed = numbers.partition(":")
        return f"{'reversed ' if is_reversed else ''}long tail {ratio}:1{by}"
    return "as it comes"


def _find_primary(choices: pa.Table, of_config: Mapping[str, Sequence[Trial]]) -> dict[str, bool]:
    """Return the config_ids that val chose, or of a method and bits of which it chose none the first by name.

    False says that this one is the first of several.
    """
    by_accuracy = choices.filter((pc.field("criterion") == "accuracy") & pc.field("config_id").is_valid())
    chosen = set(by_accuracy["config_id"].to_pylist())
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for config_id, trials in of_config.items():
        alike[(*_key(trials[0]), name_variant(trials[0]), name_bits(trials[0]))].append(config_id)
    primary = dict[str, bool]()
    for config_ids in alike.values():
        finished = [id_ for id_ in config_ids if any(trial["status"] == "ok" for trial in of_config[id_])]
        if finished:
            best = next((id_ for id_ in finished if id_ in chosen), None)
            primary[best or finished[0]] = best is not None or len(finished) == 1
    return primary
