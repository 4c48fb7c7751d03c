"""The JSON schema of sweep files: what it refuses the program refuses too, and what it is there to catch it catches."""

import copy
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from quantfair.orchestrator.config.errors import RequestError
from quantfair.orchestrator.config.json_schema import make_schema
from quantfair.orchestrator.config.spec import load_sweep, parse_sweep
from quantfair.orchestrator.config.sweep_file import BUILT_IN_FOLDER, apply_overrides, built_in_sweeps

ROOT = Path(__file__).resolve().parent.parent
PLAIN = make_schema()
SCHEMA = Draft202012Validator(PLAIN)
QUICKSTART = tomllib.loads((BUILT_IN_FOLDER / "quickstart.toml").read_text())
FT = "quant.0={method='ptq', base='fp32_ft', epochs=[1, 2], lr=0.1}"
# Changes to the quickstart, and whether the program takes them.
RIGHT = [
    "seeds=[7]",
    "analysis=['sqnr', 'sensitivity']",
    "retry={crash=0, timeout_s=60}",
    "resources.ptq={cpu=0.5, gpu=1}",
    "experiments.0.dataset.train_size=[100, 200]",
    "experiments.0.dataset.group_by=['label', 'digit']",
    "experiments.0.dataset={name='synthetic', task='class', hard_share=1}",
    "experiments.0.dataset={name='my.module:faces', task='age'}",
    "experiments.0.dataset.name=['digits']",
    "experiments.0.model={name='torchvision:resnet18', weights='torchvision:DEFAULT'}",
    "experiments.0.model={name=['small_cnn', 'nin'], width=[8, 16]}",
    "experiments.0.model={name='trident', heads='all'}",
    "experiments.0.model={name='nin', weights='a.pt', key_map={'net.'=''}}",
    "experiments.0.model={name='nin', weights='a.pt', key_map=[['net.', '']]}",
    "experiments.0.model.preprocess={resize=8, mean=[0], std=[1.5]}",
    "experiments.0.model.preprocess=[{resize=8}, {resize=9}]",
    "experiments.0.train={epochs=[1, 2], lr=1, schedule='step', milestones=[1], augment=['crop']}",
    "quant=[]",
    "quant.0={method=['qat'], bits=8, epochs=1, lr=0.1}",
    "quant.0={method=['ptq'], weight_bits=[2, 16], act_bits=4}",
    "quant.0.overrides={'features.*'={bits=4, scheme='asymmetric'}, fc={quantize=false}}",
    "quant.0.overrides=[['fc', {bits=4}]]",
    "quant.1={method='qat', init='scratch'}",
    "quant.1.init=['scratch', 'fp32']",
    "quant.1.freeze_bn_after=[0, 3]",
    FT,
]
WRONG = [
    "nmae=3",
    "name='a/b'",
    "seeds=0",
    "seeds=[-1]",
    "seeds=[0.5]",
    "runtimes=['tensorrt']",
    "analysis=['sqrn']",
    "retry.timeout_s=0",
    "retry.crash=true",
    "resources.qat.cpus=1",
    "resources.qat.cpu=0",
    "experiments.0.data={}",
    "experiments.0.dataset.name='mnits'",
    "experiments.0.dataset.train_size=0",
    "experiments.0.dataset.train_size=[]",
    "experiments.0.dataset.group_by='label'",
    "experiments.0.model.name='small-cnn'",
    "experiments.0.model.widht=8",
    "experiments.0.model.preprocess.resize=2",
    "experiments.0.train={epochs=3}",
    "experiments.0.train.lr='0.1'",
    "experiments.0.train.schedule=['cosine', 'cosin']",
    "quant={method='ptq'}",
    "quant.0.method='qatt'",
    "quant.0.bits=17",
    "quant.0.bits=[8, '8']",
    "quant.0.bitz=8",
    "quant.0.scales='learned'",
    "quant.0.overrides={fc={bitz=8}}",
    "quant.0.overrides=8",
    "quant.1.rounding='adaround'",
    "quant.1.act_observer='minmx'",
    "quant.1={method='qat'}",
    "quant.1={method=['ptq', 'qat'], scales='learned', epochs=1, lr=0.1, base='fp32_ft'}",
]
# What only the program refuses: two values that do not go together, and what depends on others.
ONLY_THE_PROGRAM = [
    "seeds=[]",
    "seeds=[1, 1]",
    "experiments=[]",
    "experiments.0.dataset.task='gender'",
    "experiments.0.train.augment=['flip']",
    "quant.0.weight_bits=8",
    "quant.0.epochs=3",
    "quant.1.act_observer='percentile'",
]


