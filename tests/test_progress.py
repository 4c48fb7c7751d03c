"""What a person sees of a sweep that runs: counts from events, the live table on a real terminal, plain lines."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from io import StringIO
from pathlib import Path

import pytest
from processes import LIMIT_S, start_process
from rich.console import Console
from test_plan import plan_of
from test_sweep import ROOT, SWEEP, run

from quantfair.orchestrator.config.spec import ResourcesByMethod
from quantfair.orchestrator.executors.progress import Progress, ProgressLines
from quantfair.orchestrator.executors.progress_table import MOST_RUNNING, ProgressTable
from quantfair.orchestrator.planning.bundle_queue import BundleQueue
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.text import format_s
from quantfair.orchestrator.trials.outcome import TrialOutcome

PLAN = plan_of("seeds=[0, 1]")


def end(progress: Progress, trial: PlannedTrial, outcome: TrialOutcome) -> None:
    progress.queue.finish(outcome.trial_id, outcome.status, seconds=outcome.seconds)
    progress.finished(outcome)


def make_queue() -> BundleQueue:
    return BundleQueue(PLAN, done=[], resources=ResourcesByMethod())


def play(progress: Progress) -> None:
    """Seed 0: fp32 is lost once, then ok; one PTQ ok, one runs. Seed 1: fp32 fails."""
    first, *children = (trial for trial in PLAN if trial.seed == 0)
    other = next(trial for trial in PLAN if trial.seed == 1)
    progress.started(first.trial_id)
    progress.retried(first.trial_id)
    progress.started(first.trial_id)
    progress.training(first.trial_id, "epoch 1/3: train loss 0.5 nats")
    end(progress, first, TrialOutcome(first.trial_id, "ok", 2.0, stage_s={"train_s": 1.5}))
    end(progress, other, TrialOutcome(other.trial_id, "failed", 1.0, error="RuntimeError: no luck\nsecond line"))
    end(progress, children[0], TrialOutcome(children[0].trial_id, "ok", 0.5, 3.06, "ethnicity Others"))
    end(progress, children[1], TrialOutcome(children[1].trial_id, "ok", 0.5, -1.0, "ethnicity White"))
    progress.started(children[2].trial_id)
    progress.training(children[2].trial_id, "epoch 2/3: train loss 0.25 nats")


def draw(progress: ProgressTable, *, width: int, height: int = 40) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height, color_system=None)
    console.print(progress)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def test_counts_follow_the_events() -> None:
    progress = Progress(make_queue(), before={("fp32", "ok"): 2, ("ptq", "failed"): 1, ("qat", "blocked"): 3})
    play(progress)
    states = ("ok", "failed", "running", "waiting", "blocked", "total")
    counts = {method: tuple(by_state[state] for state in states) for method, by_state in progress.counts().items()}
    assert counts == {
        "fp32": (3, 1, 0, 0, 0, 4),
        "fp32_ft": (0, 0, 0, 1, 1, 2),
        "ptq": (2, 1, 1, 7, 10, 21),
        "qat": (0, 0, 0, 6, 9, 15),
    }
    assert progress.n_retries == 1
    assert progress.largest_drop is not None
    assert progress.largest_drop[3:5] == (3.06, "ethnicity Others")
    assert progress.stage_s == {("fp32", "train_s"): 1.5}


def test_the_time_left_is_shared_by_no_more_slots_than_trials_and_shrinks_as_they_run() -> None:
    queue = BundleQueue(PLAN[:1], done=[], resources=ResourcesByMethod())
    queue.n_slots = 8
    progress = Progress(queue)
    alone_s = queue.remaining_s()
    assert progress.left_s == alone_s
    progress.started(PLAN[0].trial_id)
    progress.running[PLAN[0].trial_id] = progress.running[PLAN[0].trial_id]._replace(began=time.monotonic() - 5)
    assert progress.left_s == pytest.approx(alone_s - 5, abs=1)
    progress.running[PLAN[0].trial_id] = progress.running[PLAN[0].trial_id]._replace(began=time.monotonic() - 1e6)
    assert progress.left_s == 0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "2 h 0 min"), (9000, "2 h 30 min"), (200_000, "2 d 7 h")],
)
def test_times_read_well_from_seconds_to_days(seconds: float, said: str) -> None:
    assert format_s(seconds) == said


def test_the_table_says_what_runs_what_failed_and_why_and_who_lost_most() -> None:
    table = ProgressTable(make_queue(), name="faces")
    table.say("results: s3://bucket/faces")
    play(table)
    lines = draw(table, width=100)
    text = "\n".join(lines)
    assert re.match(r"faces ━+.* 21 of 36$", lines[0])
    assert re.match(r"0 s, about \d+ s left, [\d.]+ trials/min, 1 retried$", lines[1])
    assert re.search(r"^ok +1 +0 +2 +0 +3$", text, re.MULTILINE)
    assert re.search(r"^blocked +0 +1 +10 +6 +17$", text, re.MULTILINE)
    assert re.search(r"^ +0 s ptq \S+ \S+ seed 0 +epoch 2/3: train loss 0.25 nats$", text, re.MULTILINE)
    assert re.search(r"^ failed fp32 seed 1 +RuntimeError: no luck$", text, re.MULTILINE)
    assert "largest drop in this run: 3.1 pp for ethnicity Others in ptq" in text
    assert lines[-1] == "results: s3://bucket/faces"
    assert "second line" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_table_fits_the_width(width: int) -> None:
    table = ProgressTable(make_queue(), name="faces")
    table.say("on Ray, 2 trials at a time   Ray dashboard: http://127.0.0.1:8265")
    play(table)
    lines = draw(table, width=width)
    assert max(map(len, lines)) <= width
    assert next(line for line in lines if "fp32_ft" in line).split() == ["fp32", "fp32_ft", "ptq", "qat", "all"]
    assert next(line for line in lines if line.startswith("total")).split() == ["total", "2", "2", "20", "12", "36"]
    assert "http://127.0.0.1:8265" in "".join(lines)


def test_however_much_runs_and_fails_the_table_keeps_its_height() -> None:
    table = ProgressTable(make_queue())
    for trial in PLAN:
        table.started(trial.trial_id)
    assert f"+{len(PLAN) - MOST_RUNNING} more" in "\n".join(draw(table, width=80))
    low = draw(table, width=80, height=20)
    assert len(low) <= 20
    assert f"+{len(PLAN) - 7} more" in "\n".join(low)
    for trial in PLAN:
        table.finished(TrialOutcome(trial.trial_id, "failed", error="ValueError: no"))
    assert "\n".join(draw(table, width=80)).count("ValueError") == 3


def test_a_failure_without_a_known_cause_points_to_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines(make_queue())
    lines.finished(TrialOutcome(PLAN[0].trial_id, "failed"))
    assert f"({PLAN[0].trial_id}): its log says why" in capsys.readouterr().out


def test_quiet_lines_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines(make_queue(), quiet=True)
    lines.say("hello")
    play(lines)
    assert capsys.readouterr().out == ""


class Terminal:
    """A command on a real terminal of its own."""

    def __init__(self, *words: str, columns: int = 80):
        self.fd, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        command = [sys.executable, "-m", "orchestrator", *words]
        environment = {**os.environ, "TERM": "xterm-256color"}
        self.process = start_process(command, cwd=ROOT, stdin=child, stdout=child, stderr=child, env=environment)
        os.close(child)
        self.said = ""

    def read_until(self, pattern: str | None = None) -> str:
        """Return what was said until the pattern was seen, or to the end."""
        while pattern is None or not re.search(pattern, self.said):
            ready, _, _ = select.select([self.fd], [], [], LIMIT_S)
            assert ready, f"nothing for {LIMIT_S:g} s after: {self.said}"
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # the other side is closed
                data = b""
            if not data:
                assert pattern is None, self.said
                break
            self.said += data.decode(errors="replace")
        return self.said

    def close(self) -> int:
        self.process.kill()
        os.close(self.fd)
        return self.process.wait()


HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def test_on_a_terminal_the_last_table_stays_and_the_result_follows(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SWEEP)
    words = ("sweep", str(tmp_path / "tiny.toml"), "seeds=[0]", "experiments.0.train.epochs=3", "--executor", "inline")
    terminal = Terminal(*words, "--store", str(tmp_path / "store"))
    said = terminal.read_until()
    assert terminal.process.wait(LIMIT_S) == 0
    terminal.close()
    after = said.rpartition(SHOW)[2]
    assert HIDE in said
    assert re.search(r"5 of 5 trials ok, 0 failed, 0 missing\.\s+dashboard: ", after)
    last_table = said.rpartition(SHOW)[0].rpartition("tiny ")[2]  # the name stands at the head
    assert "5 of 5" in last_table
    assert f"results: {tmp_path}" in last_table.replace("\r\n", "")


def test_ctrl_c_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SWEEP)
    long = ("seeds=[0]", "quant=[]", "experiments.0.train.epochs=100000")
    words = ("sweep", str(tmp_path / "tiny.toml"), *long, "--executor", "inline")
    terminal = Terminal(*words, "--store", str(tmp_path / "store"), columns=40)
    try:
        terminal.read_until(r"epoch \d")
        terminal.process.send_signal(signal.SIGINT)
        said = terminal.read_until()
        assert terminal.process.wait(LIMIT_S) == 130
        assert said.rfind(SHOW) > said.rfind(HIDE) >= 0
        assert "Interrupted. Finished trials are kept" in said.rpartition(SHOW)[2]
    finally:
        terminal.close()


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SWEEP)
    words = (str(tmp_path / "tiny.toml"), "seeds=[0]", "quant=[]", "--executor", "inline")
    said = run("sweep", *words, "--store", str(tmp_path / "store")).stdout
    assert "\x1b" not in said
    assert re.search(r"^\[1/1\] +\d+ s, 0 running, 0 failed, about 0 s left: fp32 seed 0", said, re.MULTILINE)
