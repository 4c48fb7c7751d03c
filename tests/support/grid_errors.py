"""How often words, limits and the test against zero are wrong in a cell of the grid."""

import numpy as np
from grid import Cell, Draws, draw

from quantfair.results.statistics.common_drop import assess_common_drop
from quantfair.results.statistics.decisions import CANNOT_TELL, LIMIT, NO, YES, Decisions, decide
from quantfair.results.statistics.limits import Limits, SeedSpread, measure_limits

TINY = 1e-12

# The largest share of draws that may be wrong, by kind of error. Lower limits share 2.5 %; a no is at 5 %.
NOMINAL = {
    "no, but a cell loses the limit": 0.05,
    "yes, but no cell loses more than the limit": 0.05,
    "small, but no cell loses": 0.025,
    "uneven, but the group does not lose more than the others": 0.025,
    "names a cell that does not lose the limit": 0.025,
    "an upper limit misses": 0.05,
    "the worst group is not within its limits": 0.075,
    "p < .05, but all groups drop alike": 0.05,
}


def limits_of(cell: Cell, draws: Draws) -> Limits:
    """Return the limits of models that were drawn."""
    seeds = None
    if cell.n_seeds > 1:
        seeds = SeedSpread(drops_SG=draws.by_seed_SDG, squares_G=draws.squares_DG)
    return measure_limits(draws.lost, draws.won, cell.sizes_G, seeds=seeds)


def measure_words(cell: Cell, n_draws: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the share of models with each error that the truth of the cell allows, and with each answer."""
    drawn = draw(cell, n_draws, rng)
    limits = limits_of(cell, drawn)
    found = decide(limits, is_changed=(drawn.lost + drawn.won).any(axis=1))
    errors = {**find_wrong_words(cell, found), **find_misses(cell, limits)}
    answers = {answer: found.answer == answer for answer in (NO, YES, CANNOT_TELL)}
    return {kind: float(share.mean()) for kind, share in (errors | answers).items()}


def find_wrong_words(cell: Cell, found: Decisions) -> dict[str, np.ndarray]:
    """Return for each kind of wrong word which models have it."""
    true_C = np.append(cell.drops_G, cell.overall)
    loses_C = true_C >= LIMIT - TINY
    loses_more_C = np.append((cell.drops_G > LIMIT + TINY) & (cell.excess_G > LIMIT + TINY), False)
    is_named = np.isin(found.word, ("uneven", "loses"))
    wrong = {
        "uneven, but the group does not lose more than the others": (found.word == "uneven")
        & ~loses_more_C[found.cell],
        "names a cell that does not lose the limit": is_named & ~loses_C[found.cell],
    }
    if loses_C.any():
        wrong["no, but a cell loses the limit"] = found.answer == NO
    if not (true_C > LIMIT + TINY).any():
        wrong["yes, but no cell loses more than the limit"] = found.answer == YES
    if not (true_C > 0).any():
        wrong["small, but no cell loses"] = found.word == "small"
    return wrong


def find_misses(cell: Cell, limits: Limits) -> dict[str, np.ndarray]:
    """Return which models have limits that miss the truth: of the cell that is missed most, and of the worst group."""
    missed_DC = limits.upper_C < np.append(cell.drops_G, cell.overall) - TINY
    most = missed_DC.mean(axis=0).argmax()
    worst = cell.drops_G.max()
    is_below = limits.upper_C[:, :-1].max(axis=1) < worst - TINY
    is_above = limits.lower_C[:, :-1].max(axis=1) > worst + TINY
    return {
        "an upper limit misses": missed_DC[:, most],
        "the worst group is not within its limits": is_below | is_above,
    }


def measure_test(cell: Cell, n_draws: int, rng: np.random.Generator) -> dict[str, float]:
    """Return how often the test of "all groups drop alike" rejects it for one model, and chance is exceeded."""
    drawn = draw(cell, n_draws, rng)
    found = assess_common_drop(drawn.lost, drawn.won, cell.sizes_G)
    rejects = float((found.p < 0.05).mean())
    if not cell.is_even:
        return {"p < .05, and groups drop differently": rejects}
    return {
        "p < .05, but all groups drop alike": rejects,
        "p < .01, but all groups drop alike": float((found.p < 0.01).mean()),
        "spread above null_q95": float((found.spread > found.null_q95).mean()),
    }
