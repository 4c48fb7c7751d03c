"""A word for each model and each recipe, by grouping, from their limits -> the table `verdicts`.

The rules are those of `statistics/decisions.py`. *This file* is one trained and quantized model, what is exported and
shipped: its limits ask about other images. *This recipe* is a configuration over seeds: its limits ask about other
images and newly trained models. Groups with fewer than MIN_RANKED test images take no part. Groups that are out of play
take none either: there the original is hardly better than the best guess that ignores the image, so there is little to
lose. Which these are is decided by the original alone.

Legend: P rows (files or recipes) of one grouping, G groups, C = G + 1 cells, the last one being all images.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

import numpy as np

from quantfair.results.schema import COMPARISONS, IMPORTED, MIN_RANKED
from quantfair.results.statistics import decisions
from quantfair.results.statistics.decisions import Decisions, decide
from quantfair.results.statistics.limits import LOWER_LEVEL, Limits
from quantfair.results.statistics.needed import count_more_images, count_more_seeds
from quantfair.results.store.rows import TableBuilder
from quantfair.results.tables.groupings import Grouping, TestSet
from quantfair.results.tables.groups import divide

NEAR_GUESS: Final = 0.05
MIN_MODELS: Final = 3  # of a recipe: the limits of fewer are too wide to say anything
ASKED: Final = ("ptq", "qat", IMPORTED)  # methods whose losses the page is about
FILE: Final = "file"
RECIPE: Final = "recipe"
OVERALL: Final = "overall"
ALL_IMAGES: Final = "all images"
MOST_DIGITS: Final = 3
TOO_SMALL: Final = f"lower_pp, upper_pp: fewer than {MIN_RANKED} test images"
OUT_OF_PLAY: Final = "lower_pp, upper_pp: out of play, the original is hardly better than the best guess"
NONE_IN_PLAY: Final = f"no group of {MIN_RANKED} test images is in play"
FEW_MODELS: Final = f"a recipe needs {MIN_MODELS} models that differ"
GUESSES: Final = f"the original is within {100 * NEAR_GUESS:g} points of the best guess that ignores the image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plays:
    """Which groups are in play, P x G, which ranked ones are not, and whether the original knows enough to lose, P.

    `skill_P` is the accuracy of the original less that of the best guess.
    """

    is_in_play_PG: np.ndarray
    is_out_PG: np.ndarray
    skill_P: np.ndarray

    @property
    def can_judge_P(self) -> np.ndarray:
        """Whether there can be a word."""
        return (self.skill_P > NEAR_GUESS) & self.is_in_play_PG.any(axis=1)


def find_best_guess(test_set: TestSet, grouping: Grouping) -> np.ndarray:
    """Return for each group the accuracy of the best guess that ignores the image: its most frequent label's share.

    0 where the groups contain the answer: then the group is what is to be found out. nan for an empty group.
    """
    counts_GK = count_labels(test_set, grouping)
    if contains_answer(test_set, grouping):
        return np.zeros(len(counts_GK))
    return divide(counts_GK.max(axis=1), counts_GK.sum(axis=1))


def contains_answer(test_set: TestSet, grouping: Grouping) -> bool:
    """Return whether all images of each group have one label, so that who knows the group knows the answer."""
    counts_GK = count_labels(test_set, grouping)
    return len(counts_GK) > 1 and bool(((counts_GK > 0).sum(axis=1) <= 1).all())


def count_labels(test_set: TestSet, grouping: Grouping) -> np.ndarray:
    """Return the test images of each group by label, G x K."""
    n_classes = test_set.n_classes
    cells = np.bincount(grouping.test_N * n_classes + test_set.labels_N, minlength=len(grouping.names) * n_classes)
    return cells.reshape(-1, n_classes)


def find_plays(other_right_PG: np.ndarray, test_set: TestSet, grouping: Grouping) -> Plays:
    """Return what is in play, from the right answers of the original in each group."""
    n_G, guess_G = grouping.sizes("test"), find_best_guess(test_set, grouping)
    is_ranked_G = n_G >= MIN_RANKED
    has_guessed_PG = divide(other_right_PG, np.broadcast_to(n_G, other_right_PG.shape)) <= guess_G + NEAR_GUESS
    best_guess = np.bincount(test_set.labels_N).max() / len(test_set.labels_N)
    return Plays(
        is_in_play_PG=is_ranked_G & ~has_guessed_PG,
        is_out_PG=is_ranked_G & has_guessed_PG,
        skill_P=other_right_PG.sum(axis=1) / n_G.sum() - best_guess,
    )


def limit_columns(limits: Limits, grouping: Grouping) -> dict[str, np.ndarray]:
    """Return the columns of limits in percentage points, P x G. The one group of `overall` is all images."""
    cells = slice(1, 2) if grouping.name == OVERALL else slice(0, -1)
    return {
        "lower_pp": 100 * limits.lower_C[..., cells],
        "upper_pp": 100 * limits.upper_C[..., cells],
        "excess_pp": 100 * limits.excess_G,
        "excess_lower_pp": 100 * limits.excess_lower_G,
    }


def who_takes_part(plays: Plays, grouping: Grouping) -> np.ndarray:
    """Return which groups are cells of their own, P x G: in `overall` none, since all images are a cell already."""
    return plays.is_in_play_PG & (grouping.name != OVERALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """P files or recipes of one grouping: what was counted, and the limits that follow.

    `counts_3PC` are lost, won and all images of every cell, means over the seeds of a recipe. `n_changed_P` are images
    with another answer in any of the models. `n_models_P` are models that differ, `n_seeds_P` all of them. `shift_PG`
    is the part of each drop that offsets of the classes would undo; None where it is not known.
    """

    scope: str
    limits: Limits
    plays: Plays
    counts_3PC: np.ndarray
    n_changed_P: np.ndarray
    n_seeds_P: np.ndarray
    n_models_P: np.ndarray
    n_cells_of_plan: int
    shift_PG: np.ndarray | None = None

    def take(self, places: Sequence[int]) -> "Judged":
        """Return some of the rows."""
        at = np.asarray(places, dtype=int)
        limits = Limits(**{field.name: getattr(self.limits, field.name)[at] for field in fields(Limits)})
        plays = Plays(**{field.name: getattr(self.plays, field.name)[at] for field in fields(Plays)})
        return Judged(
            scope=self.scope,
            limits=limits,
            plays=plays,
            counts_3PC=self.counts_3PC[:, at],
            n_changed_P=self.n_changed_P[at],
            n_seeds_P=self.n_seeds_P[at],
            n_models_P=self.n_models_P[at],
            n_cells_of_plan=self.n_cells_of_plan,
            shift_PG=None if self.shift_PG is None else self.shift_PG[at],
        )

    @property
    def can_judge_P(self) -> np.ndarray:
        """Whether there can be a word: a recipe needs MIN_MODELS models."""
        enough_P = self.n_models_P >= MIN_MODELS if self.scope == RECIPE else np.ones(len(self.n_models_P), dtype=bool)
        return self.plays.can_judge_P & enough_P


class Rules(NamedTuple):
    """The limit of a loss, a fraction, and what the plan of a sweep asks about.

    `asked` are the rows of the plan, and of trials that it has not: imported ones.
    """

    limit: float
    asked: Sequence[Mapping[str, Any]]

    def n_cells_of_files(self, test_set: TestSet) -> int:
        """Return how many cells the files of the plan have in one runtime."""
        return self._count_cells(test_set, "trial_id")

    def n_cells_of_recipes(self, test_set: TestSet) -> int:
        """Return how many cells the configurations of the plan have in one runtime."""
        return self._count_cells(test_set, "config_id")

    def _count_cells(self, test_set: TestSet, by: str) -> int:
        """Filters of a page, and trials that have not finished, do not change the number."""
        questions = {
            (row[by], comparison)
            for row in self.asked
            if row["dataset_id"] == test_set.dataset_id and row["method"] in ASKED
            for comparison, column in COMPARISONS.items()
            if row.get(column)
        }
        sizes = [grouping.sizes("test") for grouping in test_set.groupings]
        return len(questions) * sum(int(np.count_nonzero(n_G >= MIN_RANKED)) + 1 for n_G in sizes)


def explain_no_limits(plays: Plays, grouping: Grouping) -> np.ndarray:
    """Return why a group has no limits, "" where it has: P x G."""
    n_G = grouping.sizes("test")
    reason_PG = np.where(plays.is_out_PG, OUT_OF_PLAY, "").astype(object)
    reason_PG[:, (n_G > 0) & (n_G < MIN_RANKED)] = TOO_SMALL
    if grouping.name == OVERALL:
        reason_PG[:] = ""
    return reason_PG


def append_whole(values_PG: np.ndarray) -> np.ndarray:
    """Return counts of the groups and, last, of all images."""
    return np.concatenate([values_PG, values_PG.sum(axis=-1, keepdims=True)], axis=-1)


def add_verdicts(
    rows: TableBuilder,
    judged: Judged,
    keys: Sequence[Mapping[str, Any]],
    test_set: TestSet,
    grouping: Grouping,
    *,
    limit: float,
) -> None:
    """Add one row for each file or recipe. `keys` are the columns that tell them apart."""
    if not keys:
        return
    found = decide(
        judged.limits,
        is_changed=judged.n_changed_P > 0,
        skill=judged.plays.skill_P,
        can_judge=judged.can_judge_P,
        limit=limit,
    )
    told = _Sentences(judged, found, test_set, grouping, limit=limit)
    names_C = np.array([*grouping.names, ALL_IMAGES], dtype=object)
    named = [None if cell == decisions.NOBODY else names_C[cell] for cell in found.cell]
    limits, every_P, cell_P = judged.limits, np.arange(len(keys)), np.maximum(found.cell, 0)
    has_word_P = found.word != decisions.NO_VERDICT
    clearest_P = _find_largest(limits.clearest_C)
    is_clear_P = has_word_P & (limits.clearest_C[every_P, clearest_P] > 0)

    def of_named(values_PC: np.ndarray) -> np.ndarray:
        return 100 * np.where(found.cell != decisions.NOBODY, values_PC[every_P, cell_P], np.nan)

    nothing_P1 = np.full((len(keys), 1), np.nan)
    rows.add(
        len(keys),
        **{name: [key.get(name) for key in keys] for name in keys[0]},
        scope=judged.scope,
        grouping=grouping.name,
        word=list(found.word),
        answer=list(found.answer),
        told=[told.tell(place) for place in range(len(keys))],
        group=named,
        limit_pp=100 * limit,
        lower_pp=of_named(limits.lower_C),
        upper_pp=of_named(limits.upper_C),
        excess_lower_pp=of_named(np.concatenate([limits.excess_lower_G, nothing_P1], axis=1)),
        at_most_pp=100 * np.where(has_word_P, found.at_most, np.nan),
        clearest_group=[
            names_C[cell] if is_clear else None for cell, is_clear in zip(clearest_P, is_clear_P, strict=True)
        ],
        clearest_lower_pp=100 * np.where(is_clear_P, limits.clearest_C[every_P, clearest_P], np.nan),
        n_cells_of_plan=judged.n_cells_of_plan,
        n_seeds=judged.n_seeds_P,
        n_models=judged.n_models_P,
        contains_answer=[contains_answer(test_set, grouping)] * len(keys),
        out_of_play=[
            [name for name, is_out in zip(grouping.names, is_out_G, strict=True) if is_out]
            for is_out_G in judged.plays.is_out_PG
        ],
        reason=[told.explain(place) for place in range(len(keys))],
    )


def _find_largest(values_PC: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values_PC), -np.inf, values_PC).argmax(axis=1)


class _Sentences:
    """What a word says in numbers, in one or two sentences."""

    def __init__(self, judged: Judged, found: Decisions, test_set: TestSet, grouping: Grouping, *, limit: float):
        self.judged, self.found, self.limit = judged, found, limit
        prefix = "class " if grouping.name == "label" else ""
        self.names = [*(prefix + name for name in grouping.names), ALL_IMAGES]
        self.bound = format_limit(100 * limit)
        self.shift_PG = judged.shift_PG if contains_answer(test_set, grouping) else None
        self.where = "on this test set" if judged.scope == FILE else "in new models of this recipe"
        self.n_more_seeds_P, self.n_more_images_P = self._count_needed()

    def tell(self, place: int) -> str | None:
        """Return the sentences of one row, None without a verdict."""
        word = self.found.word[place]
        if word == decisions.NO_VERDICT:
            return None
        tellers = {
            decisions.UNCHANGED: self._tell_unchanged,
            decisions.COLLAPSED: self._tell_collapsed,
            decisions.UNEVEN: self._tell_uneven,
            decisions.LOSES: self._tell_loss,
            decisions.SMALL: self._tell_small,
            decisions.HARMLESS: self._tell_bound,
            decisions.NOT_RESOLVED: self._tell_open,
        }
        return " ".join(filter(None, (tellers[word](place), self._tell_shift(place), self._tell_gains(place))))

    def explain(self, place: int) -> str | None:
        """Return why there is no word, None where there is one."""
        judged = self.judged
        if judged.can_judge_P[place]:
            return None
        if judged.plays.skill_P[place] <= NEAR_GUESS:
            return GUESSES
        if not judged.plays.is_in_play_PG[place].any():
            return NONE_IN_PLAY
        return f"{FEW_MODELS}; these are {judged.n_models_P[place]} of {judged.n_seeds_P[place]} seeds"

    def _tell_unchanged(self, place: int) -> str:
        n_answers = int(self.judged.counts_3PC[2, place, -1] * self.judged.n_models_P[place])
        start = f"Not one of {n_answers:,} answers differs"
        if self.found.answer[place] == decisions.NO:
            return f"{start}; a loss above {self._at_most(place)} points is ruled out."
        return f"{start}, but {self._tell_open(place)}"

    def _tell_collapsed(self, place: int) -> str:
        return f"It has lost at least {self._lower(place)} points, more than half of what the original knows."

    def _tell_uneven(self, place: int) -> str:
        beyond = format_at_least(self.judged.limits.excess_lower_G[place, self.found.cell[place]])
        return (
            f"{self._name(place)} loses at least {self._lower(place)} points, and at least {beyond} more than the "
            "others."
        )

    def _tell_loss(self, place: int) -> str:
        drop = format_points(self.judged.limits.drop_C[place, self.found.cell[place]])
        loses = "All images lose" if self._name(place) == ALL_IMAGES else f"{self._name(place)} loses"
        return f"{loses} at least {self._lower(place)} points (measured {drop})."

    def _tell_small(self, place: int) -> str:
        return f"{self._tell_loss(place)} {self._tell_bound(place)}"

    def _tell_bound(self, place: int) -> str:
        return f"Within {self.bound} {self.where}: no group loses more than {self._at_most(place)}."

    def _tell_open(self, place: int) -> str:
        limits = self.judged.limits
        cell = int(_find_largest(limits.upper_C[place][None])[0])
        whose = "All images" if self.names[cell] == ALL_IMAGES else self.names[cell]
        could = f"{whose} could lose up to {format_at_most(limits.upper_C[place, cell])} points"
        sure = ""
        surest = int(_find_largest(limits.lower_C[place][None])[0])
        if limits.lower_C[place, surest] > 0:
            least = format_at_least(limits.lower_C[place, surest])
            sure = f" A loss of at least {least} is certain ({self.names[surest]})."
        return f"{could}; {self._tell_needed(place, cell)}.{sure}"

    def _tell_needed(self, place: int, cell: int) -> str:
        n_seeds, n_images = self.n_more_seeds_P[place], self.n_more_images_P[place]
        if np.isfinite(n_seeds):
            return f"{n_seeds:.0f} more seeds would probably tell"
        if not np.isfinite(n_images):
            return f"the measured loss is too near {self.bound} for more images to tell"
        whose = "" if self.names[cell] == ALL_IMAGES else f" of {self.names[cell]}"
        n_others = np.count_nonzero(self.judged.limits.upper_C[place, :-1] > self.limit) - (whose != "")
        others = f", more of {n_others} other {'groups' if n_others > 1 else 'group'}" if n_others > 0 else ""
        seeds = ", and more seeds" if self.judged.scope == RECIPE else ""
        comma = "," if others or seeds else ""
        return f"{round_up(n_images):,} more images{whose}{others}{seeds}{comma} would probably tell"

    def _tell_shift(self, place: int) -> str:
        """Return how much of a loss is a shift between classes, where the groups contain the answer."""
        cell = self.found.cell[place]
        if self.shift_PG is None or self.found.answer[place] != decisions.YES or self.names[cell] == ALL_IMAGES:
            return ""
        shift = self.shift_PG[place, cell]
        if not np.isfinite(shift):
            return ""
        drop, rest = self.judged.limits.drop_C[place, cell], self.judged.limits.drop_C[place, cell] - shift
        return (
            f"Of the {format_points(drop)} measured, {format_points(shift)} are a shift of answers between classes, "
            f"which offsets undo; {format_points(rest)} are lost."
        )

    def _tell_gains(self, place: int) -> str:
        limits = self.judged.limits
        gains = np.flatnonzero(limits.gain_upper_C[place, :-1] < 0)
        told = [f"{self.names[cell]} gains {format_points(-limits.drop_C[place, cell])}" for cell in gains]
        return f"{'; '.join(told)}." if told else ""

    def _count_needed(self) -> tuple[np.ndarray, np.ndarray]:
        """Return how many more seeds, and how many more images, the cell that could lose most needs; inf for none."""
        judged, limits = self.judged, self.judged.limits
        seeds_P, images_P = np.full((2, len(limits.drop_C)), np.inf)
        places = np.flatnonzero(self.found.answer == decisions.CANNOT_TELL)
        cells = _find_largest(limits.upper_C)[places]
        limit, shared_level = self.limit, LOWER_LEVEL / np.count_nonzero(~np.isnan(limits.lower_C[places]), axis=1)
        if judged.scope == RECIPE:
            seeds_P[places] = count_more_seeds(
                limits.drop_C[places, cells],
                limits.image_variance_C[places, cells],
                limits.seed_variance_C[places, cells],
                judged.n_models_P[places],
                limit=limit,
                shared_level=shared_level,
            )
        images_P[places] = count_more_images(
            *judged.counts_3PC[:, places, cells], limit=limit, shared_level=shared_level
        )
        return seeds_P, images_P

    def _name(self, place: int) -> str:
        return self.names[self.found.cell[place]]

    def _lower(self, place: int) -> str:
        return format_at_least(self.judged.limits.lower_C[place, self.found.cell[place]])

    def _at_most(self, place: int) -> str:
        return format_at_most(self.found.at_most[place])


def choose_judged(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return of a recipe and its files the recipe if it has a word, else the file if there is one alone.

    Several files without a recipe have a word each, and no word together.
    """
    recipe, *files = rows
    if recipe.get("word", decisions.NO_VERDICT) != decisions.NO_VERDICT or len(files) != 1:
        return recipe
    return files[0]


