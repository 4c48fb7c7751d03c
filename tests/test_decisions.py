"""Words and answers: the rules one by one, what no data may turn round, and how often a word is wrong."""

from itertools import pairwise

import numpy as np
import pytest
from grid import Cell, draw, make_cell
from grid_errors import NOMINAL, limits_of, measure_words
from hypothesis import given
from hypothesis import strategies as st

from quantfair.results.statistics.decisions import ANSWERS, CANNOT_TELL, LIMIT, NO, NOBODY, WORDS, YES, decide
from quantfair.results.statistics.limits import Limits, measure_limits

ALL = 2  # the cell of all images, after two groups
UNUSED = dict.fromkeys(("clearest_C", "image_variance_C", "seed_variance_C"), np.zeros(1))  # by rules of words


def state_limits(lower: list[float], upper: list[float], excess_lower: list[float]) -> Limits:
    """Limits of two groups and all images, in percentage points."""
    lower_C, upper_C, excess_G = (np.array(part) / 100 for part in (lower, upper, excess_lower))
    return Limits(
        drop_C=(lower_C + upper_C) / 2,
        lower_C=lower_C,
        upper_C=upper_C,
        excess_G=excess_G,
        excess_lower_G=excess_G,
        gain_upper_C=upper_C,
        **UNUSED,
    )


# --- the rules ---

HARMLESS = ([-0.5, -0.4, -0.3], [0.8, 0.7, 0.5], [-1.0, -1.0])
OPEN = ([-0.5, -0.4, -0.3], [0.8, 1.4, 0.5], [-1.0, -1.0])
LOSES = ([-0.5, 1.7, 0.2], [0.8, 4.2, 1.3], [-3.0, 0.9])
UNEVEN = ([-0.5, 1.7, 0.2], [0.8, 4.2, 1.3], [-3.0, 1.2])


@pytest.mark.parametrize(
    ("limits", "settings", "word", "answer", "cell"),
    [
        (UNEVEN, {"can_judge": False}, "no verdict", None, NOBODY),
        (HARMLESS, {"is_changed": False}, "unchanged", NO, NOBODY),
        (OPEN, {"is_changed": False}, "unchanged", CANNOT_TELL, NOBODY),
        (([20, 30, 26], [40, 50, 35], [-9, 2]), {"skill": 0.5}, "collapsed", YES, ALL),
        (([20, 30, 24], [40, 50, 35], [-9, 2]), {"skill": 0.5}, "uneven", YES, 1),
        (UNEVEN, {}, "uneven", YES, 1),
        (([1.1, 1.7, 0.2], [4, 4, 1.3], [3.0, 1.2]), {}, "uneven", YES, 0),  # the largest excess, not the largest loss
        (LOSES, {}, "loses", YES, 1),
        (([0.3, 0.4, 1.1], [4, 4, 2], [-2.0, -2.0]), {}, "loses", YES, ALL),
        (UNEVEN, {"limit": 0.02}, "not resolved", CANNOT_TELL, 1),
        (([-0.5, 0.2, -0.1], [0.8, 0.9, 0.5], [-1.0, -1.0]), {}, "small", NO, 1),
        (([-0.5, 0.1, 0.3], [0.8, 0.9, 0.5], [-1.0, -1.0]), {}, "small", NO, ALL),
        (HARMLESS, {}, "harmless", NO, NOBODY),
        (([-0.5, -0.4, -0.3], [1.0, 1.0, 1.0], [-1.0, -1.0]), {}, "harmless", NO, NOBODY),  # at the limit is within it
        (OPEN, {}, "not resolved", CANNOT_TELL, 1),
        (([np.nan, -0.4, -0.3], [np.nan, 0.7, 0.5], [np.nan, -1.0]), {}, "harmless", NO, NOBODY),
        (([-9.0, -0.4, -0.3], [-3.0, 0.7, 0.5], [-9.0, 3.0]), {}, "harmless", NO, NOBODY),  # a gain accuses nobody
    ],
)
def test_the_first_rule_that_holds_gives_the_word(
    limits: tuple[list[float], ...], settings: dict[str, object], word: str, answer: str | None, cell: int
) -> None:
    found = decide(state_limits(*limits), **settings)  # type: ignore[arg-type]
    assert (found.word.item(), found.answer.item(), found.cell.item()) == (word, answer, cell)


def test_at_most_is_the_largest_upper_limit() -> None:
    assert decide(state_limits(*OPEN)).at_most == pytest.approx(0.014)


def test_many_models_at_once_have_the_words_that_each_has_alone() -> None:
    cases = [HARMLESS, OPEN, LOSES, UNEVEN]
    stacked = state_limits(*(np.array([case[part] for case in cases]).tolist() for part in range(3)))
    found = decide(stacked, is_changed=[True, True, True, False])
    assert found.word.tolist() == ["harmless", "not resolved", "loses", "unchanged"]


@pytest.mark.parametrize("limit", [0, 1, -0.01, 5])
def test_a_limit_that_is_no_share_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match=r"`limit` must be between 0 and 1, got .*1 percentage point is 0\.01"):
        decide(state_limits(*OPEN), limit=limit)


