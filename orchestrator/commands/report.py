"""The commands `report`, `figure` and `import`: tables and page, charts for papers, predictions from elsewhere."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from quantfair.orchestrator.commands.exit_codes import exit_codes
from quantfair.orchestrator.commands.options import AsJson, StoreArgument
from quantfair.orchestrator.commands.result import finish
from quantfair.orchestrator.config.errors import ConfigProblem, RequestError
from quantfair.orchestrator.executors.recovery import build_report_without_damaged
from quantfair.results import CHART_KEYS, Store, draw_figure, update_report_as_before

SUFFIXES = ("svg", "png")


class Format(StrEnum):
    """How tables for papers are written."""

    csv, parquet, latex, markdown = "csv", "parquet", "latex", "markdown"


def report(
    store: StoreArgument,
    groups: Annotated[
        Path | None,
        typer.Option(help="A CSV of sample_id and columns: new groupings, which this and later reports use."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PACKAGE.MODULE:FUNCTION",
            help="A metric of yours, for this report alone: from a frame of test images to a number for each of them.",
        ),
    ] = None,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Write tables for papers too; may be given several times."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where --format writes: a path or URI. Default: STORE/exports."),
    ] = None,
    diff: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="Another store: align both by configuration, and write what differs."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the tables and report.html from what is stored, of a partial store too."""
    from quantfair.results import compare_stores, import_groups, write_exports

    with exit_codes():
        if output is not None and not formats:
            raise RequestError([ConfigProblem("--output", "is where tables for papers go: add `--format latex`, say.")])
        opened = Store.open(store)
        if groups is not None:
            if not groups.is_file():
                raise RequestError([ConfigProblem("--groups", f"names no file: {groups}.")])
            import_groups(opened, groups.read_bytes(), source=str(groups))
        derived = build_report_without_damaged(opened, metrics=metric or ())
        exports = write_exports(opened, formats, output) if formats else None
        comparison = compare_stores(opened, Store.open(diff)) if diff is not None else None
        finish(opened, derived, as_json=as_json, exports=exports, comparison=comparison)


def figure(
    store: StoreArgument,
    chart: Annotated[str, typer.Argument(metavar="CHART", help=f"One of {', '.join(CHART_KEYS)}.")],
    output: Annotated[
        Path, typer.Option(metavar="FILE", help="Where to, an .svg or .png. Default: CHART.svg here.")
    ] = Path(),
    filters: Annotated[
        str, typer.Option(help="What stands behind # in the dashboard's address once its filters are set.")
    ] = "",
    width_mm: Annotated[float, typer.Option("--width-mm", min=50, max=500, help="One column by default.")] = 85,
    as_json: AsJson = False,
) -> None:
    """Write a chart of the dashboard at column width, as the page draws it; needs Chromium or Chrome."""
    with exit_codes():
        place = output if output != Path() else Path(f"{chart}.svg")
        suffix = place.suffix.removeprefix(".").lower()
        if suffix not in SUFFIXES:
            raise RequestError([ConfigProblem("--output", f"must end in .svg or .png, got {place.name}.")])
        if not place.absolute().parent.is_dir():
            raise RequestError(
                [ConfigProblem("--output", f"is in a folder that does not exist: {place.absolute().parent}.")]
            )
        opened = Store.open(store)
        update_report_as_before(opened)
        image = draw_figure(opened.read_report(), chart, suffix, width_mm=width_mm, filters=filters)
        place.write_bytes(image)
        print(json.dumps({"file": str(place), "bytes": len(image)}) if as_json else str(place))


def import_(
    store: StoreArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV or Parquet: sample_id, predicted (class index or name) and, where known, logit_0 to logit_{K-1}.",
        ),
    ],
    name: Annotated[str, typer.Option(help="What the page calls it. Several seeds of a name are one configuration.")],
    reference: Annotated[str, typer.Option(metavar="TRIAL_ID", help="The finished trial that it is compared with.")],
    control: Annotated[
        str | None, typer.Option(metavar="TRIAL_ID", help="The control that it is compared with too.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Its seed. Default: the seed of the reference.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take in predictions from elsewhere, of exactly the test images (and of all val images, or none)."""
    from quantfair.results import import_predictions

    with exit_codes():
        if not file.is_file():
            raise RequestError([ConfigProblem("FILE", f"names no file: {file}.")])
        trial_id = import_predictions(
            Store.open(store),
            file.read_bytes(),
            source=str(file),
            name=name,
            reference=reference,
            control=control,
            seed=seed,
        )
        if as_json:
            print(json.dumps({"trial_id": trial_id}))
        else:
            print(f"trial {trial_id}: `report` shows it")