def changed(*overrides: str) -> dict[str, Any]:
    values = copy.deepcopy(QUICKSTART)
    assert not apply_overrides(values, overrides)
    return values


def program_takes(values: dict[str, Any]) -> bool:
    try:
        parse_sweep(copy.deepcopy(values))
    except RequestError:
        return False
    return True


def test_it_is_a_schema_of_draft_2020_12_and_every_built_in_sweep_fits_it() -> None:
    Draft202012Validator.check_schema(PLAIN)
    for name in built_in_sweeps():
        values = tomllib.loads((BUILT_IN_FOLDER / f"{name}.toml").read_text())
        assert not [error.message for error in SCHEMA.iter_errors(values)], name


@pytest.mark.parametrize("override", RIGHT)
def test_what_the_program_takes_fits_the_schema(override: str) -> None:
    assert program_takes(changed(override))
    assert SCHEMA.is_valid(changed(override))


@pytest.mark.parametrize("override", WRONG)
def test_typos_and_wrong_values_are_seen_by_both(override: str) -> None:
    assert not program_takes(changed(override))
    assert not SCHEMA.is_valid(changed(override))


@pytest.mark.parametrize("override", ONLY_THE_PROGRAM)
def test_what_two_values_make_together_is_left_to_the_program(override: str) -> None:
    assert not program_takes(changed(override))
    assert SCHEMA.is_valid(changed(override))


@settings(max_examples=150, deadline=None)
@given(overrides=st.lists(st.sampled_from([*RIGHT, *WRONG, *ONLY_THE_PROGRAM]), min_size=2, max_size=4))
def test_the_schema_is_never_stricter_than_the_program(overrides: list[str]) -> None:
    values = copy.deepcopy(QUICKSTART)
    if not apply_overrides(values, overrides) and program_takes(values):
        assert SCHEMA.is_valid(values)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('extends = "utkface"\nname = "mine"\nexperiments.0.dataset.train_size = 2000\nquant.1.bits = [4]', True),
        ('extends = "utkface"\nname = "mine"\n[[quant]]\nmethod = "ptq"\nbits = 8', True),
        ('extends = "utkface"\nname = "mine"\nquant.1.bitz = [4]', False),
        ('extends = "utkface"\nname = "mine"\nexperiments.0.model.widht = 4', False),
        ('extends = "utkface"\nname = "mine"\nexperiments.first.model.width = 4', False),
        ('extends = "utkface"', False),
        ('name = "mine"', False),
    ],
)
def test_a_file_of_changes_needs_a_name_and_no_more(tmp_path: Path, text: str, fits: bool) -> None:
    assert SCHEMA.is_valid(tomllib.loads(text)) == fits
    file = tmp_path / "mine.toml"
    file.write_text(text)
    if fits:
        assert load_sweep(str(file), []).head.name == "mine"
    else:
        with pytest.raises(RequestError):
            load_sweep(str(file), [])


def test_an_error_names_the_field_and_not_only_the_block() -> None:
    (error,) = SCHEMA.iter_errors(changed("quant.1.rounding='adaround'"))
    deepest = min(error.context or [], key=lambda inner: -len(inner.absolute_path))
    assert "rounding" in deepest.message


def test_editors_show_what_sections_are_and_what_values_there_are() -> None:
    quant = PLAIN["properties"]["quant"]["anyOf"][0]["items"]["properties"]
    one, several = quant["act_signed"]["anyOf"]
    assert one["enum"] == several["items"]["enum"] == ["auto", "always"]
    dataset = PLAIN["properties"]["experiments"]["anyOf"][0]["items"]["properties"]["dataset"]
    assert dataset["description"].startswith("A data set, the task on it, how it is split")


def test_plan_prints_it_and_nothing_else() -> None:
    command = [sys.executable, "-m", "orchestrator", "plan", "--schema"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == PLAIN
