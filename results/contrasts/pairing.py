"""Configurations -> the contrasts that answer the questions people ask, each over all seeds. Pure.

A contrast is a drop of a configuration against another one: the accuracy of the other one minus its own, seed by seed.
The kinds:

- `A_vs_B` with a comparison: a trial against its reference or its control, as in `paired_metrics`. A and B are fp32,
  control (fp32_ft), ptq, qat, and scratch (QAT from the initial weights).
- `qat_vs_ptq`: QAT against PTQ of QAT's own control, every setting that both methods know being equal.
- `bits`, `weight_bits`, `act_bits`: fewer bits against the next more, all else being equal; `bits` where both are one.
- the name of any other setting of quantization: each value against the default, or the first one where that is absent.
- `data`: the drop under imbalanced training data minus that under balanced data of equal size, per comparison. Balanced
  are equal shares, or without them the data as they come.
- `runtime`: a configuration in a deployed runtime against itself in torch (`comparison` is `twin`): the deployment gap.
- `scratch_vs_churn`: the flips of QAT from scratch against the float models of *other* seeds. The drop of a seed is
  against its own float model: over all seeds the mean is that against the others too.

Beside the flips of every kind that has float models on the other side stands `churn`: what those change among
themselves from seed to seed, with no quantizer anywhere.
"""

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise, permutations
from typing import Any, Final, NamedTuple

from quantfair.results.configurations import Config, group_by_key
from quantfair.results.schema import COMPARISONS, IMPORTED, SETTINGS

RUNTIME: Final = "torch"
NO_SEED: Final = "no seed has a finished trial on both sides"
ONE_SEED: Final = "a float model of another seed is needed: give the sweep two seeds at least"
_BITS: Final = ("weight_bits", "act_bits")
# Settings that one method alone has, or that are equal by the control, whose recipe they are.
_OF_ONE_METHOD: Final = frozenset(setting.name for setting in SETTINGS if setting.only_of is not None)
CALIB_SEED: Final = "calib_seed"  # its values are exchangeable: see `spreads`


class Match(NamedTuple):
    """A trial beside another on the same images; its drop is the other's accuracy minus its own."""

    trial_id: str
    other_id: str


class Contrast(NamedTuple):
    """A question with its trials. `matches` has one match for each seed, and so has `subtracted` where there is one.

    The value of a seed is the drop of its match, less that of the subtracted one. `flips` are the matches whose flips
    are counted, `churn` those of float models among themselves. `reason` says why there is no seed.
    """

    kind: str
    dataset_id: str
    config_id: str
    other_config_id: str | None
    comparison: str | None = None
    level: str | None = None
    other_level: str | None = None
    seeds: tuple[int, ...] = ()
    matches: tuple[Match, ...] = ()
    subtracted: tuple[Match, ...] = ()
    flips: tuple[Match, ...] = ()
    churn: tuple[Match, ...] = ()
    reason: str | None = None
    runtime: str = RUNTIME

    @property
    def contrast_id(self) -> str:
        """What tells a contrast apart, readable."""
        runtime = None if self.runtime == RUNTIME else self.runtime
        parts = (self.kind, self.comparison, self.config_id, self.other_config_id, runtime)
        return ":".join(part for part in parts if part)

    @property
    def is_comparison(self) -> bool:
        """Whether it is a drop against the reference or the control, and no difference of two such drops."""
        return self.comparison is not None and self.kind != "data"

    def columns(self) -> dict[str, Any]:
        """The columns that say in every table which contrast a row is of, and over how many seeds."""
        names = ("contrast_id", "kind", "dataset_id", "comparison", "config_id", "other_config_id")
        return {"runtime": self.runtime, **{name: getattr(self, name) for name in names}, "n_seeds": len(self.seeds)}

    def without_trials(self, reason: str) -> "Contrast":
        """This contrast with no seed, and why."""
        return self._replace(seeds=(), matches=(), subtracted=(), flips=(), churn=(), reason=reason)


def find_contrasts(configs: Sequence[Config]) -> list[Contrast]:
    """Return all contrasts between configurations, of one data set or of several."""
    config_of = {row["trial_id"]: config for config in configs for row in config.rows.values()}
    return [
        *_against_float(configs, config_of),
        *_qat_against_ptq(configs),
        *_between_bits(configs),
        *_between_settings(configs),
        *_between_data(configs, config_of),
        *_against_churn(configs, config_of),
    ]


def name_deployed(runtime: str, trial_id: str) -> str:
    """Return what matches call the answers of a trial in a deployed runtime."""
    return f"{runtime}/{trial_id}"


