"""Every code block of every page runs, or says why it does not.

Shell blocks: each command of ours runs in this process, in an empty folder that has a store, `results/runs/quickstart`.
STORE, OTHER and TRIAL_ID stand for the store, a copy of it and a trial of it. Two things are done in a smaller way: in
place of `sweep`, its words are read and, for data that is always there, planned; and `qf.sweep` gets the tiny sweep of
that store.
Python blocks share their names down the page; one that begins with `# name.py` is that file. TOML blocks are sweeps.
The recipes of CONTRIBUTING.md are followed in a copy of the checkout.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import typer
from markdown_code import ROOMS, ROOT, Block, apply_change, find_anchors, list_pages, read_blocks
from test_architecture import FLOORS
from typer.testing import CliRunner

import quantfair
from quantfair.orchestrator.checkout import make_links
from quantfair.orchestrator.commands.app import app
from quantfair.orchestrator.config.spec import SweepSpec, load_sweep
from quantfair.results import read

PAGES = list_pages()
TINY = (
    "seeds=[0]",
    "experiments.0.train.epochs=1",
    "experiments.0.dataset.train_size=200",
    'quant=[{method="ptq", bits=4}, {method="qat", bits=4, epochs=1, lr=0.001}]',
)
ALWAYS_THERE = ("digits", "synthetic")  # data sets that need no files
STORE = Path("results", "runs", "quickstart")
PYTHON_STORE = "quickstart-runs"
PYTEST = ["python", "-m", "pytest"]
CONTRIBUTING = "CONTRIBUTING.md"
RECIPES = [block for block in read_blocks(CONTRIBUTING) if block.section.startswith("Add a")]
BLOCKS = [block for page in PAGES for block in read_blocks(page) if block not in RECIPES]


# What a page may hold.


def test_no_page_is_forgotten() -> None:
    rooms = {f"{room}/README.md" for room in ROOMS}
    assert rooms | {"README.md", CONTRIBUTING, "SECURITY.md", "quant/ORIGIN.md", "results/STUDIES.md"} <= set(PAGES)
    assert len(BLOCKS) > 25


@pytest.mark.parametrize("block", [*BLOCKS, *RECIPES], ids=lambda block: block.place)
def test_a_block_has_a_language_and_a_reason_if_it_is_not_run(block: Block) -> None:
    if block in RECIPES:
        assert block.tag in ("python", "sh", "js", "md"), f"{block.place}: nothing follows a recipe in {block.tag!r}"
    else:
        assert block.tag in ("python", "sh", "toml"), f"{block.place}: nothing runs {block.tag!r}"
    assert block.not_run is None or len(block.not_run.split()) > 2, f"{block.place}: say why it is not run"


@pytest.mark.parametrize("page", PAGES)
def test_code_stands_between_fences_and_reasons_before_them(page: str) -> None:
    lines = re.sub(r"(?ms)^```.*?^```$", "FENCED", (ROOT / page).read_text(encoding="utf-8")).splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        assert before.strip() or not line.startswith("    "), f"{page}: an indented block would not be run: {line}"
        assert "not run:" not in before or line == "FENCED", f"{page}: no block follows this reason: {before}"


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: there is no {path}"
        if anchor:
            assert anchor in find_anchors(os.path.relpath(target, ROOT)), f"{page}: no heading of {path} is #{anchor}"


def test_the_map_of_floors_is_that_of_the_architecture() -> None:
    for room, floors in FLOORS.items():
        text = (ROOT / CONTRIBUTING).read_text(encoding="utf-8").partition(f"### Floors of `{room}/`")[2]
        rows = re.findall(r"(?m)^\| (\d+) \| `(\w+)` \| (.+) \|$", text.partition("\n#")[0])
        mapped = [{name for at, name, _ in rows if int(at) == number} for number in range(1, len(floors) + 1)]
        assert mapped == [set(floor.split()) for floor in floors], room


# What runs.


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folder in which blocks run, with what their placeholders stand for."""

    folder: Path
    meanings: dict[str, str]


