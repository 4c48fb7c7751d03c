"""How often words, limits and the test against zero are wrong, over all cells of the grid.

`python tests/benchmarks/validate_words.py [DRAWS]` runs the cells of `tests/support/grid.csv` and 50 more that are
drawn from a printed seed (5,000 draws each unless said), two at a time. A cell with an error above 1.3 times its
nominal level (6.5 % of 5 %) is run again with four times as many draws. It prints JSON: for each kind of error the
worst cells, and every cell that is still above 1.2 times the level after that.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # two processes are run at once

import json
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import numpy as np
from grid import SEED, Cell, draw_cells, read_cells
from grid_errors import NOMINAL, measure_test, measure_words

N_MORE = 50
MARGIN = 1.3  # 6.5 % of a nominal 5 %
MARGIN_AGAIN = 1.2  # 6 %
N_SHOWN = 3


def measure(job: tuple[Cell, int]) -> dict[str, float]:
    """Return all shares of one cell. Every cell has draws of its own, whatever the other cells."""
    cell, n_draws = job
    found: dict[str, float] = {}
    measures: list[Callable[..., dict[str, float]]] = [measure_words]
    measures += [measure_test] if cell.n_seeds == 1 else []
    for number, one in enumerate(measures):
        found |= one(cell, n_draws, np.random.default_rng([SEED, zlib.crc32(cell.name.encode()), n_draws, number]))
    return found


def is_above(found: dict[str, float], margin: float) -> bool:
    """Whether an error is more frequent than `margin` times its nominal level."""
    return any(found.get(kind, 0) > margin * level for kind, level in NOMINAL.items())


def run(n_draws: int) -> dict[str, Any]:
    """Return the worst cells of each kind of error."""
    cells = [*read_cells(), *draw_cells(SEED, N_MORE)]
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(measure, [(cell, n_draws) for cell in cells]))
        above = [place for place, one in enumerate(found) if is_above(one, MARGIN)]
        again = list(pool.map(measure, [(cells[place], 4 * n_draws) for place in above]))
    for place, one in zip(above, again, strict=True):
        found[place] = one

    def list_worst(kind: str) -> list[tuple[str, float]]:
        shares = [(cell.name, one[kind]) for cell, one in zip(cells, found, strict=True) if kind in one]
        return sorted(shares, key=lambda pair: -pair[1])[:N_SHOWN]

    kinds = dict.fromkeys(kind for one in found for kind in one)
    return {
        "cells": len(cells),
        "draws": n_draws,
        "seed of the drawn cells": SEED,
        "run again": [cells[place].name for place in above],
        "still above": [cells[place].name for place in above if is_above(found[place], MARGIN_AGAIN)],
        "worst": {kind: list_worst(kind) for kind in kinds},
    }


if __name__ == "__main__":
    print(json.dumps(run(int((sys.argv[1:] or ["5000"])[0])), indent=1))
