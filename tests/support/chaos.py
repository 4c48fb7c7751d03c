"""Runs a sweep while killing its driver and its workers at random; its tables must be those of an undisturbed run.

    PYTHONPATH=tests python tests/support/chaos.py FOLDER [SEED]

runs 330 small real trials on MNIST (PTQ and QAT) twice, into FOLDER/calm and FOLDER/chaos, and prints what it did.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from processes import find_workers
from test_sweep import assert_equal_tables, start, times_of_rows

from quantfair.results import Store

LIMIT_S = 1200.0
SWEEP = """
name = "chaos"
seeds = [0, 1, 2, 3, 4]
[[experiments]]
dataset = {name = "mnist", task = "class", train_size = 500, test_size = 1000}
model = {name = "small_cnn", width = 8}
train = {epochs = 2, lr = 0.01}
[[quant]]
method = "ptq"
bits = [8, 6, 4]
granularity = ["per_channel", "per_tensor"]
scheme = ["symmetric", "asymmetric"]
act_observer = ["minmax", "ema", "percentile", "mse"]
[[quant]]
method = "qat"
bits = [8, 4]
act_observer = ["minmax", "ema"]
scheme = ["symmetric", "asymmetric"]
granularity = ["per_channel", "per_tensor"]
epochs = 1
lr = 0.001
[retry]
crash = 9
"""


class Deeds(NamedTuple):
    """What was done to a sweep, and what it left: how often, in what time."""

    killed_drivers: int
    killed_workers: int
    n_trials: int
    seconds: float


def disturb(words: list[str], store: Store, *, n_drivers: int, n_workers: int, seed: int) -> Deeds:
    """Run a sweep to its end, killing so many drivers and workers at random moments.

    Asserts that no row is ever written a second time.
    """
    began, dice, rows = time.monotonic(), random.Random(seed), dict[str, int]()
    deeds = ["driver"] * n_drivers + ["worker"] * n_workers
    dice.shuffle(deeds)
    planned = iter(deeds)
    while True:
        driver = start("sweep", *words, "--store", store.location)
        for deed in planned:
            _wait_a_while(store, driver, dice)
            if driver.poll() is not None:
                break
            workers = find_workers(driver.pid)
            victim = driver.pid if deed == "driver" else dice.choice(workers) if workers else None
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
            if deed == "driver":
                break
        said = driver.communicate(timeout=LIMIT_S)[0]
        now = times_of_rows(store)
        assert rows.items() <= now.items(), "a row was written twice"
        rows = now
        if driver.returncode != -signal.SIGKILL:
            assert driver.returncode == 0, said
            assert next(planned, None) is None, "the sweep ended before all the harm was done: give it more trials"
            return Deeds(n_drivers, n_workers, len(rows), time.monotonic() - began)


def _wait_a_while(store: Store, driver: subprocess.Popen[str], dice: random.Random) -> None:
    """Wait until there are a few new rows, and a moment more."""
    n_rows, deadline = len(store.trial_ids()) + dice.randint(1, 8), time.monotonic() + LIMIT_S
    while len(store.trial_ids()) < n_rows and driver.poll() is None:
        assert time.monotonic() < deadline, "no new rows"
        time.sleep(0.02)
    time.sleep(dice.random())


def main(folder: Path, seed: int) -> None:
    """Run the sweep undisturbed and disturbed, compare, and print one JSON document."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "chaos.toml"
    file.write_text(SWEEP)
    calm, chaos = (Store.open(str(folder / name)) for name in ("calm", "chaos"))
    began = time.monotonic()
    undisturbed = start("sweep", str(file), "--store", calm.location)
    said = undisturbed.communicate(timeout=LIMIT_S)[0]
    assert undisturbed.returncode == 0, said
    calm_s = time.monotonic() - began
    deeds = disturb([str(file)], chaos, n_drivers=8, n_workers=12, seed=seed)
    assert_equal_tables(calm, chaos)
    print(json.dumps({**deeds._asdict(), "undisturbed_s": calm_s, "tables": "equal", "seed": seed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