@cache
def run(*words: str) -> str:
    """Run a command of ours in this process, once for all pages that have it, and return what it printed."""
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, f"{shlex.join(words)} ended with {result.exit_code}:\n{result.output}"
    return result.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A folder with a store of a real sweep, a copy of that store, and the files that pages speak of."""
    folder = tmp_path_factory.mktemp("pages")
    store = folder / STORE
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        run("sweep", "quickstart", *TINY, "--executor", "inline", "--store", str(STORE))
        shutil.copytree(store, folder / "other")
        shutil.copytree(store, folder / PYTHON_STORE)  # the sweep of a Python block finds its trials finished
        frames = read(str(store))
        trial_id = frames.trials.query("method == 'ptq'").trial_id.iloc[0]
        images = frames.predictions(trial_id)
        images[["sample_id", "predicted"]].to_csv(folder / "predictions.csv", index=False)
        images.assign(half=images["sample_id"] % 2)[["sample_id", "half"]].to_csv(folder / "my.csv", index=False)
        yield Place(folder=folder, meanings={"STORE": str(STORE), "OTHER": "other", "TRIAL_ID": trial_id})


def read_commands(block: Block, meanings: dict[str, str]) -> list[list[str]]:
    """Return the words of each command of a shell block, with placeholders replaced."""
    lines = block.text.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    return [[meanings.get(word, word) for word in words] for words in commands if words]


def find_own_words(words: list[str]) -> list[str] | None:
    """Return the words after the program's name, or None for a command that is not ours."""
    if words[:3] == ["python", "-m", "orchestrator"]:
        return words[3:]
    return words[1:] if words[0] == "quantfair" else None


def check_options(words: list[str]) -> dict[str, Any]:
    """Return a command's arguments and options. It ends with an error where one does not exist."""
    command: Any = typer.main.get_command(app)
    words = list(words)
    while hasattr(command, "commands"):
        name = words.pop(0)
        command = command.commands[name]
    return command.make_context(command.name, words).params


def needs_no_files(sweep: SweepSpec) -> bool:
    """Return whether a sweep can be planned on every machine."""
    names = {experiment.dataset.name for experiment in sweep.experiments}
    weights = {experiment.model.weights for experiment in sweep.experiments}
    return weights == {None} and all(name in ALWAYS_THERE or ":" in name for name in names)


def plan_only(words: list[str]) -> None:
    """Read the words of `sweep` or `plan`, and plan them if their data is always there."""
    options = check_options(words)
    name, *overrides = options["words"] or ["quickstart"]
    sweep = load_sweep(name, overrides)
    if needs_no_files(sweep):
        said = run("plan", name, *overrides, *(["--power"] if options.get("power") else []))
        assert said.startswith(f"{sweep.head.name}: ")


