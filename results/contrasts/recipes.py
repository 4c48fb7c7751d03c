"""What recipes lose: limits over seeds and images for `contrasts`, and a word for each recipe -> the table `verdicts`.

A recipe is a configuration over seeds. Seeds that give the same answers on both sides are one model and count once: own
weights under several seeds, or predictions that were imported twice. Legend: K contrasts of one number of models, S
models, G groups, C cells, N images, T trials.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from quantfair.results.configurations import group_by_key
from quantfair.results.contrasts.flips import SIDES, CorrectnessMatrix, FlipTable
from quantfair.results.contrasts.pairing import Contrast, Match
from quantfair.results.statistics.limits import SeedSpread, measure_limits
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.verdicts import (
    RECIPE,
    Judged,
    Rules,
    add_verdicts,
    append_whole,
    explain_no_limits,
    find_plays,
    limit_columns,
    who_takes_part,
)

NO_LIMITS: Final = "lower_pp, upper_pp: not of a difference of drops"
_BLOCK: Final = 128  # contrasts whose images are compared at once

Columns = Mapping[str, Any]


class Recipes:
    """The recipes of one data set: what all its groupings share."""

    def __init__(
        self,
        contrasts: Sequence[Contrast],
        ground: CorrectnessMatrix,
        test_set: TestSet,
        rules: Rules,
        plan: Iterable[Mapping[str, Any]],
    ):
        self.ground, self.test_set, self.rules = ground, test_set, rules
        self.contrasts = contrasts
        self.planned: dict[str, set[int | None]] = {}
        for row in plan:
            self.planned.setdefault(str(row.get("config_id")), set()).add(row.get("seed"))
        self.models = {c.contrast_id: self._find_models(c) for c in contrasts if c.seeds and not c.subtracted}

    def judge(self, table: FlipTable, grouping: Grouping, verdicts: TableBuilder) -> dict[str, Columns]:
        """Return the columns of limits by contrast_id, each of G, and add a word for each recipe. `table` is of it."""
        members_NG = (grouping.test_N[:, None] == np.arange(len(grouping.names))).astype(np.float32)
        right_GT = members_NG.T @ self.ground.right_NT.astype(np.float32)
        columns: dict[str, Columns] = {}
        alike = group_by_key(
            (len(self.models[c.contrast_id]), c) for c in self.contrasts if c.contrast_id in self.models
        )
        for contrasts in alike:
            judged = self._judge(contrasts, table, grouping, members_NG, right_GT)
            of_limits = limit_columns(judged.limits, grouping)
            reason_KG = explain_no_limits(judged.plays, grouping)
            for place, contrast in enumerate(contrasts):
                columns[contrast.contrast_id] = {
                    **{name: values_KG[place] for name, values_KG in of_limits.items()},
                    "reason": reason_KG[place],
                }
            asked = [place for place, contrast in enumerate(contrasts) if contrast.is_comparison]
            keys = [self._key(contrasts[place]) for place in asked]
            add_verdicts(verdicts, judged.take(asked), keys, self.test_set, grouping, limit=self.rules.limit)
        for contrast in self.contrasts:
            if contrast.is_comparison and not contrast.seeds:
                missing = {**self._key(contrast), "scope": RECIPE, "grouping": grouping.name, "n_seeds": 0}
                verdicts.add(1, **missing, reason=contrast.reason)
        return columns

    def _key(self, contrast: Contrast) -> dict[str, Any]:
        is_provisional = bool(self.planned.get(contrast.config_id, set()) - set(contrast.seeds))
        key = {name: getattr(contrast, name) for name in ("config_id", "runtime", "comparison")}
        return {**key, "provisional": is_provisional}

    def _find_models(self, contrast: Contrast) -> list[Match]:
        """Return the matches that differ in any answer of either side: the first of equal ones."""
        found: dict[tuple[bytes, ...], Match] = {}
        for match in contrast.matches:
            key = tuple(self.ground.answers_of(getattr(match, side)) for side in SIDES)
            found.setdefault(key, match)
        return list(found.values())

    def _judge(
        self,
        contrasts: Sequence[Contrast],
        table: FlipTable,
        grouping: Grouping,
        members_NG: np.ndarray,
        right_GT: np.ndarray,
    ) -> Judged:
        """Return the limits of contrasts of equally many models."""
        matches = [self.models[contrast.contrast_id] for contrast in contrasts]
        n_models, n_G = len(matches[0]), grouping.sizes("test")
        flips = table.means(matches)
        n_KG = np.broadcast_to(n_G.astype(np.float64), flips.rw.shape)
        seeds = None
        if n_models > 1:
            squares_KG = self._add_squares(matches, members_NG)
            seeds = SeedSpread(drops_SG=table.drops(matches, n_G), squares_G=squares_KG)

        other_KS = self.ground.find(matches, "other_id")
        other_right_KG = right_GT[:, other_KS].mean(axis=2).T.astype(np.float64)
        plays = find_plays(other_right_KG, self.test_set, grouping)
        n_cells = self.rules.n_cells_of_recipes(self.test_set)
        limits = measure_limits(
            flips.rw,
            flips.wr,
            n_KG,
            seeds=seeds,
            takes_part=who_takes_part(plays, grouping),
            n_cells_of_plan=n_cells,
        )
        return Judged(
            scope=RECIPE,
            limits=limits,
            plays=plays,
            counts_3PC=np.stack([append_whole(part_KG) for part_KG in (flips.rw, flips.wr, n_KG)]),
            n_changed_P=flips.flips.sum(axis=1),
            n_seeds_P=np.array([len(contrast.seeds) for contrast in contrasts]),
            n_models_P=np.full(len(contrasts), n_models),
            n_cells_of_plan=n_cells,
        )

    def _add_squares(self, matches: Sequence[Sequence[Match]], members_NG: np.ndarray) -> np.ndarray:
        """Return the sum over the images of each group of the squared mean over the models of what was lost, K x G."""
        found = []
        for at in range(0, len(matches), _BLOCK):
            other_KS, own_KS = (self.ground.find(matches[at : at + _BLOCK], side) for side in SIDES)
            lost_NK = np.zeros((len(members_NG), len(other_KS)), dtype=np.float32)
            for other_K, own_K in zip(other_KS.T, own_KS.T, strict=True):
                lost_NK += self.ground.right_NT[:, other_K].view(np.int8) - self.ground.right_NT[:, own_K].view(np.int8)
            found.append((lost_NK / other_KS.shape[1]) ** 2)
        return (np.concatenate(found, axis=1).T @ members_NG).astype(np.float64)
