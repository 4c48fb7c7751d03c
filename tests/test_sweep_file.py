"""Files that extend others, and paths of the command line: what changes, what stays, who is named for a mistake."""

from pathlib import Path

import pytest

from quantfair.orchestrator.commands.options import read_words
from quantfair.orchestrator.config.errors import RequestError
from quantfair.orchestrator.config.spec import SweepSpec, load_sweep
from quantfair.orchestrator.config.sweep_file import built_in_sweeps
from quantfair.orchestrator.planning.request import read_request


def write(folder: Path, **files: str) -> str:
    """Write files, `__` for a slash; return the path of the first one."""
    paths = []
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        paths.append(str(path))
    return paths[0]


def load(folder: Path, **files: str) -> SweepSpec:
    return load_sweep(write(folder, **files), [])


def test_a_file_that_changes_nothing_but_the_name_is_the_sweep_that_it_extends(tmp_path: Path) -> None:
    for name in built_in_sweeps():
        ours, theirs = load(tmp_path, child=f'extends = "{name}"\nname = "mine"'), load_sweep(name, [])
        assert ours.experiments == theirs.experiments
        assert ours.head == theirs.head.model_copy(update={"name": "mine"})
        assert ours.raw == {**theirs.raw, "name": "mine"}  # what the manifest keeps needs no other file


def test_numbers_as_keys_change_one_element_as_the_same_paths_do_on_the_command_line(tmp_path: Path) -> None:
    changes = ["experiments.0.dataset.train_size=2000", "quant.3.bits=[4]", 'quant.0.overrides."fc.*".bits=8']
    text = "\n".join(['extends = "utkface"', 'name = "mine"', *changes])
    ours, theirs = load(tmp_path, child=text), load_sweep("utkface", ["name=mine", *changes])
    assert ours == theirs
    assert ours.experiments[0].dataset.train_size == 2000
    assert ours.experiments[0].dataset.name == "utkface"
    assert ours.raw["quant"][0]["overrides"] == {"fc.*": {"bits": 8}}


def test_tables_merge_while_lists_and_lists_of_tables_replace(tmp_path: Path) -> None:
    text = """
        extends = "quickstart"
        name = "mine"
        seeds = [7]
        resources.ptq.cpu = 2
        [[quant]]
        method = "ptq"
        bits = 3
        """
    sweep = load(tmp_path, child=text)
    assert sweep.head.seeds == (7,)
    assert (sweep.head.resources.ptq.cpu, sweep.head.resources.qat.cpu) == (2, 1)
    assert [(spec.method, spec.weight_bits) for spec in sweep.experiments[0].quant] == [("ptq", 3)]
    assert sweep.experiments[0].model.name == "small_cnn"


def test_a_chain_is_followed_and_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    sweep = load(
        tmp_path,
        child='extends = "shared/middle.toml"\nname = "child"\nquant.0.bits = 5',
        shared__middle='extends = "base.toml"\nname = "middle"\nquant.0.scheme = "asymmetric"',
        shared__base='extends = "quickstart"\nseeds = [3]\nquant.0.bits = 6',
    )
    ptq = [spec for spec in sweep.experiments[0].quant if spec.method == "ptq"]
    assert sweep.head.seeds == (3,)
    assert {(spec.weight_bits, spec.scheme) for spec in ptq} == {(5, "asymmetric"), (8, "symmetric")}


def test_a_built_in_is_meant_even_where_a_file_has_its_name(tmp_path: Path) -> None:
    sweep = load(tmp_path, utkface='extends = "utkface"\nname = "mine"\nseeds = [9]')
    assert sweep.experiments == load_sweep("utkface", []).experiments


def test_the_command_line_goes_over_what_is_extended(tmp_path: Path) -> None:
    path = write(tmp_path, child='extends = "quickstart"\nseeds = [5]')
    assert load_sweep(path, ["name=mine", "seeds=[6]"]).head.seeds == (6,)


