"""`data list | prepare | check`: what data there is, and what is in it."""

import json
import time
from typing import Annotated, Any

import typer

from quantfair.orchestrator.api import data as api
from quantfair.orchestrator.commands.exit_codes import exit_codes

data_app = typer.Typer(help="Say which data sets there are, convert them, and count what is in them.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="A data set, or package.module:factory.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the data set, such as task=age or path=faces.csv."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@data_app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """Say which data sets are known, which are there, and where to get the others."""
    with exit_codes():
        found = api.list_data()
        if as_json:
            print(json.dumps(found, indent=2))
            return
        print(f"data folder: {found['data_folder']} (QUANTFAIR_DATA)")
        for source in found["sources"]:
            print(f"\n{source['name']}: {source['status']}")
            for title in ("tasks", "attributes"):
                if source[title]:
                    print(f"  {title + ':':11} {', '.join(source[title])}")
            for title in ("where", "get", "terms"):
                print(f"  {title + ':':11} {source[title]}")


@data_app.command()
def prepare(name: Name, settings: Overrides = None, as_json: AsJson = False) -> None:
    """Find or download a data set and convert it, so that sweeps start at once."""
    with exit_codes():
        started = time.perf_counter()
        dataset_id = api.prepare_data(name, settings or ())
        took_s = time.perf_counter() - started
        if as_json:
            print(json.dumps({"name": name, "dataset_id": dataset_id, "took_s": round(took_s, 3)}, indent=2))
        else:
            print(f"{name} is ready ({took_s:.1f} s); dataset_id {dataset_id}")


@data_app.command()
def check(name: Name, settings: Overrides = None, as_json: AsJson = False) -> None:
    """Count the images of every split and group, copies with their conflicts, and near duplicates among test images."""
    with exit_codes():
        facts = api.check_data(name, settings or ())
        print(json.dumps(facts, indent=2) if as_json else _format_facts(facts))


def _format_facts(facts: dict[str, Any]) -> str:
    channels, height, width = facts["shape"]
    copies = facts["copies"]
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    lines = [
        f"{facts['name']}: {facts['n_images']:,} images, {width}x{height}, {kind}; dataset_id {facts['dataset_id']} "
        f"(task {facts['task']})",
        *facts["notes"],
        f"{copies['sets']} sets of byte-identical images ({copies['redundant_images']} redundant), "
        f"{copies['conflicting_sets']} with conflicting labels; each set is in one split only",
        _format_near_duplicates(facts["near_duplicates"]),
    ]
    if facts["is_published"] is not None:
        lines.append(
            "These are the published files." if facts["is_published"] else "These are NOT the published files."
        )
    splits = facts["splits"]
    lines += ["", f"{'':24}{'all':>9}" + "".join(f"{name:>9}" for name in splits)]
    lines.append(_row("images", facts["n_images"], [split["n_images"] for split in splits.values()]))
    for attribute, groups in facts["groups"].items():
        lines.append(attribute)
        for group, n in groups.items():
            lines.append(_row(f"  {group}", n, [split["groups"][attribute][group] for split in splits.values()]))
    return "\n".join([*lines, "", f"Terms: {facts['terms']}"])


def _format_near_duplicates(near: dict[str, Any]) -> str:
    if near["reason"] is not None:
        return f"near duplicates: not judged, since {near['reason']}"
    have = "test images have a copy that differs by re-encoding, size or brightness"
    return f"near duplicates: {near['n_images']:,} of {near['n_test_images']:,} {have}"


def _row(title: str, n: int, in_splits: list[int]) -> str:
    return f"{title:24}{n:9,}" + "".join(f"{count:9,}" for count in in_splits)
