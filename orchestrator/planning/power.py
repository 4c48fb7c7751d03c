"""What `plan --power` says: what the test images of a sweep can show, before anything is spent.

The smallest drops that are told from 0, and what it takes to rule out losses above the limit of the verdicts.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from quantfair.datasets import DatasetSpec, GroupedDataset, load_dataset
from quantfair.results import (
    MIN_RANKED,
    images_for_no,
    minimum_detectable_disparity,
    minimum_detectable_drop,
    minimum_detectable_excess,
    null_disparity,
    seeds_for_no,
    smallest_group_for_no,
)

SPREADS_PP: Final = (
    0.5,
    1.0,
)  # standard deviations of a group's drop over seeds; those of our sweeps are about as large
FLIPS: Final = (0.005, 0.02, 0.05)  # of 8 bits and of 4, and of a bad 4; measured on our sweeps


def describe_power(specs: Iterable[DatasetSpec], flips: Sequence[float], *, limit_pp: float) -> list[dict[str, Any]]:
    """Return what can be seen in each group of each data set, `_pp` in percentage points, at each share of flips.

    `limit_pp` is the limit of the verdicts: `images_for_no` is how many images each ranked group needs so that losses
    above it are ruled out in 80 % where nothing is lost, `seeds_for_no` how many seeds a recipe needs for that, by the
    standard deviation of a group's drop over seeds; None for no number. A group smaller than `smallest_for_no` passes
    by a gain alone.
    Data sets that differ in their training images alone are one, and so are groupings of the same groups.
    """
    found: dict[str, dict[str, Any]] = {}
    for spec in specs:
        dataset = load_dataset(spec)
        for grouping in dict.fromkeys(["label", *spec.group_by]):
            power = _describe_grouping(spec, dataset, grouping, flips, limit_pp)
            found.setdefault(str([spec.name, spec.task, power["groups"]]), power)
    return list(found.values())


def _describe_grouping(
    spec: DatasetSpec, dataset: GroupedDataset, grouping: str, flips: Sequence[float], limit_pp: float
) -> dict[str, Any]:
    codes_N, names = dataset.groups(grouping)
    n_G = np.bincount(codes_N[dataset.splits["test"]], minlength=len(names))
    return {
        "dataset": spec.name,
        "task": spec.task,
        "grouping": grouping,
        "groups": [
            {"group": name, "n": int(n), "ranked": bool(n >= MIN_RANKED)} for name, n in zip(names, n_G, strict=True)
        ],
        "limit_pp": limit_pp,
        "smallest_for_no": smallest_group_for_no(limit_pp / 100),
        "at_flips": [
            {**_find_detectable(n_G, share), **_find_needed(n_G[n_G >= MIN_RANKED], share, limit_pp)} for share in flips
        ],
    }


def _find_needed(n_G: np.ndarray, flips: float, limit_pp: float) -> dict[str, Any]:
    """What it takes to rule out losses above the limit for all ranked groups."""
    limit = limit_pp / 100
    if not len(n_G):
        return {"images_for_no": None, "seeds_for_no": {f"{spread:g}": None for spread in SPREADS_PP}}
    return {
        "images_for_no": images_for_no(len(n_G), flips, limit=limit),
        "seeds_for_no": {f"{spread:g}": seeds_for_no(n_G, flips, spread / 100, limit=limit) for spread in SPREADS_PP},
    }


def _find_detectable(n_G: np.ndarray, flips: float) -> dict[str, Any]:
    """What each group can show, and what a disparity of the ranked groups must reach; None where there is no answer."""
    ranked_G = n_G >= MIN_RANKED
    drop_G, excess_G = np.full((2, len(n_G)), np.nan)
    drop_G[n_G > 0] = minimum_detectable_drop(n_G[n_G > 0], flips)
    if len(n_G) > 1:
        excess_G = minimum_detectable_excess(n_G, n_G.sum() - n_G, flips, flips)
    disparity = None
    if ranked_G.sum() >= 2:
        sizes = n_G[ranked_G]
        by_chance = null_disparity(sizes, np.full(len(sizes), flips))
        easiest, hardest = sorted(  # drawn, so groups of nearly one size may come out in either order
            minimum_detectable_disparity(sizes, flips, group=int(group)) for group in (sizes.argmax(), sizes.argmin())
        )
        values = {
            "easiest_group": easiest,
            "hardest_group": hardest,
            "by_chance": by_chance[0],
            "by_chance_q95": by_chance[1],
        }
        disparity = {f"{name}_pp": 100 * float(value) for name, value in values.items()}
    return {"flips": flips, "drop_pp": _to_pp(drop_G), "excess_pp": _to_pp(excess_G), "disparity": disparity}


def _to_pp(values_G: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else 100 * float(value) for value in values_G]
