"""How much drops vary by the seed alone -> the table `spreads`: seeds of training, and seeds of calibration.

Legend: G groups, S training seeds, C calibration seeds. No standard deviation of fewer than three values: the upper
limit of that of two is 32 times it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from scipy import special

from quantfair.results.configurations import Config, group_by_key
from quantfair.results.contrasts.estimates import Estimate
from quantfair.results.contrasts.pairing import CALIB_SEED, RUNTIME, Contrast
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.groupings import Grouping
from quantfair.results.tables.groups import NO_IMAGES

_CONFIDENCE: Final = 0.95
MIN_SEEDS: Final = 3
FEW_VALUES = f"a spread needs {MIN_SEEDS} seeds"

SAME_VALUES = "no interval: all values are the same"


class Spread(NamedTuple):
    """A standard deviation with its interval, one per group."""

    sd: np.ndarray
    low: np.ndarray
    high: np.ndarray


def measure_spread(values: np.ndarray) -> Spread:
    """Return the standard deviation along the last axis, pooled over the axes before it but the first, of groups.

    The chi-squared interval takes the values for normal. Source: Bartlett, Proc. Royal Society A 160 (1937) 268.
    """
    of_each = values.reshape(len(values), -1, values.shape[-1]).var(axis=-1, ddof=1)
    variance, freedom = of_each.mean(axis=-1), of_each.shape[-1] * (values.shape[-1] - 1)
    tail = (1 - _CONFIDENCE) / 2
    spread = np.where(variance > 0, variance, np.nan)  # what is 0 by chance has no interval
    low, high = (np.sqrt(spread * freedom / special.chdtri(freedom, level)) for level in (tail, 1 - tail))
    return Spread(np.sqrt(variance), low, high)


def add_training_spreads(
    rows: TableBuilder, contrasts: Sequence[Contrast], estimates: Mapping[str, Estimate], grouping: Grouping
) -> None:
    """Add one row a group for each drop against the reference or the control."""
    for contrast in contrasts:
        estimate = estimates.get(contrast.contrast_id)
        if contrast.is_comparison and estimate is not None:
            _add(rows, "training", contrast, estimate.by_seed_GS, n_values=len(contrast.seeds), grouping=grouping)


def add_calibration_spreads(
    rows: TableBuilder,
    configs: Sequence[Config],
    contrasts: Sequence[Contrast],
    estimates: Mapping[str, Estimate],
    *,
    grouping: Grouping,
) -> None:
    """Add one row a group for configurations that differ by the calibration seed alone, over the seeds of all of them.

    The standard deviation is pooled over the training seeds; the row names the first of the configurations.
    """
    keys = {config.config_id: config.alike(CALIB_SEED) for config in configs if config.method in ("ptq", "qat")}
    measured = [c for c in contrasts if c.is_comparison and c.contrast_id in estimates and c.config_id in keys]
    for alike in group_by_key(((keys[c.config_id], c.kind, c.comparison), c) for c in measured):
        seeds = [seed for seed in alike[0].seeds if all(seed in c.seeds for c in alike)]
        if len(alike) < 2 or not seeds:
            continue
        drops = [estimates[c.contrast_id].by_seed_GS[:, [c.seeds.index(seed) for seed in seeds]] for c in alike]
        _add(rows, "calibration", alike[0], np.stack(drops, axis=-1), n_values=len(alike), grouping=grouping)


def _add(
    rows: TableBuilder, kind: str, contrast: Contrast, drops: np.ndarray, *, n_values: int, grouping: Grouping
) -> None:
    n_G, columns, same_G = grouping.sizes("test"), dict[str, Any](), np.zeros(len(drops), dtype=bool)
    if n_values >= MIN_SEEDS:
        spread = measure_spread(drops)
        same_G = spread.sd == 0
        columns = {"sd_pp": 100 * spread.sd, "sd_ci_low_pp": 100 * spread.low, "sd_ci_high_pp": 100 * spread.high}
    rows.add(
        len(n_G),
        kind=kind,
        runtime=RUNTIME,
        config_id=contrast.config_id,
        comparison=contrast.comparison,
        grouping=grouping.name,
        group=list(grouping.names),
        n_values=n_values,
        mean_drop_pp=100 * drops.reshape(len(n_G), -1).mean(axis=1),
        **columns,
        reason=[
            NO_IMAGES if n == 0 else FEW_VALUES if n_values < MIN_SEEDS else SAME_VALUES if same else None
            for n, same in zip(n_G, same_G, strict=True)
        ],
    )
