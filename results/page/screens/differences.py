"""The tables of two stores side by side, as a section of the page: what changed, where, and by which settings."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from quantfair.results.page.catalog import OVERALL, Data, Grouping, Tables
from quantfair.results.page.formatting import (
    MISSING,
    NO_BREAK,
    count,
    escape,
    format_drop,
    format_interval,
    format_percent,
    format_pp,
    render_number,
    render_table,
)
from quantfair.results.page.fragments import join_cells, name_group, render_disparity, small
from quantfair.results.page.index import Facts
from quantfair.results.schema import MIN_RANKED

Row = dict[str, Any]
HEAD: Final = (
    "Configuration",
    "There → here",
    "All images",
    "Who lost most",
    "How unevenly",
    "Own drop, here minus there",
)


def render_differences(facts: Facts, tables: Tables, other: str) -> str:
    """Return the section; nothing where the page is of one store."""
    if "differences" not in tables:
        return ""
    rows = tables["differences"].to_pylist()
    names = {config.config_id: config.name for config in facts.catalog.configs}
    spreads = tables["difference_disparity"].to_pylist()
    parts = [
        f'<section id="differences"><h2>Against {escape(other)}</h2>{_render_counts(rows)}',
        *(_render_data(data, _Changes(rows, spreads, _find_ids(facts, data)), names) for data in facts.catalog.data),
        '<p class="note">A drop is the accuracy there minus the accuracy here, of the same configuration: positive '
        "where this store is worse. Own drop: what it loses here against its reference, of QAT against its control, "
        "minus what it loses there.</p>",
        _render_settings(tables["setting_differences"].to_pylist()),
        _render_alone(rows, names),
        "</section>",
    ]
    return "\n".join(parts)


def is_ranked(row: Row) -> bool:
    """Whether a group is large enough in both stores to be called the worst."""
    sizes = row["n"], row["n"] if row["other_n"] is None else row["other_n"]  # null where the images are the same
    return min(sizes) >= MIN_RANKED


def _find_ids(facts: Facts, data: Data) -> set[str]:
    return {config.config_id for config in facts.catalog.configs if config.data == data}


def _render_counts(rows: Sequence[Row]) -> str:
    whole = [
        row for row in rows if row["kind"] == "store" and row["grouping"] == OVERALL and row["drop_pp"] is not None
    ]
    changed = [row for row in whole if row["drop_ci_low_pp"] > 0 or row["drop_ci_high_pp"] < 0]
    return (
        f"<p>{count(len(whole), 'configuration')} of both; in {len(changed)} of them the interval of what all images "
        "lose or gain excludes 0.</p>"
    )


class _Changes:
    """The rows of one data set: of a configuration, `store` or `store_damage`, a grouping and a side, by group."""

    def __init__(self, rows: Iterable[Row], spreads: Iterable[Row], config_ids: set[str]):
        self.rows: dict[tuple[str, str, str, str | None], list[Row]] = defaultdict(list)
        for row in rows:
            if row["config_id"] in config_ids and row["drop_pp"] is not None:
                self.rows[row["config_id"], row["kind"], row["grouping"], row["comparison"]].append(row)
        self.spreads = {(row["config_id"], row["grouping"]): row for row in spreads if row["kind"] == "store"}

    @property
    def config_ids(self) -> list[str]:
        """The configurations that both stores have, those whose groups changed most first."""
        sizes: dict[str, float] = {}
        for (config_id, kind, _, _), rows in self.rows.items():
            if kind == "store":
                changes = [abs(row["drop_pp"]) for row in rows if is_ranked(row)]
                sizes[config_id] = max([sizes.get(config_id, 0.0), *changes])
        return sorted(sizes, key=lambda config_id: -sizes[config_id])

    def overall(self, config_id: str) -> Row:
        """What all images lose."""
        return self.rows[config_id, "store", OVERALL, None][0]

    def worst(self, config_id: str, grouping: Grouping) -> Row | None:
        """The ranked group that loses most, if one loses anything."""
        rows = [row for row in self.rows[config_id, "store", grouping.name, None] if is_ranked(row)]
        return max((row for row in rows if row["drop_pp"] > 0), key=lambda row: row["drop_pp"], default=None)

    def damage(self, config_id: str) -> Row | None:
        """What quantization costs more here: of QAT against its control, else against the reference."""
        found = (self.rows.get((config_id, "store_damage", OVERALL, side)) for side in ("control", "reference"))
        return next((rows[0] for rows in found if rows), None)


def _render_data(data: Data, changes: _Changes, names: dict[str, str]) -> str:
    parts = []
    for number, grouping in enumerate(data.groupings):
        body = [
            f'<th scope="row">{escape(names[config_id])}</th>'
            + join_cells(_format(changes, config_id, grouping), HEAD[1:])
            for config_id in changes.config_ids
        ]
        if body:
            title = f"{data.title}, by {grouping.title}"
            table = render_table(HEAD, body, caption=title, kind="losses")
            opened = " open" if number == 0 else ""
            parts.append(f"<details{opened}><summary>{escape(title)}</summary>{table}</details>")
    return "".join(parts)


def _format(changes: _Changes, config_id: str, grouping: Grouping) -> list[str]:
    whole, worst = changes.overall(config_id), changes.worst(config_id, grouping)
    spread, quantized = changes.spreads.get((config_id, grouping.name), {}), changes.damage(config_id)
    return [
        f"{format_percent(whole['other_accuracy'])} → {format_percent(whole['accuracy'])}".replace(
            " %", f"{NO_BREAK}%"
        ),
        _say(whole),
        f"{grouping.prefix}{name_group(worst['group'])} {_say(worst)}" if worst else f"no {grouping.noun} loses",
        render_disparity(spread or {"reason": whole["reason"]}),
        _more(quantized) if quantized else MISSING,
    ]


def _say(row: Row) -> str:
    text = format_drop(row["drop_pp"], row["drop_ci_low_pp"], row["drop_ci_high_pp"])
    return render_number(text, row["drop_pp"])


def _more(row: Row) -> str:
    sign = "+" if row["drop_pp"] > 0 else ""
    text = f"{sign}{format_pp(row['drop_pp'])} pp{format_interval(row['drop_ci_low_pp'], row['drop_ci_high_pp'])}"
    return render_number(text, row["drop_pp"]) + small(f"against its {row['comparison']}")


def _render_settings(rows: Sequence[Row]) -> str:
    if not rows:
        return "<p>Settings, versions and machine are the same.</p>"
    body = [
        f'<th scope="row">{escape(row["setting"])}</th>'
        + "".join(f"<td>{escape(row[name] or MISSING)}</td>" for name in ("method", "there", "here"))
        for row in rows
    ]
    table = render_table(
        ("Setting", "Of", "There", "Here"), body, caption="What was set differently", kind="provenance"
    )
    return f"<h3>What was set differently</h3>{table}"


def _render_alone(rows: Sequence[Row], names: dict[str, str]) -> str:
    alone = [row for row in rows if row["grouping"] is None or _has_no_seed(row)]
    reasons = Counter(row["reason"] for row in alone)
    items = "".join(
        f"<li>{count(number, 'configuration')}: {escape(reason)}{_list_names(alone, reason, names)}</li>"
        for reason, number in reasons.items()
    )
    return f"<h3>Not compared</h3><ul>{items}</ul>" if items else ""


def _has_no_seed(row: Row) -> bool:
    return row["kind"] == "store" and row["grouping"] == OVERALL and row["drop_pp"] is None


def _list_names(alone: Sequence[Row], reason: str, names: dict[str, str]) -> str:
    known = [names[row["config_id"]] for row in alone if row["reason"] == reason and row["config_id"] in names]
    return f" ({escape('; '.join(known))})" if known else ""
