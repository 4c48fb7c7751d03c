"""How a command ends: 0 all is well; 1 some trials failed, or it was stopped; 2 a wrong request; 130 interrupted."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from quantfair.datasets import DataError
from quantfair.orchestrator.config.errors import RequestError
from quantfair.orchestrator.executors.events import SweepStoppedError
from quantfair.results import StoreError


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what stops a command into its exit code and a message on stderr."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as on Ctrl-C
    try:
        yield
    except (RequestError, StoreError, DataError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except (OSError, SweepStoppedError) as error:
        typer.echo(f"Stopped: {error}. Finished trials are kept: the same command goes on from here.", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted. Finished trials are kept: the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
