"""The arguments and options that commands share."""

from typing import Annotated

import typer

from quantfair.orchestrator.config.sweep_file import built_in_sweeps

SweepWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SWEEP] [KEY=VALUE]...",
        help=f"A sweep file or a built-in sweep ({', '.join(built_in_sweeps())}; default quickstart), then overrides "
        "such as 'seeds=[0]' or quant.1.epochs=2.",
    ),
]
StorePath = Annotated[
    str | None, typer.Option("--store", help="Where results go: a path or URI. Default: results/runs/<name>.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="The folder or URI of a sweep's results.")]
