"""Every test ends: hooks and fixtures for `conftest.py`, which imports all of them.

The limit itself is a setting of pytest-timeout in `pyproject.toml`. It raises an exception in the test.
"""

import signal
from collections.abc import Iterator

import pytest
from processes import end_started_processes

SLOW_LIMIT_S = 1800.0
# A shell without a terminal starts background jobs with SIGINT ignored, and their children inherit that. Tests that
# interrupt a sweep would then wait for it in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests a longer limit than the one in `pyproject.toml`."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT_S))


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    """Kill what a test started by `start_process` and left, whatever became of the test."""
    yield
    end_started_processes()
