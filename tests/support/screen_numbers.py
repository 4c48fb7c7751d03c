"""Compares every number of the static part of a page with the tables of its store, looked up by other code.

The page names configurations ("PTQ on FP32-FT 4 bits") and data ("utkface · gender · small_cnn"). What these names
mean is the catalog's; which configuration stands in a row, and every number, is looked up here, in pandas. Each check
returns how many numbers it compared.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pytest
from html_page import Element, Page, rows_of

from quantfair.results.page.catalog import Config, Data, make_catalog

ROWS = {
    "PTQ against FP32": ("PTQ", "reference"),
    "QAT against FP32": ("QAT", "reference"),
    "QAT against FP32-FT": ("QAT", "control"),
    "QAT from scratch against FP32": ("QAT from scratch", "reference"),
    "Fine-tuning alone": ("FP32-FT", "reference"),
}


MARK = " (contains the answer: class-wise recall)"
LIMITS = re.compile(r"\[(−?[\d.]+),\s(−?[\d.]+)\]")


class Key(NamedTuple):
    """What tells a row of a table apart."""

    config_id: str
    comparison: str
    runtime: str
    grouping: str


class Expected:
    """The tables as frames, indexed by Key; and the configurations by what the page calls them."""

    def __init__(self, tables: Mapping[str, pa.Table]):
        self.catalog = make_catalog(tables)
        self.frames: dict[str, Any] = {name: table.to_pandas() for name, table in tables.items() if name != "samples"}
        self.chosen = set(self.frames["choices"].query("criterion == 'accuracy'").config_id)
        self.rows: dict[str, dict[Key, list[Any]]] = {}
        for name in ("verdicts", "contrasts", "contrast_disparity"):
            frame = self.frames[name]
            frame = frame[frame.comparison.notna() & (frame.kind != "data" if "kind" in frame else True)]
            if name == "verdicts":
                texts = ("group", "answer", "told", "reason")
                frame = frame.assign(
                    **{text: frame[text].astype(object).where(frame[text].notna(), None) for text in texts}
                )
            found = self.rows.setdefault(name, {})
            for row in frame.itertuples():
                key = Key(row.config_id, row.comparison, row.runtime, row.grouping)
                found.setdefault(key, []).append(row)

    def data_of(self, text: str) -> Data:
        """The data whose title a caption begins with."""
        return max((one for one in self.catalog.data if text.startswith(one.title)), key=lambda one: len(one.title))

    def named(self, data: Data, variant: str, bits: str) -> list[Config]:
        """Configurations of one method and bits that have finished."""
        known = [config for config in self.catalog.configs if config.data == data and config.ok]
        return [config for config in known if (config.variant, config.bits) == (variant, bits)]

    def primary(self, data: Data, head: str) -> Config:
        """The configuration that val chose, of a row such as "PTQ on FP32-FT 4 bits" or "FP32"."""
        variant, bits = split_head(head)
        found = self.named(data, variant, bits)
        best = [config for config in found if config.config_id in self.chosen]
        return (best or found)[0]

    def one(self, table: str, key: Key, group: str | None = None) -> Any:
        (row,) = [row for row in self.rows[table][key] if group is None or row.group == group]
        return row

    def files(self, key: Key) -> list[Any]:
        """The verdicts on the single models."""
        return [row for row in self.rows["verdicts"][key] if row.scope == "file"]

    def verdict(self, key: Key) -> Any:
        """The verdict on the recipe, or where it has none that on the one model."""
        (recipe,) = [row for row in self.rows["verdicts"][key] if row.scope == "recipe"]
        files = self.files(key)
        return files[0] if recipe.word == "no verdict" and len(files) == 1 else recipe

    def spread(self, key: Key) -> list[float]:
        """How far apart the drops are, and the p where one seed was trained."""
        row = self.one("contrast_disparity", key)
        return known(row.drop_disparity_pp, row.null_p)

    def gap(self, config: Config, runtime: str, grouping: str) -> float:
        """Best minus worst accuracy of a group, the mean over seeds."""
        frame = self.frames["disparity"].query("metric == 'acc_gap_maxmin_pp'")
        mine = frame[(frame.runtime == runtime) & (frame.grouping == grouping)]
        return float(mine[mine.trial_id.isin([trial["trial_id"] for trial in config.ok])].value.mean())


def split_head(head: str) -> tuple[str, str]:
    """ "QAT 8 bits" is QAT at "8", "PTQ W4A8" is PTQ at "W4A8"."""
    name, _, bits = head.removesuffix(" bits").rpartition(" ")
    return (name, bits) if name and bits[-1].isdigit() else (head, "FP32")


def head_of(row: list[Element]) -> str:
    """The head of a row without its small print."""
    return "".join(child for child in row[0].children if isinstance(child, str)).strip()


def titles_of(table: Element) -> list[str]:
    return [th.text for th in table.find("thead")[0].find("th")]


def grouping_of(data: Data, title: str) -> str:
    (name,) = [grouping.name for grouping in data.groupings if grouping.title == title]
    return name


def side_of(config: Config, name: str) -> str:
    return "control" if config.method == "qat" and name == "FP32-FT" else "reference"


def known(*values: float) -> list[float]:
    return [value for value in values if not pd.isna(value)]


def check_screen(page: Page, tables: Mapping[str, pa.Table]) -> int:
    """Compare all of the static part."""
    expected = Expected(tables)
    checks = (check_reach, check_matrix, check_causes, check_mixtures, check_deployed, check_losses)
    return sum(check(page, expected) for check in checks)


def check_reach(page: Page, expected: Expected) -> int:
    """Sizes, accuracy of the float model, and which losses are ruled out."""
    n_checked, groups = 0, expected.frames["groups"].query("split == 'test'")
    rows = rows_of(page.by_id("reach").find("table", "reach")[0])
    order = [(one, grouping) for one in expected.catalog.data for grouping in one.groupings]
    for (data, grouping), row in zip(order, rows, strict=True):
        if grouping == data.groupings[0]:
            fp32 = [t for c in expected.catalog.configs if c.data == data and c.method == "fp32" for t in c.ok]
            means = [sum(trial["accuracy"] for trial in fp32) / len(fp32), max(trial["n_test"] for trial in fp32)]
            assert row[1].numbers == pytest.approx(means)
            n_checked += 2
        sizes = groups[(groups.dataset_id == data.dataset_id) & (groups.grouping == grouping.name)].n
        assert row[-2].numbers == [sizes[sizes > 0].min()]
        found = [
            expected.verdict(Key(config.config_id, side, "torch", grouping.name)).at_most_pp
            for config in expected.catalog.configs
            if config.data == data and config.ok and config.method in ("ptq", "qat")
            if config == expected.primary(data, f"{config.variant} {config.bits}")
            for side in [usual_side(expected, config)]
        ]
        ends = [min(known(*found)), max(known(*found))] if known(*found) else []
        assert row[-1].numbers in (ends, ends[:1])
        shown = [read_number(span.text.split(" ")[0]) for span in row[-1].find("span")]
        assert all(end <= number < end + 0.1 for end, number in zip(ends, shown, strict=False)), "rounded up"
        n_checked += 1 + len(ends)
    return n_checked


def usual_side(expected: Expected, config: Config) -> str:
    """The control of QAT, if it has one."""
    has_control = Key(config.config_id, "control", "torch", "overall") in expected.rows["contrasts"]
    return "control" if config.method == "qat" and has_control else "reference"


def call_verdict(row: Any) -> str:
    """The word, with the answer where the word leaves it open."""
    is_open = row.word == "unchanged" and row.answer == "cannot tell"
    return "unchanged (cannot tell)" if is_open else row.word


def count_words(text: str) -> Counter[str]:
    """Read "2 unchanged (cannot tell), 1 loses"."""
    parts = (part.split(" ", 1) for part in text.split(", "))
    return Counter({word: int(number) for number, word in parts})


def read_number(text: str) -> float:
    return float(text.replace("−", "-"))


def check_limits(text: str, row: Any) -> int:
    """Compare what stands in brackets with the limits of a drop, rounded away from each other by less than a digit."""
    low, high = (row.drop_ci_low_pp, row.drop_ci_high_pp) if pd.isna(row.lower_pp) else (row.lower_pp, row.upper_pp)
    if text.startswith("gains"):
        low, high = -high, -low
    found = LIMITS.search(text)
    assert found, text
    shown_low, shown_high = map(read_number, found.groups())
    assert low - 0.1 < shown_low <= low + 1e-4 * abs(low), (text, low)
    assert high + 0.1 > shown_high >= high - 1e-4 * abs(high), (text, high)
    return 2


def check_verdict(expected: Expected, cell: Element, key: Key) -> int:
    """Compare a cell with a verdict: its word, its sentence, and the words of the single models."""
    verdict, word = expected.verdict(key), cell.find("b", "word")[0]
    assert word.text.split(" ", 1)[1].removesuffix(" *") == call_verdict(verdict)
    said = verdict.told or verdict.reason
    assert word.attributes["title"] == said
    assert said in cell.text
    files = expected.files(key)
    if len(files) > 1:
        (told,) = [small.text for small in cell.find("small") if small.text.startswith("its ")]
        start, _, words = told.partition(" files, one by one: ")
        assert start == f"its {len(files)}"
        assert count_words(words) == Counter(map(call_verdict, files))
    return 3 + len(files)


def check_matrix(page: Page, expected: Expected) -> int:
    """Who loses: the verdict on what val chose, by every grouping."""
    n_checked = 0
    for table in page.by_id("losers").find("table", "matrix"):
        data = expected.data_of(table.find("caption")[0].text)
        titles = [title.removeprefix("by ").removesuffix(MARK) for title in titles_of(table)[1:]]
        groupings = [grouping_of(data, title) for title in titles]
        for row in rows_of(table):
            config = expected.primary(data, head_of(row))
            side = side_of(config, row[0].words.rpartition("against ")[2])
            for grouping, cell in zip(groupings, row[1:], strict=True):
                n_checked += check_verdict(expected, cell, Key(config.config_id, side, "torch", grouping))
    return n_checked


def check_causes(page: Page, expected: Expected) -> int:
    """Overall drops, how far apart drops and accuracies are, in every comparison and at every number of bits."""
    n_checked = 0
    for table in page.by_id("causes").find("table", "matrix"):
        data = expected.data_of(table.find("caption")[0].text)
        grouping = data.groupings[0].name
        for row in rows_of(table):
            for bits, cell in zip(titles_of(table)[1:], row[1:], strict=False):
                if not cell.numbers:
                    continue
                if head_of(row) not in ROWS:
                    n_checked += check_like_for_like(expected, data, bits, cell)
                    continue
                variant, comparison = ROWS[head_of(row)]
                config = expected.primary(data, variant if variant == "FP32-FT" else f"{variant} {bits}")
                key = Key(config.config_id, comparison, "torch", grouping)
                overall, spread = expected.one("contrasts", key._replace(grouping="overall")), expected.spread(key)
                gap = expected.gap(config, "torch", grouping)
                wanted = [overall.drop_pp, *spread, *known(gap)]
                assert cell.numbers == pytest.approx(wanted), (head_of(row), bits)
                n_checked += check_limits(cell.find("span")[0].text, overall)
                n_checked += len(wanted)
    return n_checked


def check_like_for_like(expected: Expected, data: Data, bits: str, cell: Element) -> int:
    """QAT against PTQ of its own control: of the primary QAT, and of a primary PTQ if one of them is."""
    config = expected.primary(data, f"QAT {bits}")
    return check_question(expected, "qat_vs_ptq", config, cell.numbers, data)


def check_question(
    expected: Expected, kind: str, config: Config, numbers: list[float], data: Data, **equals: str
) -> int:
    """Compare a contrast of all images that is in the tables once for each other side."""
    frame = expected.frames["contrasts"]
    mine = frame[(frame.kind == kind) & (frame.config_id == config.config_id) & (frame.grouping == "overall")]
    for column, value in equals.items():
        mine = mine[mine[column] == value]
    spreads = expected.frames["contrast_disparity"].query(f"grouping == '{data.groupings[0].name}'")
    candidates, named = [], []
    for row in mine.itertuples():
        spread = spreads[spreads.contrast_id == row.contrast_id].iloc[0]
        gap = expected.gap(config, "torch", data.groupings[0].name)
        candidates.append([row.drop_pp, *known(spread.drop_disparity_pp, spread.null_p, gap)])
        other = expected.catalog.find(str(row.other_config_id))
        is_named = other and expected.primary(other.data, f"{other.variant} {other.bits}") == other
        named += candidates[-1:] if is_named else []
    assert any(numbers == pytest.approx(one) for one in named or candidates), (kind, config.name)
    return len(numbers)


def check_mixtures(page: Page, expected: Expected) -> int:
    """What quantization costs more under other training data."""
    n_checked = 0
    for table in page.by_id("mixtures").find("table", "matrix"):
        for row in rows_of(table):
            (data,) = [one for one in expected.catalog.data if expected.catalog.call(one) == head_of(row)]
            config = expected.primary(data, row[1].words)
            numbers = [*row[2].numbers, *row[3].numbers]
            side = usual_side(expected, config)
            n_checked += check_question(expected, "data", config, numbers, data, comparison=side)
    return n_checked


def twins(page: Page, expected: Expected) -> Iterator[tuple[Data, str, list[Element]]]:
    for table in page.by_id("deployed").find("table", "matrix"):
        title, _, rest = table.find("caption")[0].text.rpartition(": ")
        for row in rows_of(table):
            yield expected.data_of(title), rest.removesuffix(" against torch"), row


def check_deployed(page: Page, expected: Expected) -> int:
    """Each configuration against itself in torch and against its float model, in a runtime; times."""
    n_checked, times, shown = 0, expected.frames["runtimes"], set[tuple[str, str]]()
    times = times[(times.batch == 1) & (times.session != "exact")]
    for data, runtime, row in twins(page, expected):
        config = find_named(expected, data, row)
        shown.add((runtime, config.config_id))
        key = Key(config.config_id, "twin", runtime, data.groupings[0].name)
        overall = expected.one("contrasts", key._replace(grouping="overall"))
        assert row[1].numbers == [overall.drop_pp]
        n_checked += 2 + check_limits(row[1].text, overall) + check_verdict(expected, row[2], key)
        assert row[3].numbers == [overall.flip_rate]
        key = key._replace(comparison="reference")
        if key in expected.rows["verdicts"]:
            assert row[4].find("b", "word")[0].text.split(" ", 1)[1] == call_verdict(expected.verdict(key))
            assert row[4].numbers == [expected.one("contrasts", key._replace(grouping="overall")).drop_pp]
            n_checked += 2
        p50 = times[(times.runtime == runtime) & times.trial_id.isin([trial["trial_id"] for trial in config.ok])].p50_ms
        assert row[5].numbers == pytest.approx(known(p50.mean()))
        n_checked += len(row[5].numbers)
    for runtime in {runtime for runtime, _ in shown}:
        check_broken(expected, runtime, {config_id for name, config_id in shown if name == runtime})
    return n_checked


def check_broken(expected: Expected, runtime: str, shown: set[str]) -> None:
    """Named are what val chose, and those of which more than 1 % and twice as many answers change."""
    for config in expected.catalog.configs:
        best = (
            expected.primary(config.data, f"{config.variant} {config.bits}".removesuffix(" FP32"))
            if config.ok
            else config
        )
        keys = [Key(one.config_id, "twin", runtime, "overall") for one in (config, best)]
        if all(key in expected.rows["contrasts"] for key in keys):
            rate, usual = (expected.one("contrasts", key).flip_rate for key in keys)
            is_named = config == best or (rate > 0.01 and rate > 2 * usual)
            assert (config.config_id in shown) == is_named, config.name


def find_named(expected: Expected, data: Data, row: list[Element]) -> Config:
    """The configuration of a row whose small print has its settings."""
    settings = "; ".join(small.text for small in row[0].find("small"))
    known = expected.named(data, *split_head(head_of(row)))
    (config,) = [config for config in known if config.name.partition(", ")[2] == settings]
    return config


def check_losses(page: Page, expected: Expected) -> int:
    """The tables behind "who loses"."""
    n_checked = 0
    for details in page.by_id("losses").find("details"):
        title, table = details.find("summary")[0].text, details.find("table", "losses")[0]
        data = expected.data_of(title)
        grouping = grouping_of(data, title.removeprefix(f"{data.title}, by ").removesuffix(MARK))
        for row in rows_of(table):
            config = expected.primary(data, head_of(row))
            key = Key(config.config_id, side_of(config, row[1].words), "torch", grouping)
            verdict, spread = expected.verdict(key), expected.spread(key)
            assert row[2].words.split(" ", 1)[1].removesuffix(" *") == call_verdict(verdict)
            overall = expected.one("contrasts", key._replace(grouping="overall"))
            wanted = [[overall.drop_pp], [], []]
            n_checked += check_limits(row[3].text, overall)
            if verdict.group and verdict.group != "all images":
                worst = expected.one("contrasts", key, verdict.group)
                wanted[1:] = [[worst.drop_pp], [worst.excess_pp]]
                n_checked += check_limits(row[4].find("span")[-1].text, worst)
                least = read_number(row[5].text.rpartition("at least ")[2])
                assert worst.excess_lower_pp - 0.1 < least <= worst.excess_lower_pp
            wanted += [spread, known(expected.gap(config, "torch", grouping))]
            for cell, numbers in zip(row[3:8], wanted, strict=True):
                assert cell.numbers == pytest.approx(numbers), (title, head_of(row))
                n_checked += len(numbers)
    return n_checked
