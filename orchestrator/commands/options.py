"""The arguments and options that commands share."""

from typing import Annotated

import typer

from quantfair.orchestrator.config.sweep_file import built_in_sweeps, is_file

SweepWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SWEEP] [KEY=VALUE]...",
        help=f"A sweep file or a built-in sweep ({', '.join(built_in_sweeps())}; default quickstart), then overrides "
        "such as 'seeds=[0]' or quant.1.epochs=2.",
    ),
]
StorePath = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Where results go: a path or URI. Default: results/runs/<name> of a checkout, else quantfair-runs/<name> "
        "in the current folder.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="The folder or URI of a sweep's results.")]


def read_words(words: list[str] | None) -> tuple[str, list[str]]:
    """Return the sweep that the words of a command name, quickstart by default, and the overrides after it."""
    words = list(words or [])
    names_a_sweep = words and ("=" not in words[0] or is_file(words[0]))
    name = words.pop(0) if names_a_sweep else "quickstart"
    return name, words
