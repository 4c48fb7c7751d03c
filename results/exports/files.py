"""Tables for papers -> files: LaTeX and Markdown to be read, CSV and Parquet with a row for each cell."""

import io
from collections.abc import Callable, Iterable
from typing import Any, Final

import pandas as pd

from quantfair.results.exports.latex import format_latex
from quantfair.results.exports.markdown import format_markdown
from quantfair.results.exports.paper_table import NEEDED, PaperTable, make_paper_tables
from quantfair.results.store.files import Files
from quantfair.results.store.store import Store

VERDICT: Final = ("scope", "word", "answer", "told", "group", "limit_pp", "at_most_pp")


def write_exports(store: Store, formats: Iterable[str], folder: str | None = None) -> list[str]:
    """Write the tables for papers of a store whose tables are up to date, and return where they are.

    `formats`: keys of FORMATS. `folder` is a path or a URI, by default `exports/` of the store. Files are
    replaced whole.
    """
    made = make_paper_tables({name: store.read_table(name) for name in NEEDED})
    files, under = (store.files, "exports/") if folder is None else (Files.open(folder), "")
    places = []
    for name in dict.fromkeys(formats):
        suffix, write = FORMATS[name]
        for table in made:
            path = f"{under}{table.slug}.{suffix}"
            files.write(path, write(table))
            places.append(files.describe(path))
    return places


def to_long(table: PaperTable) -> pd.DataFrame:
    """Return a table as a tidy frame: a row for each configuration and group, empty groups left out.

    `is_named` marks what is bold elsewhere. The columns `overall_`, the disparity and those of the verdict are of the
    configuration, so they repeat.
    """
    rows: list[dict[str, Any]] = []
    for row in table.rows:
        settings = {name: getattr(row, name) for name in ("configuration", "config_id", "method")}
        bits = {"weight_bits": row.weight_bits, "act_bits": row.act_bits, "n_seeds": len(row.seeds)}
        named = row.find_named(table.groups)
        for place, (group, drop) in enumerate(zip(table.groups, row.drops, strict=True)):
            rows.append(
                {
                    **table.key,
                    **settings,
                    **bits,
                    "group": group.name,
                    "n": group.n,
                    "is_ranked": group.is_ranked,
                    **_name("drop", drop),
                    "is_named": place == named,
                    **_name("overall_drop", row.overall),
                    "drop_disparity_pp": row.disparity_pp,
                    **{f"verdict_{name}": row.verdict.get(name) for name in VERDICT},
                    "reason": row.reason,
                }
            )
    numbers = [name for name in (rows[0] if rows else {}) if name.endswith("_pp")]
    bits = dict.fromkeys(("weight_bits", "act_bits"), "Int8") if rows else {}
    return pd.DataFrame(rows).astype({**dict.fromkeys(numbers, "float64"), **bits})


def _name(start: str, drop: Any) -> dict[str, float | None]:
    return dict(zip((f"{start}_pp", f"{start}_low_pp", f"{start}_high_pp"), drop, strict=True))


def _write_csv(table: PaperTable) -> bytes:
    return to_long(table).to_csv(index=False).encode()


def _write_parquet(table: PaperTable) -> bytes:
    buffer = io.BytesIO()
    to_long(table).to_parquet(buffer, index=False)
    return buffer.getvalue()


FORMATS: Final[dict[str, tuple[str, Callable[[PaperTable], bytes]]]] = {
    "csv": ("csv", _write_csv),
    "parquet": ("parquet", _write_parquet),
    "latex": ("tex", lambda table: format_latex(table).encode()),
    "markdown": ("md", lambda table: format_markdown(table).encode()),
}
