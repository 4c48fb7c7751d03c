"""The cells on which words and tests must keep their promises: sizes of groups, flips, true losses, and draws of them.

`grid.csv` is the committed table. It was made by `python tests/support/grid.py`, before anything was tuned on it, and
`draw_cells(SEED, 50)` draws more cells of the same kinds that nobody has looked at.

An image flips in two ways: the original is right and the model wrong (lost), or the reverse (won). A cell gives each
group its size n, the share f of its images that flip and the drop d = (lost - won) / n. With `one_way` all flips of a
group go the way of its drop. Over several seeds the images are the same. An image is prone to be lost, or to be won,
or neither; a prone one flips in half of the seeds. Each seed moves the drop of each group by a normal effect whose
standard deviation is `spread`.

Legend: D draws, G groups, S seeds.
"""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from quantfair.results.statistics.decisions import LIMIT

TABLE: Final = Path(__file__).with_name("grid.csv")
SEED: Final = 20_261_201


class Cell(NamedTuple):
    """One setting. `flips_G` and `drops_G` are shares of the images of a group, `spread` a share, too."""

    name: str
    sizes_G: np.ndarray
    flips_G: np.ndarray
    drops_G: np.ndarray
    n_seeds: int = 1
    spread: float = 0.0

    @property
    def overall(self) -> float:
        """The true drop of all images."""
        return float((self.sizes_G * self.drops_G).sum() / self.sizes_G.sum())

    @property
    def excess_G(self) -> np.ndarray:
        """The true drop of each group less that of all other images."""
        total, n_G = self.sizes_G.sum(), self.sizes_G
        others_G = (total * self.overall - n_G * self.drops_G) / (total - n_G)
        return self.drops_G - others_G

    @property
    def is_even(self) -> bool:
        """Whether all groups drop alike."""
        return bool(np.ptp(self.drops_G) < 1e-12)


class Draws(NamedTuple):
    """Lost and won images of D models, D x G; over several seeds their means, with what the seeds differ in."""

    lost: np.ndarray
    won: np.ndarray
    by_seed_SDG: np.ndarray
    squares_DG: np.ndarray


def draw(cell: Cell, n_draws: int, rng: np.random.Generator) -> Draws:
    """Draw models, or sets of S models on the same images, with the truth of a cell.

    `by_seed_SDG` are the drops of the seeds, `squares_DG` the sums over images of the squared mean over the seeds of
    lost (1) and won (-1).
    """
    lost_share_G = (cell.flips_G + cell.drops_G) / 2
    won_share_G = (cell.flips_G - cell.drops_G) / 2
    shape = (n_draws, len(cell.sizes_G))
    if cell.n_seeds == 1:
        shares_G3 = np.stack([lost_share_G, won_share_G, 1 - cell.flips_G], axis=1)
        drawn = rng.multinomial(cell.sizes_G, shares_G3, size=shape)
        lost, won = (drawn[:, :, way].astype(np.float64) for way in (0, 1))
        return Draws(lost, won, ((lost - won) / cell.sizes_G)[None], lost + won)
    return _draw_seeds(cell, (lost_share_G, won_share_G), shape, rng)


def _draw_seeds(
    cell: Cell, shares: tuple[np.ndarray, np.ndarray], shape: tuple[int, int], rng: np.random.Generator
) -> Draws:
    effect_SDG = rng.normal(0, cell.spread, (cell.n_seeds, *shape)) if cell.spread else np.zeros((cell.n_seeds, *shape))
    # Of the images that are prone to a flip half are flipped by each seed, and more or fewer by the effect of the seed.
    prone_G = np.minimum(2 * np.maximum(*shares) + 3 * cell.spread, 0.5)
    prone_DG = rng.binomial(cell.sizes_G, 2 * prone_G, size=shape)
    n_prone = int(prone_DG.max())
    is_there = np.arange(n_prone) < prone_DG[..., None]
    is_of_lost = rng.random((*shape, n_prone)) < 0.5
    sums = np.zeros((*shape, n_prone), dtype=np.int8)
    lost, won, by_seed = np.zeros(shape), np.zeros(shape), []
    for effect_DG in effect_SDG:
        chance = [
            np.clip((share + sign * effect_DG / 2) / prone_G, 0, 1) for share, sign in zip(shares, (1, -1), strict=True)
        ]
        flips = rng.random((*shape, n_prone)) < np.where(is_of_lost, chance[0][..., None], chance[1][..., None])
        flips &= is_there
        lost_DG, won_DG = (flips & is_of_lost).sum(axis=2), (flips & ~is_of_lost).sum(axis=2)
        sums += np.where(is_of_lost, 1, -1).astype(np.int8) * flips
        lost, won = lost + lost_DG, won + won_DG
        by_seed.append((lost_DG - won_DG) / cell.sizes_G)
    squares_DG = (sums.astype(np.int32) ** 2).sum(axis=2) / cell.n_seeds**2
    return Draws(lost / cell.n_seeds, won / cell.n_seeds, np.stack(by_seed), squares_DG)


# --- the table ---


