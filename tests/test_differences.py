"""Two stores beside each other: aligned by what configurations say, compared image by image, with intervals."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from html_page import Page, rows_of
from simulated_sweep import GROUP_NAMES, GROUP_SIZES, make_store
from statsmodels.stats.proportion import confint_proportions_2indep
from typer.testing import CliRunner

from quantfair.orchestrator.commands.app import app
from quantfair.results import Store, StoreError, compare_stores, update_report
from quantfair.results.configurations import find_configs
from quantfair.results.diff.alignment import ONLY_HERE, ONLY_THERE, SEVERAL, align_configs, list_setting_differences
from quantfair.results.diff.differences import NO_SEED, OTHER_IMAGES, WITH_SEEDS, find_differences, independent_interval
from quantfair.results.schema import PREDICTIONS
from quantfair.results.statistics.intervals import drop_interval

SMALL: dict[str, Any] = {"bits": (8, 4), "observers": ("minmax",), "datasets": ("faces",), "n_failed": 0}
HURT, N_HURT = GROUP_NAMES[4], 20  # of 90 images of that group


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_store(tmp_path_factory.mktemp("before") / "store", **SMALL)
    update_report(store)
    return store


@pytest.fixture(scope="module")
def after(before: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same, but QAT at 4 bits errs on 20 more images of one group, under every seed."""
    place = tmp_path_factory.mktemp("after") / "store"
    shutil.copytree(before.location, place)
    store = Store.open(str(place))
    samples = store.read_samples(faces(store))[0].to_pandas().set_index("sample_id")
    for row in store.read_trials().to_pylist():
        if row["method"] == "qat" and row["weight_bits"] == 4:
            frame = store.read_predictions(row["trial_id"], "torch").to_pandas()
            mine = samples.loc[frame.sample_id]
            hit = (
                (mine.ethnicity == HURT).to_numpy()
                & (frame.split == "test")
                & (frame.predicted == mine.label.to_numpy())
            )
            chosen = np.flatnonzero(hit)[:N_HURT]
            frame.loc[chosen, "predicted"] = 1 - frame.loc[chosen, "predicted"]
            table = pa.Table.from_pandas(frame, schema=PREDICTIONS, preserve_index=False)
            store.write_predictions(row["trial_id"], "torch", table)
    update_report(store, always=True)
    return store


def faces(store: Store) -> str:
    return next(iter(store.read_manifest()["groupings"]))


def frames(here: Store, there: Store) -> dict[str, Any]:
    return {name: table.to_pandas() for name, table in find_differences(here, there).items()}


def test_planted_damage_is_found_where_it_is_and_nowhere_else(before: Store, after: Store) -> None:
    found = frames(after, before)
    rows = found["differences"].query("kind == 'store' and grouping == 'ethnicity'")
    changed = rows[rows.drop_pp != 0]
    assert set(changed.group) == {HURT}
    assert len(changed) == 1
    row = changed.iloc[0]
    assert row.drop_pp == pytest.approx(100 * N_HURT / 90)
    assert (row.n, row.n_seeds, list(row.seeds)) == (90, 3, [0, 1, 2])
    assert row.other_accuracy - row.accuracy == pytest.approx(N_HURT / 90)
    tango = drop_interval([N_HURT], [0], [90])
    assert row.drop_ci_low_pp <= 100 * tango.low[0] + 1e-9
    assert row.drop_ci_high_pp >= 100 * tango.high[0] - 1e-9
    spread = found["difference_disparity"].query("kind == 'store' and grouping == 'ethnicity'")
    worst = spread[spread.config_id == row.config_id].iloc[0]
    assert worst.worst_group == HURT
    assert np.isnan(worst.null_p), "of three seeds no p is valid"
    assert row.excess_lower_pp > 0, "it lost more than the others"
    assert rows[rows.config_id == row.config_id].query("grouping == 'ethnicity'").excess_lower_pp.gt(0).sum() == 1
    assert found["setting_differences"].empty


def test_damage_of_quantization_is_the_difference_of_two_drops(before: Store, after: Store) -> None:
    rows = frames(after, before)["differences"].query("kind == 'store_damage' and group == @HURT")
    here, there = (
        Store.read_table(store, "contrasts").to_pandas().query("kind != 'data' and group == @HURT")
        for store in (after, before)
    )
    checked = 0
    for row in rows.itertuples():
        one, other = (
            side[(side.config_id == row.config_id) & (side.comparison == row.comparison)].drop_pp.item()
            for side in (here, there)
        )
        assert row.drop_pp == pytest.approx(one - other, abs=1e-9)
        checked += row.drop_pp != 0
    assert checked == 2  # QAT at 4 bits against its reference, and against its control