def find_deployed(
    contrasts: Iterable[Contrast], configs: Iterable[Config], runtime: str, trial_ids: Container[str]
) -> Iterator[Contrast]:
    """Yield the comparisons of configurations in a deployed runtime, where `trial_ids` have answers.

    Against the reference and the control, which answer in torch, and against the configuration itself in torch.
    """
    for contrast in contrasts:
        if contrast.is_comparison and contrast.runtime == RUNTIME:
            pairs = zip(contrast.seeds, contrast.matches, strict=True)
            yield from _deploy(contrast, {seed: match for seed, match in pairs if match.trial_id in trial_ids}, runtime)
    for config in configs:
        matches = {seed: Match(row["trial_id"], row["trial_id"]) for seed, row in config.rows.items()}
        twin = Contrast("runtime", config.dataset_id, config.config_id, config.config_id, "twin", runtime, RUNTIME)
        yield from _deploy(twin, {s: match for s, match in matches.items() if match.trial_id in trial_ids}, runtime)


def _deploy(contrast: Contrast, by_seed: Mapping[int, Match], runtime: str) -> Iterator[Contrast]:
    """Yield the contrast over matches, by seed, whose trials answer in a deployed runtime, if there is one."""
    matches = tuple(Match(name_deployed(runtime, match.trial_id), match.other_id) for match in by_seed.values())
    if matches:
        churn = _pair_others(matches) if contrast.churn else ()
        yield contrast._replace(runtime=runtime, seeds=tuple(by_seed), matches=matches, flips=matches, churn=churn)


def _contrast(kind: str, config: Config, other: Config, *, level: str, other_level: str) -> Contrast:
    """Return the contrast of two configurations over the seeds that both have."""
    seeds = tuple(seed for seed in config.rows if seed in other.rows)
    matches = tuple(Match(config.rows[seed]["trial_id"], other.rows[seed]["trial_id"]) for seed in seeds)
    reason = None if seeds else NO_SEED
    return Contrast(
        kind,
        config.dataset_id,
        config.config_id,
        other.config_id,
        level=level,
        other_level=other_level,
        seeds=seeds,
        matches=matches,
        flips=matches,
        reason=reason,
    )


def _against_float(configs: Sequence[Config], config_of: Mapping[str, Config]) -> Iterator[Contrast]:
    for config in configs:
        for comparison in COMPARISONS:
            if not any(row[COMPARISONS[comparison]] for row in config.rows.values()):
                continue
            matches = _matches(config, comparison, config_of)
            if not matches:
                kind = f"{config.role}_vs_{comparison}"
                yield Contrast(kind, config.dataset_id, config.config_id, None, comparison, reason=NO_SEED)
                continue
            other = config_of[next(iter(matches.values())).other_id]
            pairs = tuple(matches.values())
            yield Contrast(
                f"{config.role}_vs_{other.role}",
                config.dataset_id,
                config.config_id,
                other.config_id,
                comparison,
                *(config.role, other.role),
                seeds=tuple(matches),
                matches=pairs,
                flips=pairs,
                churn=_pair_others(pairs),
            )


def _matches(config: Config, comparison: str, config_of: Mapping[str, Config]) -> dict[int, Match]:
    """The trials of a configuration with the finished trials that they are compared with, by seed."""
    others = {seed: row[COMPARISONS[comparison]] for seed, row in config.rows.items()}
    return {seed: Match(config.rows[seed]["trial_id"], other) for seed, other in others.items() if other in config_of}


def _pair_others(matches: Iterable[Match]) -> tuple[Match, ...]:
    """Return the other sides of the seeds, each beside each."""
    return tuple(Match(a, b) for a, b in combinations(dict.fromkeys(match.other_id for match in matches), 2))


def _qat_against_ptq(configs: Sequence[Config]) -> Iterator[Contrast]:
    def shared(config: Config) -> frozenset[tuple[str, str]]:
        return frozenset(item for item in config.settings.items() if item[0] not in _OF_ONE_METHOD)

    controls: dict[Any, list[Config]] = {}
    for config in configs:
        if config.role == "ptq" and config.settings.get("base") == "fp32_ft":
            for row in config.rows.values():
                controls.setdefault((row["reference_trial_id"], shared(config)), []).append(config)
    for qat in configs:
        if qat.role == "qat":
            keys = [(row["control_trial_id"], shared(qat)) for row in qat.rows.values()]
            ptqs = {ptq.config_id: ptq for key in keys for ptq in controls.get(key, ())}
            yield from (_contrast("qat_vs_ptq", qat, ptq, level="qat", other_level="ptq") for ptq in ptqs.values())


