"""Every setting of a spec is shown or has a reason, by one list: `SETTINGS` in `results/schema.py`."""

import re
from functools import cache
from itertools import combinations
from typing import Any

import pyarrow as pa
import pytest
from golden_files import load_golden_sweep
from pydantic import BaseModel

from quantfair.datasets import DatasetSpec
from quantfair.orchestrator.planning.plan import PlannedTrial, make_plan
from quantfair.quant import Fp32FtSpec, ModelSpec, PtqSpec, QatSpec, TrainSpec
from quantfair.results import SETTINGS, TABLES
from quantfair.results.configurations import name_configurations, order_trials
from quantfair.results.frames import SETTINGS_COLUMNS
from quantfair.results.store.rows import rows_to_table

SPECS: dict[str, tuple[type[BaseModel], ...]] = {
    "dataset": (DatasetSpec,),
    "model": (ModelSpec,),
    "train": (TrainSpec,),
    "quant": (PtqSpec, QatSpec, Fp32FtSpec),
}
# Fields of the specs that stand in no list, and why not.
IN_DATA = "the content id of the data has it, and the name of the data set tells from `config` what varies"
IN_FLOAT_MODEL = "`float_model` tells from `config` what varies of the network and of its training"
NOT_LISTED = {
    "dataset": {
        **dict.fromkeys(("test_share", "val_share", "train_size", "test_size", "split_seed"), IN_DATA),
        **dict.fromkeys(("exclude_conflicts", "size", "hard_share", "hard_group"), IN_DATA),
        "imbalance_by": "part of how an imbalance is called",
        "group_by": "no part of a trial's identity: the groupings have tables of their own",
        "path": "no part of a trial's identity: where the files are",
    },
    "model": dict.fromkeys(("width", "heads", "weights", "key_map", "preprocess"), IN_FLOAT_MODEL),
    "train": dict.fromkeys(TrainSpec.model_fields, IN_FLOAT_MODEL),
    "quant": {},
}


def fields_of(section: str) -> set[str]:
    """Return the names of all fields of the specs of a section."""
    return {name for spec in SPECS[section] for name in spec.model_fields}


def listed(section: str) -> set[str]:
    """Return the fields of a section that `SETTINGS` lists."""
    return {field for part, field in (setting.path for setting in SETTINGS) if part == section}


@pytest.mark.parametrize("section", SPECS)
def test_every_field_of_the_specs_is_a_setting_or_has_a_reason(section: str) -> None:
    assert listed(section) | NOT_LISTED[section].keys() == fields_of(section)
    assert not listed(section) & NOT_LISTED[section].keys()


def test_every_setting_is_listed_once_and_is_of_a_known_section() -> None:
    names = [setting.name for setting in SETTINGS]
    assert len(set(names)) == len(names)
    assert {setting.path for setting in SETTINGS if setting.path[0] not in SPECS} == {("", "seed")}


def test_a_setting_that_only_one_method_has_says_so() -> None:
    recipe = set(Fp32FtSpec.model_fields) - {"method"}
    ptq = set(PtqSpec.model_fields) - set(QatSpec.model_fields)
    qat = set(QatSpec.model_fields) - set(PtqSpec.model_fields)
    found = {(setting.only_of, setting.name) for setting in SETTINGS if setting.only_of}
    wanted = {"ptq": ptq, "qat": qat, "recipe": recipe}
    assert found == {(method, name) for method, names in wanted.items() for name in names}


@cache
def planned() -> tuple[PlannedTrial, ...]:
    """Every setting of quantization with every value that has a name, and every setting of data, model and training."""
    found: list[PlannedTrial] = []
    for name in ("every_quantization", "every_experiment"):
        sweep = load_golden_sweep(name)
        datasets = dict.fromkeys(experiment.dataset for experiment in sweep.experiments)
        found += make_plan(sweep, {spec: f"{number:016x}" for number, spec in enumerate(datasets)})
    return tuple(found)


def read_setting(trial: PlannedTrial, path: tuple[str, str]) -> Any:
    """Return what the specs of a trial say of a setting; None where its method has none."""
    section, field = path
    spec: Any = getattr(trial, section) if section else trial
    return getattr(spec, field, None)


@pytest.mark.parametrize("setting", [one for one in SETTINGS if one.type is not None], ids=lambda one: one.name)
def test_a_column_holds_what_the_spec_says(setting: Any) -> None:
    trials = [trial for trial in planned() if (setting.name, trial.method) != ("init", "fp32_ft")]
    table = rows_to_table((trial.columns() for trial in trials), TABLES["trials"])
    values = table[setting.name].to_pylist()
    assert values == [read_setting(trial, setting.path) for trial in trials]
    assert len(set(values)) > 1, "the made sweeps never vary it, so this shows nothing"


def test_the_control_starts_from_the_float_model() -> None:
    assert {trial.columns()["init"] for trial in planned() if trial.method == "fp32_ft"} == {"fp32"}


def test_tables_and_page_have_every_setting_of_the_list() -> None:
    with_column = {setting.name for setting in SETTINGS if setting.type is not None}
    assert with_column <= set(TABLES["trials"].names)
    told = {setting.name for setting in SETTINGS if setting.type is not None and setting.words is not None}
    assert told <= set(SETTINGS_COLUMNS)
    # What a name does not say with words of the setting, it says by the method, the bits, the data or the float model.
    silent = {setting.name for setting in SETTINGS if setting.words is None}
    assert silent == {"dataset", "task", "model", "method", "weight_bits", "act_bits", "seed", "imbalance"}


def rows_of(trials: list[PlannedTrial]) -> pa.Table:
    """Return the rows of trials as their table has them."""
    return rows_to_table((trial.columns() for trial in trials), TABLES["trials"])


def test_two_configurations_that_differ_in_any_setting_have_different_names_in_words() -> None:
    one_of_each = list({trial.config_id: trial for trial in planned()}.values())
    pairs = 0
    for method in ("fp32_ft", "ptq", "qat"):
        alike = [trial for trial in one_of_each if trial.method == method]
        for pair in combinations(alike, 2):
            if len({(trial.dataset, trial.model, trial.train) for trial in pair}) > 1:
                continue
            names = list(name_configurations(order_trials(rows_of(list(pair)))).values())
            assert len(set(names)) == 2, names
            # The start of its id is what a name has where words were not enough.
            assert not [name for name in names if re.search(r"\([0-9a-f]{6}\)$", name)], names
            pairs += 1
    assert pairs > 500


@pytest.mark.parametrize("field", ["rounding", "scales", "bias_correction", "percentile", "first_last_bits"])
def test_a_setting_without_a_column_is_in_the_name(field: str) -> None:
    names = name_configurations(order_trials(rows_of([t for t in planned() if t.method in ("ptq", "qat")])))
    configs = {trial.config_id: trial for trial in planned()}
    words = next(setting.words for setting in SETTINGS if setting.name == field)
    changed = {
        config_id: f"{words}{getattr(configs[config_id].quant, field)}"
        for config_id in names
        if field in configs[config_id].quant.model_dump(exclude_defaults=True)
    }
    assert changed
    for config_id, said in changed.items():
        assert said in names[config_id]
