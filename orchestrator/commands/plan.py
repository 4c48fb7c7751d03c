"""What `plan` says: how far a sweep is, and what is left in trials, bundles, time and room on the disk."""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Final

import typer

from quantfair.orchestrator.api import plan as api
from quantfair.orchestrator.commands.exit_codes import exit_codes
from quantfair.orchestrator.commands.options import AsJson, StorePath, SweepWords, read_words
from quantfair.orchestrator.commands.status import format_runtimes
from quantfair.orchestrator.text import format_s

MOST_REASONS = 3
POWER_HEAD: Final = (
    "power: the smallest loss, in percentage points, that is found with 80 % power at 5 %, two-sided,\n"
    "  if so many images flip: turn right or wrong. drop: of a group. excess: beyond the drop of all.\n"
    "  Seeds share the test images: more of them show what training does by chance, and are no images."
)


def format_plan(summary: dict[str, Any]) -> list[str]:
    """Return a summary as lines for a terminal: a few, however many trials there are."""
    left = summary["left"]
    heads = {place: place.replace("_", " ") for place in next(iter(summary["by_method"].values()))}
    lines = [
        f"{summary['name']}: {summary['n_trials']:,} trials in {summary['store']}",
        f"{'':8}" + "".join(f"{head:>9}" for head in heads.values()) + f"{'work':>12}",
    ]
    for method, counts in summary["by_method"].items():
        work = format_s(left["work_s_by_method"].get(method, 0.0))
        lines.append(f"{method:8}" + "".join(f"{counts[key]:9,}" for key in heads) + f"{work:>12}")
    lines += format_runtimes(summary["runtimes"], most=MOST_REASONS)
    lines += _format_left(left) if left["n_trials"] else ["left: nothing"]
    if any(counts["failed"] for counts in summary["by_method"].values()):
        lines.append("failed trials, and those blocked by them, run once more with `sweep --retry-failed`")
    lines += [f"warning: {warning}" for warning in summary["warnings"]]
    return lines + format_power(summary["power"]) if "power" in summary else lines


def _format_left(left: dict[str, Any]) -> list[str]:
    slots = f"{left['n_slots']} trial{'s' if left['n_slots'] > 1 else ''} at a time"
    bundles = f"{left['n_bundles']:,} bundle{'s' if left['n_bundles'] > 1 else ''}"
    size = format_bytes(left["disk_bytes"])
    return [
        f"left: {left['n_trials']:,} trials in about {bundles}, {format_s(left['work_s'])} of work",
        f"time: about {format_s(left['wall_s'])} on this machine, {slots}{_format_source(left['guessed_times'], left)}",
        f"disk: about {size}{_format_source(left['guessed_sizes'], left, ' without weights')}",
    ]


def _format_source(guessed: list[str], left: dict[str, Any], what: str = "") -> str:
    """Say where an estimate is from: " (as finished trials; a first guess for qat)"."""
    if not guessed:
        return " (as finished trials)"
    if len(guessed) == len(left["work_s_by_method"]):
        return f" (a first guess{what})"
    return f" (as finished trials; a first guess{what} for {', '.join(guessed)})"


def format_bytes(n: float) -> str:
    """Return "320 kB", "1.2 MB" or "3.4 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n >= size:
            return f"{n / size:,.1f} {unit}"
    return f"{n / 1e3:.0f} kB"


def format_power(power: Iterable[dict[str, Any]]) -> list[str]:
    """Return the lines for a terminal, at most 100 columns wide for three shares of flips."""
    lines = ["", POWER_HEAD]
    for of_grouping in power:
        columns = of_grouping["at_flips"]
        title = f"{of_grouping['dataset']}, {of_grouping['task']}, by {of_grouping['grouping']}"
        lines += ["", f"{title:42}" + "".join(f"{_format_share(at['flips']):>18}" for at in columns)]
        lines.append(f"{'':34}{'n':>8}" + f"{'drop':>10}{'excess':>8}" * len(columns))
        for index, group in enumerate(of_grouping["groups"]):
            cells = [f"{_format_pp(at['drop_pp'][index]):>10}{_format_pp(at['excess_pp'][index]):>8}" for at in columns]
            name = group["group"] if group["ranked"] else f"{group['group']} (never ranked)"
            lines.append(f"  {name[:31]:32}{group['n']:8,}" + "".join(cells))
        if columns[0]["disparity"]:
            rows = {
                "one group alone, easiest to find": "easiest_group_pp",
                "one group alone, hardest to find": "hardest_group_pp",
            }
            rows |= {
                "max - min drop by chance": "by_chance_pp",
                "exceeded in 5 % by chance": "by_chance_q95_pp",
            }
            lines += [
                f"  {name:40}" + "".join(f"{at['disparity'][key]:>10.1f}{'':8}" for at in columns)
                for name, key in rows.items()
            ]
        lines += _format_needed(of_grouping)
    return [line.rstrip() for line in lines]


def _format_needed(of_grouping: dict[str, Any]) -> list[str]:
    """Return what it takes to rule out losses above the limit, and which groups are too small for it."""
    columns, limit = of_grouping["at_flips"], f"{of_grouping['limit_pp']:g}"
    if columns[0]["images_for_no"] is None:
        return []
    rows = {f"images of each group to rule out {limit} pp": [at["images_for_no"] for at in columns]}
    for spread in columns[0]["seeds_for_no"]:
        rows[f"seeds, if they vary by {spread} pp"] = [at["seeds_for_no"][spread] for at in columns]
    lines = [f"  {name:40}" + "".join(f"{_format_count(n):>10}{'':8}" for n in row) for name, row in rows.items()]
    smallest = of_grouping["smallest_for_no"]
    small = [group["group"] for group in of_grouping["groups"] if group["ranked"] and group["n"] < smallest]
    if small:
        named = ", ".join(small[:MOST_REASONS]) + (
            f" and {len(small) - MOST_REASONS} more" * (len(small) > MOST_REASONS)
        )
        lines.append(f"  under {smallest} images, where only a gain rules out a loss of {limit} pp: {named}")
    return lines


def _format_count(n: int | None) -> str:
    return "no number" if n is None else f"{n:,}"


def _format_share(share: float) -> str:
    return f"{100 * share:g} % flips"


def _format_pp(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def plan(
    words: SweepWords = None,
    store: StorePath = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of sweep files, for editors, and nothing else.")
    ] = False,
    power: Annotated[
        bool, typer.Option("--power", help="Also say what drops the test images can show, before anything is spent.")
    ] = False,
    flips: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1, help="With --power: the share of images that flips, such as 0.02; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what would run: trials, finished ones, bundles, estimated time and room on the disk."""
    with exit_codes():
        if schema:
            print(json.dumps(api.schema(), indent=2))
            return
        source, overrides = read_words(words)
        summary = api.plan(source, overrides, store=store, power=power, flips=flips or ())
        print(json.dumps(summary, indent=2) if as_json else "\n".join(format_plan(summary)))
