"""Facts in, a paragraph on methods out: what was trained, quantized, measured and tested, as a paper would say it."""

from collections.abc import Sequence

from quantfair.results.page.catalog import Config, Data
from quantfair.results.page.comparisons import count_seeds, list_deployed
from quantfair.results.page.formatting import count
from quantfair.results.page.index import Facts
from quantfair.results.schema import IMPORTED, MIN_RANKED
from quantfair.results.tables.verdicts import MIN_MODELS, format_limit


def format_methods(facts: Facts) -> str:
    """Return the paragraph; it says only what holds of this sweep."""
    parts = [_format_data(facts, data) for data in facts.catalog.data]
    configs = [config for config in facts.catalog.configs if config.ok]
    parts.append(_format_trials(facts, configs))
    if any(facts.overall(config, "control") for config in configs):
        parts.append(
            "Quantization-aware training was compared with a control: the same fine-tuning with all quantizers "
            "bypassed."
        )
    if any(facts.overall(config, "reference") for config in configs):
        parts += [_format_drops(), _format_limits(facts, configs), _format_choice()]
    if runtimes := list_deployed(facts):
        parts.append(
            f"Finished models were also exported and run in {' and '.join(runtimes)}; there each was compared with "
            "itself and with its floating-point models in torch."
        )
    made = f"Quantfair, code version {facts.provenance.get('code_version', 'unknown')}"
    return " ".join([*(part for part in parts if part), f"({'; '.join([made, *_list_versions(facts)])}.)"])


def _list_versions(facts: Facts) -> list[str]:
    """Return what computed the answers: torch, and the runtimes that measured something, each with its version."""
    versions = [f"torch {facts.provenance['torch']}"] if facts.provenance.get("torch") else []
    for runtime in list_deployed(facts):
        versions += facts.runtime_versions.get(runtime, ())
    return versions


def _format_drops() -> str:
    return (
        "Each model was compared with its floating-point reference of the same seed on the same test images. A group's "
        "drop is the reference's accuracy minus the model's, in percentage points; its excess is its drop minus that "
        "of all other images."
    )


def _format_limits(facts: Facts, configs: Sequence[Config]) -> str:
    seeds = ""
    if max(len(config.ok) for config in configs) >= MIN_MODELS:
        seeds = (
            " Over seeds, limits are the wider of these for mean counts and of t limits whose variance is that of "
            "images and of seeds (Satterthwaite)."
        )
    return (
        f"Whether any group, or all images, lose more than {format_limit(facts.limit_pp)} was judged by one-sided "
        "limits of the drop: upper ones at 95 % for each, lower ones sharing 2.5 % among the groups and all images "
        "(Tango's score limits for paired proportions; MOVER for the excess)."
        f"{seeds} Groups of under {MIN_RANKED} test "
        "images, and those in which the reference hardly does better than a guess, were not judged."
    )


def _format_choice() -> str:
    return "Of several settings of one method and bits, the one with the best accuracy on validation images is named."


def _format_data(facts: Facts, data: Data) -> str:
    trials = [trial for config in facts.catalog.configs if config.data == data for trial in config.ok]
    seeds = count_seeds([config for config in facts.catalog.configs if config.data == data])
    n_test = max((trial["n_test"] or 0 for trial in trials), default=0)
    if not trials:
        return ""
    groups = "; ".join(
        f"{grouping.title} ({count(len(grouping.groups), grouping.noun)})" for grouping in data.groupings
    )
    return (
        f"On {data.name} (task: {data.task}; network: {data.network}) models of {count(seeds, 'seed')} were "
        "evaluated on "
        f"{n_test:,} test images, grouped by {groups}."
    )


def _format_trials(facts: Facts, configs: Sequence[Config]) -> str:
    bits: dict[str, list[str]] = {}
    for config in configs:
        if config.is_quantized:
            bits.setdefault(config.variant, []).append(config.bits)
    texts = [f"{variant} at {', '.join(dict.fromkeys(found))} bits" for variant, found in bits.items()]
    failed = sum(trial["status"] == "failed" for trial in facts.catalog.trials)
    lost = f" {count(failed, 'trial')} failed." if failed else ""
    imported = sorted({config.variant for config in configs if config.method == IMPORTED})
    found = [f"Quantized were: {'; '.join(texts)}."] if texts else []
    found += [f"Predictions from elsewhere: {', '.join(imported)}."] if imported else []
    return (" ".join(found) or "No model was quantized.") + lost
