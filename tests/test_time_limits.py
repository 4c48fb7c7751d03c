"""Every test ends: pytest as a child, in the same settings as here, and started like a job in the background."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from time_limits import SLOW_LIMIT_S

from quantfair.orchestrator.executors.inline import _time_limit

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
NEVER_ENDING = """
import ctypes, signal, subprocess, sys
import pytest
from processes import lives, start_process

SLEEPS = [sys.executable, "-c", "import time; print(flush=True); time.sleep(3600)"]
started = []

@pytest.mark.timeout(60)
def test_an_interrupt_arrives():
    process = start_process(SLEEPS, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT

def test_that_waits_for_ever():
    started.append(start_process(SLEEPS))
    started[0].wait()

def test_nothing_is_left_of_it():
    assert not lives(started[0].pid)

@pytest.mark.slow
def test_that_is_slow(request):
    assert request.node.get_closest_marker("timeout").args == (1800,)

def test_that_never_comes_back_to_python():
    # No signal interrupts this lock, and nothing else of Python runs meanwhile.
    library, lock = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what a worker of pytest says of tests that do not end by themselves."""
    file = tmp_path_factory.mktemp("child") / "test_never_ending.py"
    file.write_text(NEVER_ENDING)
    limits = ("-o", "timeout=3", "-o", "faulthandler_timeout=10")
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(file.parent)]
    command += [
        "-p",
        "no:cacheprovider",
        "-p",
        "time_limits",
        "-n",
        "1",
        "--max-worker-restart=0",
        "-v",
        "-m",
        "",
        *limits,
    ]
    paths = [str(TESTS / "support"), os.environ.get("PYTHONPATH", "")]
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a child inherits it
    try:
        child = subprocess.run(
            [*command, str(file)],
            cwd=file.parent,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert child.returncode == 1, child.stdout + child.stderr
    return child.stdout


def outcome_of(test: str, said: str) -> list[str]:
    """Return PASSED or FAILED, in the words of pytest."""
    return re.findall(rf"(PASSED|FAILED|ERROR) test_never_ending.py::test_{test}\b", said)


def test_an_interrupt_arrives_in_a_job_in_the_background(said: str) -> None:
    assert outcome_of("an_interrupt_arrives", said) == ["PASSED"], said


def test_a_test_that_waits_for_ever_fails_at_its_limit(said: str) -> None:
    assert set(outcome_of("that_waits_for_ever", said)) == {"FAILED"}, said
    assert "Timeout (>3.0s)" in said


def test_what_a_test_started_ends_with_it(said: str) -> None:
    assert outcome_of("nothing_is_left_of_it", said) == ["PASSED"], said


def test_a_test_that_never_comes_back_to_python_ends_its_process(said: str) -> None:
    assert re.search(r"worker 'gw0' crashed while running '.*test_that_never_comes_back_to_python'", said), said


def test_every_test_has_a_limit(request: pytest.FixtureRequest) -> None:
    usual = float(request.config.getini("timeout"))
    assert 0 < usual <= 600
    marks = [mark for item in request.session.items for mark in item.iter_markers("timeout")]
    longest = max([usual, SLOW_LIMIT_S, *(mark.args[0] for mark in marks)])
    assert longest < request.config.getini("faulthandler_timeout")
    assert "no_process_outlives_its_test" in request.fixturenames
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_slow_tests_have_a_longer_limit(said: str) -> None:
    assert outcome_of("that_is_slow", said) == ["PASSED"], said


@pytest.mark.parametrize("seconds", [None, 100.0])
def test_a_sweep_in_this_process_leaves_the_limit_of_the_test_alone(seconds: float | None) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    before_s, _ = signal.getitimer(signal.ITIMER_REAL)
    with _time_limit(seconds):
        inside_s, _ = signal.getitimer(signal.ITIMER_REAL)
    after_s, _ = signal.getitimer(signal.ITIMER_REAL)
    assert inside_s == pytest.approx(seconds or before_s, abs=1)
    assert 0 < after_s <= before_s
    assert after_s == pytest.approx(before_s, abs=1)
    assert signal.getsignal(signal.SIGALRM) is handler