SIZES: Final[dict[str, list[int]]] = {
    "UTKFace": [2016, 905, 687, 795, 338],
    "60, 3000": [60, 3000],
    "three of 60, 5000": [60, 60, 60, 5000],
    "55 to 4000": [55, 120, 900, 4000],
    "60 to 2600": [60, 150, 400, 1500, 2600],
    "ten of 90": [90] * 10,
    "ten of 1000": [1000] * 10,
    "500, 500": [500, 500],
    "50, 50": [50, 50],
    "5000, 5000": [5000, 5000],
    "five of 2000": [2000] * 5,
    "twenty of 300": [300] * 20,
    "45 of 50 to 1500": [int(n) for n in np.geomspace(50, 1500, 45)],
}
FLIPS: Final = (
    "0.1",
    "0.5",
    "1",
    "4",
    "10",
    "small 8, large 1",
    "small 1, large 8",
    "small 5, large 0.1",
    "small 0, large 5",
)
TRUTHS: Final = (
    "nothing",
    "all lose the limit",
    "all lose 5 pp",
    "smallest loses the limit",
    "largest loses the limit",
    "smallest loses 2 pp",
    "smallest loses 5 pp",
    "smallest gains 3 pp",
)


def make_cell(
    size: str, flips: str, truth: str, *, one_way: bool = False, n_seeds: int = 1, spread_pp: float = 0
) -> Cell:
    """Return a cell by the names of its parts."""
    sizes_G = np.array(SIZES[size])
    flips_G = _make_flips(sizes_G, flips)
    drops_G = _make_drops(sizes_G, truth)
    # Seeds that differ by 2 pp have to flip images, else the effect of a seed is cut off and the truth is another one.
    least_G = np.abs(drops_G) + 2.5 * spread_pp / 100
    flips_G = least_G if one_way else np.maximum(flips_G, least_G)
    name = "; ".join([size, "one way" if one_way else f"flips {flips} %", truth])
    name += f"; {n_seeds} seeds, spread {spread_pp:g} pp" if n_seeds > 1 else ""
    return Cell(name, sizes_G, flips_G, drops_G, n_seeds, spread_pp / 100)


def _make_flips(sizes_G: np.ndarray, flips: str) -> np.ndarray:
    if not flips.startswith("small"):
        return np.full(len(sizes_G), float(flips) / 100)
    small, large = (float(part.split()[1]) / 100 for part in flips.split(", "))
    is_small_G = sizes_G <= np.median(sizes_G) if np.ptp(sizes_G) else np.arange(len(sizes_G)) == 0
    return np.where(is_small_G, small, large)


def _make_drops(sizes_G: np.ndarray, truth: str) -> np.ndarray:
    whose, _, amount = truth.partition(" ")
    if whose == "nothing":
        return np.zeros(len(sizes_G))
    verb, size = amount.split()[:2]
    value = LIMIT if size == "the" else float(size) / 100
    chosen = {"all": slice(None), "smallest": sizes_G.argmin(), "largest": sizes_G.argmax()}[whose]
    drops_G = np.zeros(len(sizes_G))
    drops_G[chosen] = -value if verb.startswith("gain") else value
    return drops_G


def list_cells() -> Iterator[dict[str, object]]:
    """Yield the rows of the table: every size with half of the flips and truths in turn, one way, and over seeds."""
    for row, size in enumerate(SIZES):
        for column, flips in enumerate(FLIPS):
            chosen = [truth for place, truth in enumerate(TRUTHS) if place == 0 or (place + row + column) % 4 == 0]
            for truth in chosen:
                yield {"size": size, "flips": flips, "truth": truth, "one_way": 0, "n_seeds": 1, "spread_pp": 0}
        for truth in ("all lose the limit", "smallest loses the limit"):
            yield {"size": size, "flips": "0", "truth": truth, "one_way": 1, "n_seeds": 1, "spread_pp": 0}
    seeds = itertools.product((3, 5, 10), (0, 0.5, 1, 2))
    for n_seeds, spread in seeds:
        for size in ("UTKFace", "60 to 2600", "ten of 90", "500, 500", "ten of 1000"):
            for flips, truth in (("1", "nothing"), ("small 8, large 1", "nothing"), ("4", "smallest loses the limit")):
                row = {"size": size, "flips": flips, "truth": truth, "one_way": 0}
                yield {**row, "n_seeds": n_seeds, "spread_pp": spread}


def read_cells() -> list[Cell]:
    """Return the cells of the committed table."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [
            make_cell(
                row["size"],
                row["flips"],
                row["truth"],
                one_way=row["one_way"] == "1",
                n_seeds=int(row["n_seeds"]),
                spread_pp=float(row["spread_pp"]),
            )
            for row in csv.DictReader(file)
        ]


def draw_cells(seed: int, n_cells: int) -> list[Cell]:
    """Return cells drawn at random: 2 to 45 groups of 50 to 5,000 images, flips of 0 to 10 %, 1, 3, 5 or 10 seeds."""
    rng, cells = np.random.default_rng(seed), []
    for number in range(n_cells):
        n_groups = int(rng.choice([2, 3, 5, 8, 12, 20, 45]))
        sizes_G = np.exp(rng.uniform(np.log(50), np.log(5000), n_groups)).astype(int)
        flips_G = rng.uniform(0, rng.choice([0.01, 0.03, 0.1]), n_groups)
        drops_G = np.zeros(n_groups) + rng.choice([0, 0, LIMIT, 0.03])
        if rng.random() < 0.5:
            drops_G[rng.integers(n_groups)] += rng.choice([LIMIT, 0.03, -0.02])
        n_seeds = int(rng.choice([1, 1, 1, 3, 5, 10]))
        spread = float(rng.choice([0, 0.005, 0.01, 0.02])) if n_seeds > 1 else 0.0
        name = f"drawn {number}: {n_groups} groups, {n_seeds} seeds, spread {100 * spread:g} pp"
        least_G = np.abs(drops_G) + 2.5 * spread
        cells.append(Cell(name, sizes_G, np.maximum(flips_G, least_G), drops_G, n_seeds, spread))
    return cells


if __name__ == "__main__":
    rows = list(list_cells())
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} cells")
