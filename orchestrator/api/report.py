"""Tables and dashboard of a store; predictions from elsewhere; charts for papers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantfair.orchestrator.api.status import find_failed, summarize_runtimes
from quantfair.orchestrator.config.errors import ConfigProblem, RequestError
from quantfair.orchestrator.executors.recovery import build_report_without_damaged
from quantfair.results import CHART_KEYS, Derived, Store, count_trials, describe_mixed_pairs, scan_store

if TYPE_CHECKING:
    from quantfair.results import Comparison, Frames

CHARTS = CHART_KEYS  # of the dashboard, for `draw_chart`
FIGURE_SUFFIXES = ("svg", "png")


@dataclass(frozen=True, kw_only=True)
class BuiltReport:
    """The end of a sweep or of a report: the store, the facts of its tables, and what was written besides."""

    store: Store
    derived: Derived
    exports: list[str] | None = None  # None where no tables for papers were asked for
    comparison: "Comparison | None" = None


def report(
    store: str | Path,
    *,
    groups: str | Path | None = None,
    metrics: Sequence[str] = (),
    limit_pp: float | None = None,
) -> "Frames":
    """Rebuild the tables and report.html of a store, of a partial one too, and return the tables as frames.

    `groups` is a CSV of sample_id and columns: new groupings, which this and later reports use. `metrics` are your own,
    each `package.module:function`. `limit_pp` is the limit of a loss that verdicts are about, in percentage points;
    without it that of the sweep file, which is 1. Both are for this report alone. What is damaged is named, put away
    and left out.

    Raises:
        RequestError: `groups` names no file, or `limit_pp` is not between 0 and 100.
        StoreError: there is no sweep in the store, or a grouping or metric is not what it must be.
        WriteError: the tables cannot be written.
    """
    from quantfair.results import read

    built = build_report(store, groups=groups, metrics=metrics, limit_pp=limit_pp)
    return read(built.store, metrics=metrics, limit_pp=limit_pp)


def build_report(
    store: str | Path,
    *,
    groups: str | Path | None = None,
    metrics: Sequence[str] = (),
    limit_pp: float | None = None,
    formats: Sequence[str] = (),
    output: str | None = None,
    diff: str | None = None,
) -> BuiltReport:
    """Build a report as `report` does; `formats` adds tables for papers in `output`, `diff` compares another store."""
    from quantfair.results import compare_stores, import_groups, write_exports

    if output is not None and not formats:
        raise RequestError([ConfigProblem("--output", "is where tables for papers go: add `--format latex`, say.")])
    if limit_pp is not None and not 0 < limit_pp < 100:
        raise RequestError(
            [ConfigProblem("--limit", f"must be between 0 and 100 percentage points, got {limit_pp:g}.")]
        )
    opened = Store.open(str(store))
    if groups is not None:
        if not Path(groups).is_file():
            raise RequestError([ConfigProblem("--groups", f"names no file: {groups}.")])
        import_groups(opened, Path(groups).read_bytes(), source=str(groups))
    derived = build_report_without_damaged(opened, metrics=metrics, limit_pp=limit_pp)
    exports = write_exports(opened, formats, output) if formats else None
    comparison = compare_stores(opened, Store.open(diff)) if diff is not None else None
    return BuiltReport(store=opened, derived=derived, exports=exports, comparison=comparison)


def summarize_end(built: BuiltReport) -> dict[str, Any]:
    """Return the counts of trials and runtimes, the warnings and the dashboard, as `--json` prints them."""
    trials, facts, path = built.derived
    manifest = built.store.read_manifest()
    ids = [row["trial_id"] for row in manifest["plan"]]
    status = scan_store(built.store).runtimes
    return {
        "name": facts["sweep"],
        "store": built.store.location,
        **count_trials(trials, int(facts["n_planned"])),
        "n_not_in_plan": int(facts["n_not_in_plan"]),
        "runtimes": summarize_runtimes(built.store, ids, status, asked=manifest["runtimes"]),
        "warnings": describe_mixed_pairs(trials),
        "dashboard": path,
    }


def list_failed(built: BuiltReport) -> list[dict[str, Any]]:
    """Return the rows of the trials that failed by themselves."""
    return find_failed(built.derived.trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedPredictions:
    """The trial that was made of a file, and the columns of the file that mean nothing here."""

    trial_id: str
    columns_not_used: list[str]


def add_predictions(
    store: str | Path,
    file: Path,
    *,
    name: str,
    reference: str,
    control: str | None = None,
    seed: int | None = None,
) -> AddedPredictions:
    """Make predictions of another tool's model a finished trial of the store.

    `file` is a CSV or Parquet file of exactly the test images, and of all val images or none. `reference` and `control`
    are ids of finished trials to compare with. `seed` is that of the reference by default.

    Raises:
        RequestError: there is no such file.
        StoreError: the file or an id is not what it must be.
    """
    from quantfair.results import import_predictions

    if not file.is_file():
        raise RequestError([ConfigProblem("FILE", f"names no file: {file}.")])
    opened = Store.open(str(store))
    trial_id = import_predictions(
        opened,
        file.read_bytes(),
        source=str(file),
        name=name,
        reference=reference,
        control=control,
        seed=seed,
    )
    row = opened.read_trial(trial_id)
    assert row is not None
    about = json.loads(row["config"])["imported"]
    return AddedPredictions(trial_id=trial_id, columns_not_used=about.get("columns_not_used", []))


def draw_chart(store: str | Path, chart: str, place: Path, *, filters: str = "", width_mm: float = 85) -> int:
    """Write a chart of the dashboard as an SVG or PNG file, and return its size in bytes.

    `filters` is what stands behind # in the dashboard's address once its filters are set.

    Raises:
        RequestError: `place` is in no folder, or is no .svg or .png.
        StoreError: there is no such chart, no browser, or nothing to draw.
    """
    from quantfair.results import draw_figure, update_report_as_before

    suffix = place.suffix.removeprefix(".").lower()
    if suffix not in FIGURE_SUFFIXES:
        raise RequestError([ConfigProblem("--output", f"must end in .svg or .png, got {place.name}.")])
    folder = place.absolute().parent
    if not folder.is_dir():
        raise RequestError([ConfigProblem("--output", f"is in a folder that does not exist: {folder}.")])
    opened = Store.open(str(store))
    update_report_as_before(opened)
    image = draw_figure(opened.read_report(), chart, suffix, width_mm=width_mm, filters=filters)
    place.write_bytes(image)
    return len(image)
