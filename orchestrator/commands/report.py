"""The commands `report`, `figure` and `import`: tables and page, charts for papers, predictions from elsewhere."""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from quantfair.orchestrator.api.report import CHARTS, add_predictions, build_report, draw_chart
from quantfair.orchestrator.commands.exit_codes import exit_codes
from quantfair.orchestrator.commands.options import AsJson, StoreArgument
from quantfair.orchestrator.commands.result import finish


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
    limit: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Verdicts ask whether any group loses more than this; for this report alone. Default: limit_pp, or 1.",
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
    with exit_codes():
        built = build_report(
            store,
            groups=groups,
            metrics=metric or (),
            limit_pp=limit,
            formats=formats or (),
            output=output,
            diff=diff,
        )
        finish(built, as_json=as_json)


def figure(
    store: StoreArgument,
    chart: Annotated[str, typer.Argument(metavar="CHART", help=f"One of {', '.join(CHARTS)}.")],
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
        n_bytes = draw_chart(store, chart, place, filters=filters, width_mm=width_mm)
        print(json.dumps({"file": str(place), "bytes": n_bytes}) if as_json else str(place))


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
    with exit_codes():
        added = add_predictions(store, file, name=name, reference=reference, control=control, seed=seed)
        if as_json:
            print(json.dumps(asdict(added)))
            return
        print(f"trial {added.trial_id}: `report` shows it")
        if added.columns_not_used:
            print(f"not used: the columns {', '.join(added.columns_not_used)}; every image counts once")
