"""`plan --power`: what the test images of a sweep can show."""

import json

import pytest
from typer.testing import CliRunner

from quantfair.orchestrator.commands.app import app
from quantfair.results import (
    images_for_no,
    minimum_detectable_drop,
    minimum_detectable_excess,
    smallest_group_for_no,
)


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["plan", "quickstart", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_power_is_asked_for_and_not_there_otherwise() -> None:
    assert "power:" not in run()
    assert "power" not in json.loads(run("--json"))


def test_each_group_has_what_it_can_show_at_the_flips_given() -> None:
    (power,) = json.loads(run("--power", "--flips", "0.01", "--flips", "0.1", "--json"))["power"]
    assert (power["dataset"], power["task"], power["grouping"]) == ("digits", "digit", "label")
    sizes = [group["n"] for group in power["groups"]]
    assert sum(sizes) == 898
    assert [at["flips"] for at in power["at_flips"]] == [0.01, 0.1]
    for at in power["at_flips"]:
        assert at["drop_pp"][3] == pytest.approx(100 * minimum_detectable_drop(sizes[3], at["flips"]))
        rest = 898 - sizes[3]
        excess = minimum_detectable_excess(sizes[3], rest, at["flips"], at["flips"])
        assert at["excess_pp"][3] == pytest.approx(100 * excess)
        disparity = at["disparity"]
        assert 0 < disparity["easiest_group_pp"] <= disparity["hardest_group_pp"]
        assert 0 < disparity["by_chance_pp"] < disparity["by_chance_q95_pp"]


def test_what_rules_out_a_loss_is_said_of_images_seeds_and_groups_that_are_too_small() -> None:
    (power,) = json.loads(run("--power", "--flips", "0.01", "--json", "limit_pp=2.0"))["power"]
    assert (power["limit_pp"], power["smallest_for_no"]) == (2, smallest_group_for_no(0.02))
    (at,) = power["at_flips"]
    assert at["images_for_no"] == images_for_no(10, 0.01, limit=0.02)
    assert at["seeds_for_no"] == {"0.5": None, "1": None}
    text = run("--power")
    assert "under 268 images, where only a gain rules out a loss of 1 pp: 0, 1, 2 and 7 more" in text
    assert "images of each group to rule out 1 pp          983" in text


def test_the_text_fits_a_terminal_and_names_groups_that_are_never_ranked() -> None:
    text = run("--power", "experiments.0.dataset.test_share=0.05")
    assert "digits, digit, by label" in text
    assert "0 (never ranked)" in text
    assert "max - min" not in text  # nothing is ranked, so nothing can be uneven
    assert max(map(len, run("--power").splitlines())) <= 100


def test_data_sets_of_equal_test_images_are_said_once() -> None:
    words = 'experiments.0.dataset={name="digits",task="digit",train_size=500,imbalance=["none","longtail:5"]}'
    assert run("--power", words).count("digits, digit, by label") == 1


def test_flips_that_are_no_share_are_refused() -> None:
    result = CliRunner().invoke(app, ["plan", "quickstart", "--flips", "2"])
    assert result.exit_code == 2
    assert "less than or equal to 1" in result.output