def test_a_store_beside_itself_changes_nothing_and_no_interval_is_a_point(before: Store) -> None:
    rows = frames(before, before)["differences"].query("kind == 'store' and n > 0")
    assert (rows.drop_pp == 0).all()
    assert (rows.drop_ci_low_pp < 0).all()
    assert (rows.drop_ci_high_pp > 0).all()


def test_other_images_give_intervals_of_independent_samples(before: Store, tmp_path: Path) -> None:
    sizes = (300, *GROUP_SIZES[1:])
    other = make_store(tmp_path / "store", **SMALL, sizes=sizes)
    rows = frames(before, other)["differences"].query("grouping == 'ethnicity'")
    assert set(rows.kind) == {"store"}
    assert set(rows.ci_method) == {WITH_SEEDS}
    assert set(rows.reason) == {OTHER_IMAGES}
    first = rows[rows.group == GROUP_NAMES[0]]
    assert set(first.n) == {420}
    assert set(first.other_n) == {300}
    assert list(rows.drop_pp) == pytest.approx(list(100 * (rows.other_accuracy - rows.accuracy)))


@pytest.mark.parametrize(
    ("k1", "n1", "k2", "n2"), [(56, 70, 48, 80), (9, 10, 3, 10), (0, 30, 0, 40), (300, 300, 299, 300)]
)
def test_independent_intervals_are_those_of_statsmodels(k1: int, n1: int, k2: int, n2: int) -> None:
    low, high = confint_proportions_2indep(k1, n1, k2, n2, method="newcomb", compare="diff")
    p1, p2 = np.array([[k1 / n1]]), np.array([[k2 / n2]])
    found = independent_interval(p1, np.array([n1]), p2, np.array([n2]))
    assert (found.low[0], found.high[0]) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
@pytest.mark.parametrize("sd", [0.0, 0.01, 0.02])
def test_independent_intervals_hold_0_where_only_seeds_and_images_differ(n_seeds: int, sd: float) -> None:
    rng, n, n_draws = np.random.default_rng(n_seeds), 2000, 2000
    accuracies = rng.normal(0.85, sd, (2, n_seeds, n_draws))
    one, two = rng.binomial(n, accuracies) / n
    found = independent_interval(one, np.full(n_draws, n), two, np.full(n_draws, n))
    assert np.mean((found.low <= 0) & (found.high >= 0)) > 0.93


# Alignment


def config(method: str, seeds: tuple[int, ...] = (0,), **quant: Any) -> list[dict[str, Any]]:
    """The rows of a configuration; `epochs` is of the float training, all else of quantization."""
    epochs, engine = quant.pop("epochs", 5), quant.pop("engine", 1)
    whole = {"dataset": {"name": "d"}, "model": {"name": "m"}, "train": {"epochs": epochs}, "quant": quant}
    key = json.dumps([method, whole, engine])
    row = {
        "config_id": key,
        "dataset_id": "d",
        "method": method,
        "config": json.dumps(whole),
        "weight_bits": quant.get("weight_bits"),
    }
    return [{**row, "seed": seed, "trial_id": f"{key} {seed}"} for seed in seeds]


def aligned(here: list[list[dict[str, Any]]], there: list[list[dict[str, Any]]]) -> list[Any]:
    sides = [find_configs(row for rows in side for row in rows) for side in (here, there)]
    return align_configs(*sides)


def test_settings_align_and_ids_do_not() -> None:
    pairs = aligned(
        [config("ptq", weight_bits=8), config("ptq", weight_bits=4)],
        [config("ptq", weight_bits=4, engine=2), config("ptq", weight_bits=8, engine=2)],
    )
    assert [(p.here.settings["weight_bits"], p.there.settings["weight_bits"]) for p in pairs] == [
        ("8", "8"),
        ("4", "4"),
    ]


def test_what_differs_everywhere_alike_is_a_difference_and_no_obstacle() -> None:
    here = [config("fp32"), config("ptq", weight_bits=8), config("ptq", weight_bits=4)]
    there = [config("fp32", epochs=8), config("ptq", weight_bits=8, epochs=8), config("ptq", weight_bits=2, epochs=8)]
    pairs = aligned(here, there)
    assert [p.reason for p in pairs] == [None, None, ONLY_HERE, ONLY_THERE]
    told = [(d.method, d.setting, d.here, d.there) for d in list_setting_differences(pairs)]
    assert told == [("fp32", "train.epochs", "5", "8"), ("ptq", "train.epochs", "5", "8")]


