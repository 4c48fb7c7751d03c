"""Ids are those of yesterday: of every trial of every built-in sweep, of every setting, and of the real data.

The golden files were written by `golden_files.py`, whose docstring says when they may be written again.
"""

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from golden_files import (
    GOLDEN,
    MADE_SWEEPS,
    describe_plan,
    describe_real_datasets,
    find_built_in_datasets,
    golden_sweeps,
    load_golden_sweep,
)
from pydantic import BaseModel

from quantfair.datasets import DatasetSpec
from quantfair.quant import ModelSpec, PtqSpec, QatSpec, TrainSpec
from quantfair.quant.specs.methods import LayerOverride
from quantfair.quant.specs.model import Preprocess

# A value that no plan can hold, by class and field.
NEVER_PLANNED = {("PtqSpec", "weight_observer", "ema")}  # PTQ sees weights once, so its ema is minmax


def read_golden_datasets() -> dict[str, list[str]]:
    """Return the golden lines of each source of real data."""
    found: dict[str, list[str]] = {}
    for line in (GOLDEN / "dataset_ids.txt").read_text().splitlines():
        found.setdefault(line.split()[0], []).append(line)
    return found


@pytest.mark.parametrize("name", golden_sweeps())
def test_every_id_label_and_need_of_a_plan_is_that_of_yesterday(name: str) -> None:
    golden = (GOLDEN / "ids" / f"{name}.txt").read_text()
    assert describe_plan(load_golden_sweep(name)).splitlines() == golden.splitlines()


def test_every_sweep_has_its_golden_ids_and_no_golden_ids_are_left_over() -> None:
    assert sorted(path.stem for path in (GOLDEN / "ids").iterdir()) == sorted(golden_sweeps())


def test_the_digits_of_the_built_in_sweeps_have_the_id_of_yesterday() -> None:
    assert describe_real_datasets("digits") == read_golden_datasets()["digits"]


@pytest.mark.parametrize("name", ["cifar10", "mnist", "utkface"])
def test_the_real_data_of_the_built_in_sweeps_has_the_ids_of_yesterday(name: str, real_data: Path) -> None:
    assert name != "utkface" or (real_data / "UTKFace" / "age_gender.csv.bz2").exists(), "the ids are of this file"
    assert describe_real_datasets(name) == read_golden_datasets()[name]


def test_the_golden_data_sets_are_all_of_the_built_in_sweeps() -> None:
    assert set(read_golden_datasets()) == {spec.name for spec in find_built_in_datasets()}


# That the made sweeps leave no setting out.


def planned_specs() -> dict[type[BaseModel], list[BaseModel]]:
    """Return every spec of the made sweeps by its class, those inside others too."""
    found: dict[type[BaseModel], list[BaseModel]] = {}
    for name in MADE_SWEEPS:
        for experiment in load_golden_sweep(name).experiments:
            overrides = [override for spec in experiment.quant for _, override in spec.overrides]
            specs = [experiment.dataset, experiment.model, experiment.model.preprocess, experiment.train]
            for spec in [*specs, *experiment.quant, *overrides]:
                found.setdefault(type(spec), []).append(spec)
    return found


def find_choices(annotation: Any) -> Iterator[Any]:
    """Yield every value that a field may have by name, also where it is optional or a list of them."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Annotated, Union, UnionType, tuple):
        for part in get_args(annotation):
            yield from find_choices(part)


@pytest.mark.parametrize(
    "model", [DatasetSpec, ModelSpec, Preprocess, TrainSpec, PtqSpec, QatSpec, LayerOverride], ids=lambda m: m.__name__
)
def test_the_made_sweeps_set_every_setting_to_every_value_that_has_a_name(model: type[BaseModel]) -> None:
    specs = planned_specs()[model]
    changed = {name for spec in specs for name in spec.model_dump(exclude_defaults=True)}
    assert changed == set(model.model_fields)
    for name, field in model.model_fields.items():
        values = [getattr(spec, name) for spec in specs]
        seen = {one for value in values for one in (value if isinstance(value, tuple) else (value,))}
        wanted = set(find_choices(field.annotation))
        missing = {value for value in wanted - seen if (model.__name__, name, value) not in NEVER_PLANNED}
        assert not missing, name