def format_limit(limit_pp: float) -> str:
    """Return "1 point", "0.5 points"."""
    number = f"{limit_pp:g}"
    return f"{number} {'point' if number == '1' else 'points'}"


def format_points(fraction: float) -> str:
    """Return percentage points with one digit: "1.7", "1", "0.04" where one digit would be 0."""
    return _format_decimal(100 * fraction, round)


def format_at_most(fraction: float) -> str:
    """Return an upper limit in percentage points, rounded up."""
    return _format_decimal(100 * fraction, math.ceil)


def format_at_least(fraction: float) -> str:
    """Return a lower limit in percentage points, rounded down."""
    return _format_decimal(100 * fraction, math.floor)


def _format_decimal(points: float, to_whole: Callable[[float], int]) -> str:
    """Return a number with one digit, or as many as a small one needs."""
    digits = 1
    while digits < MOST_DIGITS and 0 < abs(points) < 0.95 * 10**-digits:
        digits += 1
    step = 10**digits
    shown = to_whole(round(points * step, 6)) / step  # 1.1 is not 1.2, whatever its last bit
    return f"{shown:.{digits}f}".removesuffix(".0")


def round_up(number: float) -> int:
    """Return a number of images with two digits that count."""
    step = 10 ** max(len(str(int(number))) - 2, 0)
    return int(-(-number // step) * step)
