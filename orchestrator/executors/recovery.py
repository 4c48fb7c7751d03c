"""A sweep that finds damage in its store: what is damaged is named, put away and made anew; nothing else is lost.

survey -> put away -> run what is missing -> tables; damage that only shows there is put away, and its trials run
"""

import sys
from collections.abc import Callable, Iterable, Sequence

from quantfair.datasets import load_dataset
from quantfair.orchestrator.planning.request import SweepRequest, SweepState, add_state
from quantfair.orchestrator.trials.evaluation import write_samples
from quantfair.results import (
    DamagedError,
    Derived,
    Store,
    StoreError,
    find_damage,
    quarantine,
    scan_store,
    update_report,
)

MAX_ROUNDS = 3


def run_with_recovery(
    request: SweepRequest, run: Callable[[SweepState, int | None], None], *, retry_failed: bool, limit: int | None
) -> Derived:
    """Run what is not finished, and again what turns out to be damaged; return the tables' facts.

    `limit` is the most trials that `run` may run: all in the first round, so that damage waits for the next command.

    Raises:
        StoreError: there is new damage after every round.
        WriteError: the store has no room.
    """
    for number in range(MAX_ROUNDS):
        state = read_sound_state(request, retry_failed=retry_failed and number == 0)
        run(state, limit if number == 0 or limit is None else 0)
        try:
            return update_report(request.store)
        except DamagedError as error:
            _put_away(request.store, [error, *find_damage(request.store)])
    raise StoreError(f"Files of {request.store.location} are damaged again and again: check the disk.")


def build_report_without_damaged(
    store: Store, *, metrics: Sequence[str] = (), limit_pp: float | None = None
) -> Derived:
    """Build tables and dashboard from what is sound, with a user's own metrics and limit.

    Raises as `run_with_recovery`.
    """
    store.read_manifest()
    _put_away(store, scan_store(store).damaged)
    for _ in range(MAX_ROUNDS):
        try:
            return update_report(store, always=True, metrics=metrics, limit_pp=limit_pp)
        except DamagedError as error:
            _put_away(store, [error, *find_damage(store)])
    raise StoreError(f"Files of {store.location} are damaged again and again: check the disk.")


def read_sound_state(request: SweepRequest, *, retry_failed: bool) -> SweepState:
    """Return how far a sweep is, once what is damaged is put away and what the next trials need is there."""
    found = scan_store(request.store)
    _put_away(request.store, found.damaged)
    state = add_state(request, found, retry_failed=retry_failed)
    _describe_images(state)
    stages = find_damaged_stages(state)
    if not stages:
        return state
    _put_away(request.store, stages)
    return read_sound_state(request, retry_failed=retry_failed)


def find_damaged_stages(state: SweepState) -> list[DamagedError]:
    """Return the stages that trials which are to run need, and that are damaged or missing.

    Such a stage is trained anew, so what it needs itself is looked at too: needs come earlier in the plan. Each stage
    is read once, however many trials need it. A trial that only lacks runtimes writes no stage.
    """
    to_run, sound, found = set(state.progress.to_run), set[str](), []
    written = to_run - state.runtimes_to_measure.keys()
    for trial in reversed(state.plan):
        if trial.trial_id not in to_run:
            continue
        for need in set(trial.needs) - written - sound:
            try:
                state.store.check_stage(need)
                sound.add(need)
            except DamagedError as error:
                found.append(error)
                to_run.add(need)
                written.add(need)
    return found


def _describe_images(state: SweepState) -> None:
    """Write who the images of finished trials are, where that was lost."""
    finished = {trial.dataset_id: trial.dataset for trial in state.plan if trial.trial_id in state.stored}
    for dataset_id, spec in finished.items():
        if not state.store.has_samples(dataset_id):
            write_samples(load_dataset(spec), state.store)


def _put_away(store: Store, damaged: Iterable[DamagedError]) -> None:
    for line in quarantine(store, damaged):
        print(f"damaged: {line}", file=sys.stderr)
