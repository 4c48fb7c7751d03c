"""A driver whose trials only sleep and say where they ran: `python simulated_driver.py JSON`, from the root.

The JSON: `words` of a sweep, `store`, `address`, `seconds` of a trial, `waits`, and `ANSWER_S` and `numpy`, which
stand in for the limit of an answer and for the version of a package that this driver has.
"""

import json
import os
import sys
import time
from collections.abc import Callable

import ray
import typer

from quantfair.orchestrator.commands.exit_codes import exit_codes
from quantfair.orchestrator.commands.options import read_words
from quantfair.orchestrator.config.spec import Resources, Retry
from quantfair.orchestrator.executors import ray_preflight as preflight
from quantfair.orchestrator.executors.progress import ProgressLines
from quantfair.orchestrator.executors.ray_tune import run_ray
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.planning.request import make_queue, read_state
from quantfair.orchestrator.trials.outcome import TrialOutcome
from quantfair.results import Store

asked = json.loads(sys.argv[1])
SECONDS = asked.get("seconds", 0.5)


def sleep_and_say_where(
    trial: PlannedTrial, store: Store, resources: Resources, watch: Callable[[str], None]
) -> TrialOutcome:
    """The row's `device` says when, on which node, with which labels and which GPU the trial ran."""
    began = time.time()
    time.sleep(SECONDS)
    context = ray.get_runtime_context()
    where = {
        "node": context.get_node_id(),
        "labels": context.get_node_labels(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "began": began,
        "ended": time.time(),
    }
    store.write_trial({**trial.columns(), "status": "ok", "device": json.dumps(where), "total_s": SECONDS})
    return TrialOutcome(trial.trial_id, "ok", SECONDS)


def main() -> None:
    """Run the sweep; end as the command does."""
    with exit_codes():
        preflight.ANSWER_S = asked.get("ANSWER_S", preflight.ANSWER_S)
        if "numpy" in asked:
            real = preflight.describe_program
            preflight.describe_program = lambda: {**real(), "numpy": asked["numpy"]}
        request = read_state(*read_words(asked["words"]), asked["store"])
        queue = make_queue(request)
        progress = ProgressLines(queue, quiet=False)
        options = {"address": asked["address"], "waits": asked.get("waits", False), "retry": Retry(crash=3)}
        run_ray(queue, request.store, progress, run=sleep_and_say_where, **options)


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as end:
        sys.exit(end.exit_code)