def run_shell(block: Block, place: Place) -> None:
    """Run the commands of a shell block in the current folder."""
    for line in read_commands(block, place.meanings):
        words = line[: line.index(">")] if ">" in line else line
        own = find_own_words(words)
        if own is None:
            assert words[0] == "make", f"{block.place}: this is not run, so say why: {shlex.join(words)}"
            subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif own[0] == "figure":
            check_options(own)  # `test_figures_are_drawn` draws it
        elif own[0] == "sweep" or (own[0] == "plan" and "--schema" not in own):
            plan_only(own)
        else:
            run(*own)


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a Python block with the names of the blocks before it; write it first if it is a file."""
    file = re.match(r"# (\w+\.py)\n", block.text)
    if file:
        Path(file[1]).write_text(block.text, encoding="utf-8")
    exec(compile(block.text, block.place, "exec"), names)


def run_toml(block: Block) -> None:
    """Read a TOML block as a sweep file, and plan it if its data is always there."""
    file = f"sweep-{block.line}.toml"
    Path(file).write_text(block.text, encoding="utf-8")
    plan_only(["sweep", file])


def sweep_tiny(sweep: Any, spec: Any, overrides: Any = (), **options: Any) -> Any:
    """Run a sweep of a Python block as `qf.sweep` does, only smaller and in this process."""
    return sweep(spec, [*overrides, *TINY], **options | {"executor": "inline"})


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.page == page for block in BLOCKS)])
def test_every_block_of_a_page_runs(page: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    names: dict[str, Any] = {"__name__": page}
    for block in (block for block in BLOCKS if block.page == page):
        if block.not_run:
            for words in read_commands(block, place.meanings) if block.tag == "sh" else ():
                if own := find_own_words(words):
                    check_options(own)
        elif block.tag == "sh":
            run_shell(block, place)
        elif block.tag == "toml":
            run_toml(block)
        else:
            if "qf.sweep" in block.text:
                monkeypatch.setattr(quantfair, "sweep", partial(sweep_tiny, quantfair.sweep))
            run_python(block, names)


@pytest.mark.slow
@pytest.mark.browser
def test_figures_are_drawn(place: Place, monkeypatch: pytest.MonkeyPatch, browser: object) -> None:
    monkeypatch.chdir(place.folder)
    commands = [words for block in BLOCKS if block.tag == "sh" for words in read_commands(block, place.meanings)]
    figures = [own for words in commands if (own := find_own_words(words)) and own[0] == "figure"]
    assert figures
    for words in figures:
        assert Path(run(*words).strip()).stat().st_size > 1000


# The recipes.


@pytest.fixture(scope="module")
def changed_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which every recipe was followed."""
    root = tmp_path_factory.mktemp("recipes") / "quantfair"
    unwanted = shutil.ignore_patterns("__pycache__", "runs", "golden")
    for folder in (*ROOMS, "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=unwanted)
    for name in ("pyproject.toml", "Makefile", "README.md", CONTRIBUTING):
        shutil.copy(ROOT / name, root)
    for block in RECIPES:
        if block.tag != "sh":
            apply_change(block, root)
    make_links(root, root / ".links")
    return root


def run_in_checkout(root: Path, words: list[str]) -> None:
    """Run a program of this Python in a checkout."""
    assert words[0] == "python"
    environment = {**os.environ, "PYTHONPATH": str(root / ".links"), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run([sys.executable, *words[1:]], cwd=root, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, f"{shlex.join(words)}\n{ended.stdout}\n{ended.stderr}"


def run_tests_in_checkout(root: Path, marked: str) -> None:
    """Run the tests that the recipes name, as far as their marks fit, in one process."""
    commands = [words for block in RECIPES if block.tag == "sh" for words in read_commands(block, {})]
    files = [file for words in commands if words[:3] == PYTEST for file in words[3:]]
    run_in_checkout(root, [*PYTEST, "-p", "no:cacheprovider", "-q", "-m", marked, *files])


def test_the_recipes_fit_the_code(changed_checkout: Path) -> None:
    changed = {
        block.text.split()[1].rstrip(",") for block in RECIPES if block.tag == "python" and "new file" not in block.text
    }
    assert changed
    for name in changed:
        compile((changed_checkout / name).read_text(encoding="utf-8"), name, "exec")


@pytest.mark.slow
def test_the_recipes_work(changed_checkout: Path) -> None:
    for words in (words for block in RECIPES if block.tag == "sh" for words in read_commands(block, {})):
        if words[:3] != PYTEST:
            run_in_checkout(changed_checkout, words)
    run_tests_in_checkout(changed_checkout, "not browser and not slow")


@pytest.mark.slow
@pytest.mark.browser
def test_the_recipes_work_in_a_browser(changed_checkout: Path, browser: object) -> None:
    run_tests_in_checkout(changed_checkout, "browser")


@pytest.mark.slow
def test_the_recipes_keep_the_rules(changed_checkout: Path) -> None:
    run_in_checkout(changed_checkout, ["python", "-m", "ruff", "check", "--no-cache", *ROOMS, "tests"])
    run_in_checkout(changed_checkout, ["python", "-m", "ruff", "format", "--no-cache", "--check", *ROOMS, "tests"])
    run_in_checkout(changed_checkout, [*PYTEST, "-p", "no:cacheprovider", "-q", "tests/test_architecture.py"])