def test_several_that_say_the_same_are_never_guessed() -> None:
    here = [config("ptq", weight_bits=8), config("ptq", weight_bits=8, engine=2)]
    assert {p.reason for p in aligned(here, [config("ptq", weight_bits=8, engine=3)])} == {SEVERAL}


def test_what_varies_between_data_sets_is_no_obstacle_within_one() -> None:
    def on(name: str, epochs: int) -> list[dict[str, Any]]:
        (row,) = config("fp32", epochs=epochs)
        whole = json.dumps({**json.loads(row["config"]), "dataset": {"name": name}})
        return [{**row, "config": whole, "config_id": whole}]

    pairs = aligned([on("digits", 5), on("faces", 15)], [on("faces", 20)])
    assert [pair.reason for pair in pairs] == [ONLY_HERE, None]


@pytest.mark.parametrize(("settings", "reasons"), [({"lr": 2}, [None]), ({"weight_bits": 4}, [ONLY_HERE, ONLY_THERE])])
def test_bits_are_never_what_two_stores_merely_differ_by(settings: dict[str, Any], reasons: list[str | None]) -> None:
    base: dict[str, Any] = {"weight_bits": 8, "lr": 1}
    pairs = aligned([config("qat", **base)], [config("qat", **(base | settings))])
    assert [pair.reason for pair in pairs] == reasons


# The command and the page


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["report", *words])
    return result.exit_code, result.output


def test_the_command_says_what_changed_and_where_the_files_are(before: Store, after: Store) -> None:
    code, said = run(after.location, "--diff", before.location)
    assert code == 0
    assert "compared: 8 configurations that both stores have; 0 are in one of them only" in said
    assert f"largest: QAT 4, {HURT}" in said
    places = [line.removeprefix("comparison: ") for line in said.splitlines() if line.startswith("comparison: ")]
    assert all(Path(place).is_file() for place in places)
    page = Page(Path(places[0]).read_text(encoding="utf-8"))
    section = page.by_id("differences")
    first = rows_of(section.find("table", "losses")[0])[0]
    assert first[0].words == "QAT 4"
    assert first[3].numbers == [pytest.approx(100 * N_HURT / 90)]
    assert "Settings, versions and machine are the same." in section.words
    code, said = run(after.location, "--diff", before.location, "--json")
    told = json.loads(said)["comparison"]
    assert (told["n_compared"], told["n_alone"], told["largest"]["group"]) == (8, 0, HURT)


def test_stores_without_a_common_seed_say_so(tmp_path: Path) -> None:
    settings = {**SMALL, "bits": (8,)}
    here, there = (make_store(tmp_path / str(seed), **settings, seeds=(seed,)) for seed in (0, 1))
    code, said = run(here.location, "--diff", there.location)
    assert code == 0
    assert f"not compared: {NO_SEED}" in said
    page = Page(Path(here.location, "exports", "differences.html").read_text(encoding="utf-8"))
    assert f"configurations: {NO_SEED}" in page.by_id("differences").words


def test_small_groups_of_either_store_are_never_the_largest_change(before: Store, tmp_path: Path) -> None:
    few = make_store(tmp_path / "few", **SMALL, sizes=(*GROUP_SIZES[:4], 4, 36))
    update_report(few)
    tables = find_differences(before, few)
    assert abs(tables["differences"].to_pandas().query("other_n == 4").drop_pp).max() > 5
    for comparison in (compare_stores(before, few), compare_stores(few, before)):
        assert not comparison.summary["largest"]["group"].startswith((HURT, "Few"))


def test_the_other_store_is_left_as_it_was(before: Store, after: Store) -> None:
    def look() -> dict[str, float]:
        return {str(path): path.stat().st_mtime for path in Path(before.location).rglob("*")}

    was = look()
    compare_stores(after, before)
    assert look() == was


def test_bad_requests_say_what_to_do(before: Store, tmp_path: Path) -> None:
    code, said = run(before.location, "--diff", str(tmp_path / "nothing"))
    assert code == 2
    assert "nothing" in said
    digits = make_store(tmp_path / "digits", **{**SMALL, "datasets": ("digits",)})
    with pytest.raises(StoreError, match="no finished configuration in common: they must have the same data set"):
        find_differences(before, digits)
