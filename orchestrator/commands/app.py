"""The commands: sweep, plan, status, report, figure, import, export, trt-check, data.

They read words, call the functions of `api`, and print what came of it; `exit_codes.py` says how they end.
"""

from typing import Annotated, Literal

import typer

import quantfair
from quantfair.orchestrator.api.sweep import run_sweep
from quantfair.orchestrator.commands.data import data_app
from quantfair.orchestrator.commands.deploy import export, trt_check
from quantfair.orchestrator.commands.exit_codes import exit_codes
from quantfair.orchestrator.commands.options import AsJson, StorePath, SweepWords, read_words
from quantfair.orchestrator.commands.plan import plan
from quantfair.orchestrator.commands.report import figure, import_, report
from quantfair.orchestrator.commands.result import finish
from quantfair.orchestrator.commands.status import status

app = typer.Typer(
    help="Measure which groups lose when an image classifier is quantized.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"quantfair {quantfair.__version__}")
        raise typer.Exit


@app.callback()
def _read_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options of the program itself."""


@app.command()
def sweep(
    words: SweepWords = None,
    store: StorePath = None,
    executor: Annotated[Literal["ray", "inline"], typer.Option(help="Ray Tune, or this process.")] = "ray",
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="The Ray cluster to run on: host:port of its head, or auto. Without it, this machine alone.",
        ),
    ] = None,
    wait_for_nodes: Annotated[
        bool,
        typer.Option("--wait-for-nodes", help="Start even if a trial fits no node yet: one will come."),
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials once more.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Run at most so many trials; the same command goes on.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the result.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run what is not finished, then write the tables and the dashboard."""
    with exit_codes():
        source, overrides = read_words(words)
        built = run_sweep(
            source,
            overrides,
            store=store,
            executor=executor,
            address=address,
            wait_for_nodes=wait_for_nodes,
            retry_failed=retry_failed,
            limit=limit,
            quiet=quiet or as_json,
        )
        finish(built, as_json=as_json)


app.command()(plan)
app.command()(status)
app.command()(report)
app.command(name="import")(import_)
app.command()(figure)
app.command()(export)
app.command(name="trt-check")(trt_check)