def _quantized(configs: Iterable[Config]) -> list[Config]:
    return [config for config in configs if config.method in ("ptq", "qat") and config.settings.get("weight_bits")]


def _between_bits(configs: Sequence[Config]) -> Iterator[Contrast]:
    quantized = _quantized(configs)
    as_one = [c for c in quantized if c.settings["weight_bits"] == c.settings["act_bits"]]
    for kind, chosen, varied in (
        ("bits", as_one, _BITS),
        ("weight_bits", quantized, ("weight_bits",)),
        ("act_bits", quantized, ("act_bits",)),
    ):
        for alike in group_by_key((config.alike(*varied), config) for config in chosen):
            falling = sorted(alike, key=lambda config: -int(config.settings[varied[0]]))
            for more, fewer in pairwise(falling):
                levels = [config.settings[varied[0]] for config in (fewer, more)]
                if levels[0] != levels[1]:
                    yield _contrast(kind, fewer, more, level=levels[0], other_level=levels[1])


def _between_settings(configs: Sequence[Config]) -> Iterator[Contrast]:
    quantized = _quantized(configs)
    names = dict.fromkeys(name for config in quantized for name in config.settings)
    for name in [name for name in names if name not in (*_BITS, CALIB_SEED)]:
        for alike in group_by_key((config.alike(name), config) for config in quantized):
            default = next((config for config in alike if name not in config.given), alike[0])
            for config in alike:
                levels = [c.settings.get(name, "default") for c in (config, default)]
                if levels[0] != levels[1]:
                    yield _contrast(name, config, default, level=levels[0], other_level=levels[1])


def _between_data(configs: Sequence[Config], config_of: Mapping[str, Config]) -> Iterator[Contrast]:
    def key(config: Config) -> tuple[Any, ...]:
        data = {name: value for name, value in config.data.items() if not name.startswith("imbalance")}
        parents = (config_of.get(row["reference_trial_id"]) for row in config.rows.values())
        parent = next(filter(None, parents), None) if config.method == IMPORTED else None  # else its settings say which
        return json.dumps(data, sort_keys=True), *config.alike()[1:], parent and parent.alike()[1:]

    for alike in group_by_key((key(config), config) for config in configs if config.data):
        as_they_come = (config for config in alike if "imbalance" not in config.data)
        balanced = next((config for config in alike if _has_equal_shares(config)), next(as_they_come, None))
        for config in alike:
            if balanced is None or config is balanced:
                continue
            for comparison in COMPARISONS:
                yield from _difference(config, balanced, comparison, config_of)


def _has_equal_shares(config: Config) -> bool:
    kind, _, shares = config.data.get("imbalance", "none").partition(":")
    return kind == "shares" and len(set(map(float, shares.split(",")))) == 1


def _mixture(config: Config) -> str:
    imbalance = config.data.get("imbalance", "none")
    return imbalance if imbalance == "none" else f"{imbalance} by {config.data.get('imbalance_by', 'label')}"


def _difference(
    config: Config, balanced: Config, comparison: str, config_of: Mapping[str, Config]
) -> Iterator[Contrast]:
    """Yield the drop under imbalanced data less that under balanced data, if the comparison is one of both."""
    if not all(any(row[COMPARISONS[comparison]] for row in c.rows.values()) for c in (config, balanced)):
        return
    here, there = (_matches(c, comparison, config_of) for c in (config, balanced))
    seeds = tuple(seed for seed in here if seed in there)
    ids = (config.dataset_id, config.config_id, balanced.config_id, comparison)
    yield Contrast(
        "data",
        *ids,
        level=_mixture(config),
        other_level=_mixture(balanced),
        seeds=seeds,
        matches=tuple(here[seed] for seed in seeds),
        subtracted=tuple(there[seed] for seed in seeds),
        reason=None if seeds else NO_SEED,
    )


def _against_churn(configs: Sequence[Config], config_of: Mapping[str, Config]) -> Iterator[Contrast]:
    for config in configs:
        if config.role != "scratch" or not (matches := _matches(config, "reference", config_of)):
            continue
        others = {seed: match.other_id for seed, match in matches.items()}
        contrast = Contrast(
            "scratch_vs_churn",
            config.dataset_id,
            config.config_id,
            config_of[next(iter(others.values()))].config_id,
            level="scratch",
            other_level="fp32 of other seeds",
            seeds=tuple(matches),
            matches=tuple(matches.values()),
            flips=tuple(Match(matches[a].trial_id, others[b]) for a, b in permutations(matches, 2)),
            churn=_pair_others(tuple(matches.values())),
        )
        yield contrast if len(matches) > 1 else contrast.without_trials(ONE_SEED)
