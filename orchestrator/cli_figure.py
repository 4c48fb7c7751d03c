"""`figure` writes one chart of a store's dashboard as a file for a paper."""

import json
from pathlib import Path
from typing import Annotated

import typer

from quantfair.orchestrator.cli_status import AsJson, StoreArgument
from quantfair.orchestrator.exit_codes import exit_codes
from quantfair.orchestrator.problems import Problem, RequestError
from quantfair.results import Store, derive_again, draw_figure

SUFFIXES = ("svg", "png")


def figure(
    store: StoreArgument,
    chart: Annotated[str, typer.Argument(metavar="CHART", help="Such as accuracy, drops, tradeoff, chance, groups.")],
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
            raise RequestError([Problem("--output", f"must end in .svg or .png, got {place.name}.")])
        if not place.absolute().parent.is_dir():
            raise RequestError([Problem("--output", f"is in a folder that does not exist: {place.absolute().parent}.")])
        opened = Store.open(store)
        derive_again(opened)
        image = draw_figure(opened.read_report(), chart, suffix, width_mm=width_mm, filters=filters)
        place.write_bytes(image)
        print(json.dumps({"file": str(place), "bytes": len(image)}) if as_json else str(place))
