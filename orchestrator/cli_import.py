"""The command import: predictions of another tool's model become a trial, and stand beside those of the sweep."""

import json
from pathlib import Path
from typing import Annotated

import typer

from quantfair.orchestrator.cli_status import AsJson, StoreArgument
from quantfair.orchestrator.exit_codes import exit_codes
from quantfair.orchestrator.problems import Problem, RequestError
from quantfair.results import Store


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
            raise RequestError([Problem("FILE", f"names no file: {file}.")])
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