def test_every_experiment_meets_every_block_of_the_file() -> None:
    experiments = load_sweep("schemes", []).experiments
    assert [experiment.dataset.name for experiment in experiments] == ["cifar10", "utkface"]
    assert len({experiment.quant for experiment in experiments}) == 1
    assert len(experiments[0].quant) == 2 + 4 + 2 + 1 + 1 + 2


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"child": 'extends = "quickstart"'},
            r"child.toml:\n  `name` is missing; it must be a text, a name of its own, also for a sweep that extends",
        ),
        (
            {"child": 'extends = "quikstart"\nname = "x"'},
            r"child.toml:\n  `extends` names 'quikstart', which is neither a file nor a built-in sweep .*"
            r"Did you mean 'quickstart'\?",
        ),
        (
            {"child": "extends = 3"},
            r"child.toml:\n  `extends` must be a text, a built-in sweep or a file relative to this one, got 3\.",
        ),
        (
            {"child": 'extends = "a.toml"', "a": 'extends = "b.toml"', "b": 'extends = "a.toml"'},
            r"a.toml:\n  `extends` leads back to where it started: \S+a.toml -> \S+b.toml -> \S+a.toml; remove one",
        ),
        (
            {"in__a": 'extends = "../in/a.toml"'},
            r"a.toml:\n  `extends` leads back to where it started: \S+in/a.toml -> \S+in/a.toml; remove one",
        ),
        (
            {"child": 'extends = "quickstart"\nname = "x"\nquant.7.bits = 4'},
            r"child.toml:\n  `quant.7` cannot be set: there is no '7' in a list of 3 \(count from 0\)\.",
        ),
        (
            {"child": 'extends = "a.toml"\nname = "x"', "a": 'extends = "quickstart"\n[quant]\nmethod = "ptq"'},
            r"a.toml:\n  `quant.method` cannot be set: there is no 'method' in a list of 3",
        ),
        (
            {"child": 'extends = "a.toml"\nname = "x"', "a": "name = "},
            r"a.toml:\n  This is not TOML: ",
        ),
        (
            {"child": 'extends = "a.toml"\nname = "x"', "a": 'extends = "quickstart"\nquant.0.bits = 17'},
            r"child.toml:\n  `quant.0.bits` must be a whole number in 2..16, got 17. \(in \S+a.toml\)$",
        ),
        (
            {"child": 'extends = "a.toml"\nname = "x"\nquant.0.bits = 18', "a": 'extends = "quickstart"\nnmae = 1'},
            r"`nmae` is not a known key. .* \(in \S+a.toml\)\n  `quant.0.bits` must be a .*, got 18.$",
        ),
    ],
)
def test_a_mistake_is_named_with_the_file_that_it_is_in(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        load(tmp_path, **files)


def test_a_block_that_replaces_a_list_answers_for_everything_in_it(tmp_path: Path) -> None:
    files = {"child": 'extends = "a.toml"\nname = "x"\n[[quant]]\nmethod = "qat"\nlr = 1'}
    with pytest.raises(RequestError, match=r"child.toml:\n  `quant.0.epochs` is missing; [^()]*$"):
        load(tmp_path, **files, a='extends = "quickstart"\nquant.0.bits = 17')


def test_a_mistake_on_the_command_line_says_so() -> None:
    with pytest.raises(RequestError, match=r"`quant.0.bits` must be .*, got 17. \(on the command line\)"):
        load_sweep("quickstart", ["quant.0.bits=17"])


def test_a_word_that_is_longer_than_any_path_is_an_override(tmp_path: Path) -> None:
    word = f"quant=[{{method='ptq', act_observer={['minmax'] * 100}}}]"
    assert {trial.method for trial in read_request(*read_words([word]), str(tmp_path)).plan} == {"fp32", "ptq"}
    with pytest.raises(RequestError, match="is neither a file nor a built-in sweep"):
        read_request(*read_words(["x" * 300]), str(tmp_path))
