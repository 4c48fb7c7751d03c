"""The table that a terminal shows while a sweep runs. It is drawn from the counts alone, four times a second.

What is drawn grows with the width and height of the terminal, never with the number of trials.
"""

import time
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from quantfair.orchestrator.executors.progress import STATES, Progress
from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.orchestrator.text import first_line, format_s
from quantfair.orchestrator.trials.outcome import TrialOutcome

REDRAWS_PER_S = 4
MOST_RUNNING = 8  # rows of what runs now
STYLES = {"ok": "green", "failed": "red", "running": "cyan", "blocked": "yellow", "total": "bold"}


class ProgressTable(Progress):
    """A live table. What is said stands under it, and all of it stays on the screen at the end."""

    def __init__(
        self,
        queue: BundleQueue,
        *,
        name: str = "sweep",
        before: Mapping[tuple[str, str], int] | None = None,
        console: Console | None = None,
    ):
        super().__init__(queue, name=name, before=before)
        self.said: list[str] = []
        self.console = console or Console(highlight=False)
        self.live = Live(self, console=self.console, refresh_per_second=REDRAWS_PER_S)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def say(self, text: str) -> None:
        """Keep a line under the table."""
        self.said.append(text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw everything; where the terminal is low, fewer of the trials that run."""
        counts = self.counts()
        above = [self._headline(counts), self._times(), Text(""), _draw_counts(counts), Text("")]
        below = [*self._failures(), *self._largest_drop(), *(Text(line, overflow="fold") for line in self.said)]
        n_lines = 5 + len(STATES) + len(below) + sum(ceil(len(line) / options.max_width) - 1 for line in self.said)
        yield Group(*above, *self._running(max(1, options.size.height - n_lines - 3)), *below)

    def _headline(self, counts: Mapping[str, Mapping[str, int]]) -> RenderableType:
        n_total = sum(count["total"] for count in counts.values())
        n_done = n_total - sum(count["running"] + count["waiting"] for count in counts.values())
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        grid.add_row(Text(self.name, "bold"), ProgressBar(n_total, n_done), f"{n_done} of {n_total}")
        return grid

    def _times(self) -> Text:
        left = f", about {format_s(self.left_s)} left" if self.queue.unfinished else ""
        retries = f", {self.n_retries} retried" if self.n_retries else ""
        return Text(f"{format_s(self.elapsed_s)}{left}, {self.rate_per_min:.1f} trials/min{retries}")

    def _running(self, n_rows: int) -> Iterable[RenderableType]:
        running = list(self.running.items())
        if not running:
            return
        shown = running[: min(MOST_RUNNING, n_rows)]
        grid = _make_grid(1, 1)
        for trial_id, (began, text) in shown:
            grid.add_row(Text(format_s(time.monotonic() - began), "cyan"), self._label(trial_id), Text(text, "dim"))
        yield grid
        more = len(running) - len(shown)
        yield Text(f"        +{more} more" if more else "", "dim")
        if more:
            yield Text("")

    def _failures(self) -> Iterable[RenderableType]:
        if not self.failures:
            return
        grid = _make_grid(1, 2)
        for outcome in list(self.failures):
            grid.add_row(Text("failed", "red"), self._label(outcome.trial_id), Text(first_line(outcome.error)))
        yield grid

    def _largest_drop(self) -> Iterable[RenderableType]:
        if (outcome := self.largest_drop) is not None:
            yield Text.assemble(
                "largest drop in this run: ", (_format_drop(outcome), "bold"), self._of(outcome.trial_id)
            )

    def _label(self, trial_id: str) -> Text:
        return Text(self.queue.trials[trial_id].label.partition(" (config ")[0])

    def _of(self, trial_id: str) -> Text:
        return Text(" in ").append(self._label(trial_id))


def _format_drop(outcome: TrialOutcome) -> str:
    return f"{outcome.largest_drop_pp:.1f} pp for {outcome.largest_drop_group}"


def _make_grid(*ratios: int) -> Table:
    """A grid of one narrow column and others that share the rest, each row on one line."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=7, no_wrap=True, justify="right")
    for ratio in ratios:
        grid.add_column(ratio=ratio, no_wrap=True, overflow="ellipsis")
    return grid


def _draw_counts(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """A row for each state and a column for each method: it fits into 40 columns."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    for _ in range(len(counts) + 1):
        grid.add_column(justify="right", min_width=5)
    grid.add_row("", *(Text(method, "bold") for method in counts), Text("all", "bold"))
    for state in (*STATES, "total"):
        numbers = [count[state] for count in counts.values()]
        cells = (Text(str(n), STYLES.get(state, "") if n else "dim") for n in (*numbers, sum(numbers)))
        grid.add_row(Text(state, STYLES.get(state, "")), *cells)
    return grid
