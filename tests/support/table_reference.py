"""The page `results/COLUMNS.md`, made of `results/schema.py`: every table with its key, and every column with its type.

`python tests/support/table_reference.py` writes it again. What the page says of a table is what the schema
and `results/frames.py` say of it, so a better sentence belongs there.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from quantfair.results import SCHEMA_VERSION, TABLES, Frames
from quantfair.results.schema import DIFFERENCES, SETTING_DIFFERENCES

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "results" / "COLUMNS.md"
SCHEMA: Final = ROOT / "results" / "schema.py"
README: Final = ROOT / "results" / "README.md"
WIDTH: Final = 120
# The columns that tell the rows of a table apart; `test_table_reference.py` holds them against stored tables. Null is a
# value of its own here.
KEYS: Final[dict[str, tuple[str, ...]]] = {
    "trials": ("trial_id",),
    "groups": ("dataset_id", "split", "grouping", "group"),
    "samples": ("dataset_id", "sample_id"),
    "predictions": ("trial_id", "runtime", "sample_id"),
    "runtimes": ("trial_id", "runtime", "session", "batch"),
    "layers": ("trial_id", "layer"),
    "sensitivity": ("trial_id", "layer", "split", "grouping", "group"),
    "mechanism": (),  # margin, accuracy and n_train come once for each runtime, which has no column
    "group_metrics": ("trial_id", "runtime", "grouping", "group", "metric", "class"),
    "reliability": ("config_id", "runtime", "grouping", "group", "bin"),
    "shifts": ("trial_id", "runtime", "comparison", "grouping", "group", "class"),
    "paired_metrics": ("trial_id", "runtime", "comparison", "grouping", "group"),
    "disparity": ("trial_id", "runtime", "comparison", "grouping", "metric"),
    "own_metrics": ("trial_id", "runtime", "comparison", "grouping", "group", "metric"),
    "families": ("family_id",),
    "contrasts": ("contrast_id", "grouping", "group"),
    "contrast_disparity": ("contrast_id", "grouping"),
    "spreads": ("kind", "runtime", "config_id", "comparison", "grouping", "group"),
    "verdicts": ("config_id", "trial_id", "runtime", "comparison", "grouping"),
    "choices": (
        *("dataset_id", "model", "training", "method", "base", "init", "weight_bits", "act_bits"),
        *("criterion", "grouping"),
    ),
    "correlations": ("config_id", "runtime", "comparison", "grouping", "statistic", "outcome"),
    "provenance": ("key",),
}
HEAD: Final = f"""# Every table and column

Made of `results/schema.py` (version {SCHEMA_VERSION}) by `tests/support/table_reference.py`; do not edit it by hand.
[README.md](README.md) says what the numbers mean and how often they are wrong. The tables are Parquet files in
`tables/` of a store, those of `predictions` in a folder of their own. `quantfair.read(STORE)` gives them as pandas
frames.

Units stand in names: `_pp` percentage points, `_nats` natural logarithms, `_s` seconds, `_ms` milliseconds, `_db`
decibels, `_bytes`, `_bits`. Every other rate is a fraction in [0, 1]. `ci_low` and `ci_high` are the limits of an
interval, nominally of 95 %. `n` is a number of images. A missing value is null, and the column `reason`, where there
is one, says why.

| column of many tables | what it is |
|---|---|
| `trial_id`, `config_id` | a trial; trials that differ in the seed alone |
| `other_trial_id`, `other_config_id` | the trial or configuration that it is compared with |
| `runtime` | what answered: `torch`, `onnxruntime`, `tensorrt` |
| `comparison` | `reference`, `control`, `twin` or `exact` |
| `grouping`, `group` | an attribute, an intersection (`ethnicity*gender`), `label` or `overall`; one group of it |
| `seed`, `seeds`, `n_seeds` | the seed of a trial; those of a configuration, and how many |
| `family_id`, `family_size` | which tests are corrected together, and how many they are |
"""


def read_comments() -> dict[str, list[str]]:
    """Return the comments of `schema.py` on each table, above it and beside it, by the name of its constant."""
    text = SCHEMA.read_text(encoding="utf-8")
    lines = text.splitlines()
    comments = {}
    for node in ast.parse(text).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        first = node.lineno - 1
        above = first
        while lines[above - 1].startswith("# "):
            above -= 1
        said = " ".join(line.removeprefix("# ") for line in lines[above:first])
        beside = lines[first].partition("(  # ")[2]
        comments[node.targets[0].id] = [text for text in (said, beside) if text]
    return comments


def find_constants() -> dict[str, str]:
    """Return the name of the constant of each table, as the dict `TABLES` has it in `schema.py`."""
    pairs = re.findall(r'^    "(\w+)": ([A-Z_]+),$', SCHEMA.read_text(encoding="utf-8"), flags=re.MULTILINE)
    constants = dict(pairs)
    assert set(constants) >= set(TABLES)
    return constants | {"differences": "DIFFERENCES", "setting_differences": "SETTING_DIFFERENCES"}


def describe(name: str) -> str:
    """Return the sentence of `frames.py` about a table, or an empty text."""
    if name == "predictions":
        return (
            "What every trial answered: one row for each image of val and test, in one file for each trial and runtime."
        )
    table = vars(Frames).get(name)
    return table.__doc__ or "" if table is not None else ""


def find_section(name: str) -> str | None:
    """Return the anchor of the heading of `results/README.md` that names a table."""
    for line in README.read_text(encoding="utf-8").splitlines():
        if line.startswith("## ") and f"`{name}`" in line:
            words = re.sub(r"[^\w\- ]", "", line.removeprefix("## ").lower())
            return words.replace(" ", "-")
    return None


def format_table(name: str, schema: pa.Schema, comments: list[str]) -> Iterator[str]:
    """Yield the lines of one table."""
    yield f"\n## `{name}`\n"
    texts = [text for text in (describe(name), *comments) if text]
    sentences = [text[0].upper() + text[1:].removesuffix(".") + "." for text in texts]
    if link := find_section(name):
        sentences.append(f"[What the numbers mean](README.md#{link}).")
    yield textwrap.fill(" ".join(sentences), WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"
    key = KEYS.get(name, ())
    if key:
        yield f"Key: {', '.join(f'`{column}`' for column in key)}.\n"
    yield "| column | type |"
    yield "|---|---|"
    for field in schema:
        yield f"| `{field.name}` | {format_type(field.type)} |"


def format_type(type_: pa.DataType) -> str:
    """Return "text", "float64" or "list of int32"."""
    if pa.types.is_list(type_):
        return f"list of {format_type(type_.value_type)}"
    return {"string": "text", "double": "float64", "float": "float32", "halffloat": "float16"}.get(
        str(type_), str(type_)
    )


def format_page() -> str:
    """Return the whole page."""
    comments = read_comments()
    constants = find_constants()
    lines = [HEAD.rstrip("\n")]
    for name, schema in TABLES.items():
        lines += format_table(name, schema, comments[constants[name]])
    lines.append("\n## Two stores compared\n")
    lines.append(
        "`report STORE --diff OTHER` writes these to `STORE/exports`, and `difference_disparity`, which has the"
    )
    lines.append("columns of `contrast_disparity`.")
    for name, schema in (("differences", DIFFERENCES), ("setting_differences", SETTING_DIFFERENCES)):
        lines += format_table(name, schema, comments[constants[name]])
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(format_page(), encoding="utf-8")