def test_every_word_has_an_answer() -> None:
    assert list(ANSWERS) == list(WORDS)
    assert set(ANSWERS.values()) == {None, NO, YES, CANNOT_TELL}


# --- what no data may turn round ---


def draw_regions(rng: np.random.Generator, n: int) -> tuple[Limits, Limits]:
    """Return limits, and limits within them, of four groups and all images."""
    lower_C = rng.normal(0, 0.02, (n, 5))
    upper_C = lower_C + rng.exponential(0.02, (n, 5))
    excess_G = rng.normal(0, 0.02, (n, 4))
    tighter_upper_C = upper_C - rng.random((n, 5)) * (upper_C - lower_C) * 0.9
    tighter_lower_C = lower_C + rng.random((n, 5)) * (tighter_upper_C - lower_C)
    tighter_excess_G = excess_G + rng.random((n, 4)) * 0.01
    loose = Limits(
        drop_C=lower_C,
        lower_C=lower_C,
        upper_C=upper_C,
        gain_upper_C=upper_C,
        excess_G=excess_G,
        excess_lower_G=excess_G,
        **UNUSED,
    )
    tight = Limits(
        drop_C=lower_C,
        lower_C=tighter_lower_C,
        upper_C=tighter_upper_C,
        gain_upper_C=tighter_upper_C,
        excess_G=excess_G,
        excess_lower_G=tighter_excess_G,
        **UNUSED,
    )
    return loose, tight


def test_tighter_limits_never_turn_an_answer_or_weaken_a_word() -> None:
    loose, tight = (decide(limits) for limits in draw_regions(np.random.default_rng(3), 100_000))
    for answer in (NO, YES):
        assert (tight.answer[loose.answer == answer] == answer).all()
    for word in ("uneven", "small"):
        assert (tight.word[loose.word == word] == word).all()
    assert {"uneven", "loses", "small", "harmless", "not resolved"} == set(loose.word)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 3000)), min_size=2, max_size=5))
def test_all_images_never_contradict_the_groups(rows: list[tuple[int, int, int]]) -> None:
    lost, won, kept = np.array(rows).T
    limits = measure_limits(lost, won, lost + won + kept)
    found = decide(limits)
    if found.answer == NO:
        assert (limits.upper_C <= LIMIT).all()
    if limits.lower_C[-1] > LIMIT:
        assert found.answer == YES
    if (limits.lower_C > LIMIT).any():
        assert found.answer == YES


@pytest.mark.parametrize("truth", ["nothing", "smallest loses the limit", "all lose the limit"])
def test_more_images_never_turn_a_no_into_a_yes(truth: str) -> None:
    cell, rng = make_cell("UTKFace", "4", truth), np.random.default_rng(4)
    lost, won, times = np.zeros(5), np.zeros(5), 0
    answers = []
    for more in (1, 1, 2, 4):  # 1, 2, 4 and 8 times the images
        drawn = draw(cell._replace(sizes_G=cell.sizes_G * more), 1000, rng)
        lost, won, times = lost + drawn.lost, won + drawn.won, times + more
        answers.append(decide(measure_limits(lost, won, cell.sizes_G * times)).answer)
    for before, after in pairwise(answers):
        assert not ((before == NO) & (after == YES)).any()
        assert not ((before == YES) & (after == NO)).any()


# --- how often a word is wrong ---

CELLS = [
    *(make_cell("UTKFace", "1", truth) for truth in ("nothing", "smallest loses the limit", "smallest gains 3 pp")),
    make_cell("60, 3000", "small 5, large 0.1", "nothing"),
    make_cell("ten of 1000", "10", "all lose the limit"),
    make_cell("ten of 1000", "0", "smallest loses the limit", one_way=True),
    make_cell("5000, 5000", "1", "nothing"),
    make_cell("twenty of 300", "4", "nothing"),
    make_cell("five of 2000", "0", "all lose the limit", one_way=True),
    make_cell("UTKFace", "small 8, large 1", "nothing", n_seeds=3, spread_pp=2),
    make_cell("ten of 1000", "4", "smallest loses the limit", n_seeds=5, spread_pp=1),
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_word_is_seldom_wrong(cell: Cell) -> None:
    found = measure_words(cell, 2000, np.random.default_rng(9))
    assert {kind: share for kind, share in found.items() if share > NOMINAL.get(kind, 1) + 0.015} == {}


def test_a_planted_loss_is_named_and_nothing_lost_is_a_no_where_there_are_images_enough() -> None:
    hurt, kept = make_cell("ten of 1000", "1", "smallest loses 5 pp"), make_cell("five of 2000", "0.5", "nothing")
    named = decide(limits_of(hurt, draw(hurt, 500, np.random.default_rng(1))))
    assert (named.word == "uneven").mean() > 0.95
    assert (named.cell[named.word == "uneven"] == 0).all()
    passed = decide(limits_of(kept, draw(kept, 500, np.random.default_rng(1))))
    assert (passed.answer == NO).mean() > 0.95
