"""Tables and dashboard, brought up to date: built anew only if what they were built from has changed.

`tables/built.json`, written last, says what that was: the manifest, groups and metrics of the user, the files of the
trials by time and size, and this program. It also knows the tables themselves, so one that was deleted or changed is
noticed.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quantfair.results.schema import SCHEMA_VERSION
from quantfair.results.store.files import DamagedError
from quantfair.results.store.store import Store

FOLDER = Path(__file__).resolve().parent


class Derived(NamedTuple):
    """What a command says at its end: the rows of the table `trials`, the provenance, and where the dashboard is."""

    trials: list[dict[str, Any]]
    facts: dict[str, str]
    dashboard: str


def update_report(
    store: Store, *, always: bool = False, metrics: Sequence[str] = (), limit_pp: float | None = None
) -> Derived:
    """Bring tables and dashboard up to date. `always` builds them even if nothing has changed.

    `metrics` are a user's own, each `package.module:function`; without them no table has them any more. `limit_pp` is
    the limit of a loss that verdicts are about, in percentage points; without it that of the sweep file.

    Raises:
        DamagedError: a file that they are built from is damaged; `recovery.py` puts it away.
        StoreError: there is no sweep in the store, or one of `metrics` cannot be had or does not what it must.
        WriteError: they cannot be written.
    """
    if not always and (kept := _read_kept(store, _describe_source(store, metrics, limit_pp))):
        return kept  # without the lock: a store that one may only read has up-to-date tables too
    with store.locked_tables():
        return _derive(store, always=always, metrics=metrics, limit_pp=limit_pp)


def update_report_as_before(store: Store) -> Derived:
    """Bring tables and dashboard up to date, with the user's metrics and the limit that they were built with last."""
    built = store.read_built() or {}
    return update_report(store, metrics=built.get("metrics", ()), limit_pp=built.get("limit_pp"))


def _derive(store: Store, *, always: bool, metrics: Sequence[str], limit_pp: float | None) -> Derived:
    source = _describe_source(store, metrics, limit_pp)
    if not always and (kept := _read_kept(store, source)):
        return kept
    from quantfair.results.build import build_tables
    from quantfair.results.page.report import write_report

    tables = build_tables(store, metrics=metrics, limit_pp=limit_pp)
    dashboard = write_report(store, tables)
    store.write_built({"source": source, "built": store.list_derived(), "metrics": list(metrics), "limit_pp": limit_pp})
    return _derived(tables["trials"], tables["provenance"], dashboard)


def _read_kept(store: Store, source: str) -> Derived | None:
    now = json.loads(json.dumps({"source": source, "built": store.list_derived()}))
    if {name: value for name, value in (store.read_built() or {}).items() if name in now} != now:
        return None
    try:
        return _derived(store.read_table("trials"), store.read_table("provenance"), store.report_path)
    except DamagedError:
        return None


def _derived(trials: Any, provenance: Any, dashboard: str) -> Derived:
    facts = dict(zip(*provenance.to_pydict().values(), strict=True))
    return Derived(trials.drop_columns(["traceback"]).to_pylist(), facts, dashboard)


def _describe_source(store: Store, metrics: Sequence[str], limit_pp: float | None) -> str:
    """Return sha256 over all that decides the tables and the page."""
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, store.location, limit_pp, *metrics]).encode())
    for path in sorted(path for path in FOLDER.rglob("*") if path.suffix in (".py", ".js", ".css", ".html")):
        digest.update(path.read_bytes())
    for data in store.read_sources():
        digest.update(hashlib.sha256(data).digest())
    for folder in ("trials", "predictions", "layers", "mechanism", "samples"):
        digest.update(json.dumps([folder, sorted(store.list_files(folder).items())]).encode())
    return digest.hexdigest()
