"""Facts in, a paragraph on methods out: what was trained, quantized, measured and tested, as a paper would say it."""

from collections.abc import Iterable

from results.page.catalog import Config, Data
from results.page.facts import Facts
from results.page.markup import count
from results.schema import MIN_RANKED


def write_methods(facts: Facts) -> str:
    """Return the paragraph; it says only what holds of this sweep."""
    parts = [_say_data(facts, data) for data in facts.catalog.data]
    configs = [config for config in facts.catalog.configs if config.ok]
    parts.append(_say_trials(facts, configs))
    if any(config.method == "qat" for config in configs):
        parts.append(
            "Quantization-aware training was compared with a control: the same fine-tuning with all "
            "quantizers bypassed."
        )
    parts.append(
        "Each quantized model was compared with its floating-point reference of the same seed on the same test images. "
        "A group's drop is the reference's accuracy minus the quantized model's, in percentage points; its excess "
        "accuracy gap (EAG) is its drop minus that of all images. Intervals over seeds are the widest of a crossed "
        "bootstrap over seeds and images, a t interval and Tango's score interval for paired proportions (95 %). How "
        "unevenly groups drop was tested by permuting images among groups with studentized effects (1,000 "
        "permutations); "
        f"p values of one question were corrected together (Benjamini-Hochberg). Groups of under {MIN_RANKED} "
        "test images "
        "were not ranked. Configurations are named by their accuracy on validation images, never on test images."
    )
    versions = [f"{name} {facts.provenance[name]}" for name in ("torch", "onnxruntime") if facts.provenance.get(name)]
    made = f"Quantfair, code version {facts.provenance.get('code_version', 'unknown')}"
    return " ".join([*(part for part in parts if part), f"({'; '.join([made, *versions])}.)"])


def _say_data(facts: Facts, data: Data) -> str:
    trials = [trial for config in facts.catalog.configs if config.data == data for trial in config.ok]
    seeds = len({trial["seed"] for trial in trials})
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


def _say_trials(facts: Facts, configs: Iterable[Config]) -> str:
    bits: dict[str, list[str]] = {}
    for config in configs:
        if config.is_quantized:
            bits.setdefault(config.variant, []).append(config.bits)
    texts = [f"{variant} at {', '.join(dict.fromkeys(found))} bits" for variant, found in bits.items()]
    failed = sum(trial["status"] == "failed" for trial in facts.catalog.trials)
    lost = f" {count(failed, 'trial')} failed." if failed else ""
    return (f"Quantized were: {'; '.join(texts)}." if texts else "No model was quantized.") + lost
