"""Quantfair: which groups lose when an image classifier is quantized, and what to ship instead.

    import quantfair as qf

    frames = qf.sweep("quickstart", ["seeds=[0]"])  # a built-in sweep, a TOML file or a dict; goes on where it stopped
    frames.verdicts

`plan` says what would run, `status` how far a sweep is, `report` rebuilds tables and page, and `read` opens the tables
of a store as pandas frames. What stops a command with a message is an exception here;
a trial that fails is a row.
"""

import importlib
from typing import TYPE_CHECKING, Any

from quantfair.orchestrator.checkout import find_version, put_checkout_last

if TYPE_CHECKING:
    from quantfair.datasets import DataError
    from quantfair.orchestrator.api.plan import plan
    from quantfair.orchestrator.api.report import report
    from quantfair.orchestrator.api.status import status
    from quantfair.orchestrator.api.sweep import sweep
    from quantfair.orchestrator.config.errors import RequestError
    from quantfair.orchestrator.executors.events import SweepStoppedError
    from quantfair.results import StoreError, WriteError, read

    __version__: str

__all__ = [
    "DataError",
    "RequestError",
    "StoreError",
    "SweepStoppedError",
    "WriteError",
    "plan",
    "read",
    "report",
    "status",
    "sweep",
]

_HOMES = {
    "DataError": "datasets",
    "RequestError": "orchestrator.config.errors",
    "StoreError": "results",
    "SweepStoppedError": "orchestrator.executors.events",
    "WriteError": "results",
    "plan": "orchestrator.api.plan",
    "read": "results",
    "report": "orchestrator.api.report",
    "status": "orchestrator.api.status",
    "sweep": "orchestrator.api.sweep",
}

put_checkout_last()


def __getattr__(name: str) -> Any:
    """Load a name from its file when it is first used: every file of ours passes through this one."""
    if name == "__version__":
        return find_version()
    if name not in _HOMES:
        raise AttributeError(f"module 'quantfair' has no attribute {name!r}")
    return getattr(importlib.import_module(f"quantfair.{_HOMES[name]}"), name)
