"""Sweep files: axes, overrides, and errors that name path, value, rule and the nearest name, all at once."""

import copy
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from quantfair.datasets import SOURCES, DatasetSpec
from quantfair.orchestrator.config.errors import RequestError
from quantfair.orchestrator.config.spec import Retry, load_sweep, parse_sweep
from quantfair.orchestrator.config.sweep_file import BUILT_IN_FOLDER, built_in_sweeps
from quantfair.quant import MODELS, RUNTIMES, ModelSpec, PtqSpec, QatSpec, TrainSpec
from quantfair.quant.specs.methods import ActObserver

RECIPE = {"epochs": 7, "lr": 0.1}
QUICKSTART = tomllib.loads((BUILT_IN_FOLDER / "quickstart.toml").read_text())


def with_(**changes: object) -> dict:
    """The quickstart with values at dotted paths replaced; `__` stands for a dot."""
    raw = copy.deepcopy(QUICKSTART)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = raw
        for step in parents:
            place = place[int(step)] if isinstance(place, list) else place[step]  # type: ignore[index]
        place[last] = value  # type: ignore[index]
    return raw


def quant_of(blocks: list[dict], *, train: dict | None = None) -> tuple[PtqSpec | QatSpec, ...]:
    """The quantized trials of one experiment of the quickstart, with other blocks and another training."""
    raw = with_(quant=blocks, experiments__0__train=train or QUICKSTART["experiments"][0]["train"])
    return parse_sweep(raw).experiments[0].quant


def problems_of(raw: dict) -> str:
    with pytest.raises(RequestError) as caught:
        parse_sweep(raw)
    return str(caught.value)


def test_the_built_in_sweeps_are_valid() -> None:
    claims = ["claims_cifar10", "claims_mnist", "claims_utkface"]
    others = ["cifar10", "mnist", "quickstart", "reference", "schemes", "scratch", "utkface"]
    assert built_in_sweeps() == sorted([*claims, *others])
    for name in built_in_sweeps():
        assert load_sweep(name, []).head.name == name


def test_every_list_is_an_axis_and_blocks_are_added_up() -> None:
    sweep = parse_sweep(QUICKSTART)
    (experiment,) = sweep.experiments
    assert [spec.method for spec in experiment.quant] == ["ptq"] * 9 + ["qat"] * 6 + ["ptq"]
    assert {(spec.weight_bits, spec.act_bits) for spec in experiment.quant} == {(16, 16), (8, 8), (4, 4)}


def test_fields_of_an_experiment_are_axes_but_group_by_is_a_list() -> None:
    raw = with_(experiments__0__train={"epochs": [1, 2], "lr": [0.1, 0.01]}, experiments__0__model__width=[8, 16])
    sweep = parse_sweep(raw)
    assert len(sweep.experiments) == 8
    assert {experiment.dataset.group_by for experiment in sweep.experiments} == {("label",)}


def test_overrides_reach_every_field_by_path() -> None:
    overrides = ["seeds=[7]", "experiments.0.dataset.train_size=200", "quant.1.bits=[4]", "quant.0.bits=3", "name=mine"]
    sweep = load_sweep("quickstart", overrides)
    assert sweep.head.seeds == (7,)
    assert sweep.head.name == "mine"
    assert sweep.experiments[0].dataset.train_size == 200
    quant = sweep.experiments[0].quant
    assert {spec.weight_bits for spec in quant if spec.method == "qat"} == {4}
    assert {spec.weight_bits for spec in quant if spec.method == "ptq" and spec.act_signed == "auto"} == {3}


def test_a_setting_without_effect_is_put_back_to_its_default() -> None:
    block = {"method": "ptq", "percentile": 0.99, "act_signed": "always", "scheme": "asymmetric"}
    plain = {"method": "ptq", "scheme": "asymmetric"}
    first, second = quant_of([block, plain])
    assert first == second
    assert quant_of([{**block, "act_observer": "percentile"}])[0].percentile == 0.99


def test_qat_from_scratch_takes_the_course_of_train_wherever_its_block_is_silent() -> None:
    steps = {"epochs": 4, "lr": 0.1, "schedule": "step", "milestones": [2, 3]}
    scratch = {"method": "qat", "init": "scratch"}
    silent, lone, other = quant_of([scratch, {**scratch, "epochs": 9}, {**scratch, "schedule": "cosine"}], train=steps)
    assert [(s.epochs, s.lr, s.schedule, s.milestones, s.select) for s in (silent, lone, other)] == [  # type: ignore[union-attr]
        (4, 0.1, "step", (2, 3), "best_val"),
        (9, 0.1, "step", (2, 3), "best_val"),
        (4, 0.1, "cosine", (), "best_val"),
    ]


def test_qat_from_scratch_follows_each_value_of_an_axis_of_train() -> None:
    raw = with_(experiments__0__train__epochs=[1, 2], quant=[{"method": "qat", "init": ["scratch", "fp32"], **RECIPE}])
    assert [spec.epochs for e in parse_sweep(raw).experiments for spec in e.quant] == [7, 7, 7, 7]  # type: ignore[union-attr]
    del raw["quant"][0]["epochs"]
    assert problems_of(raw).count("`quant.0.epochs` is missing; it must be a whole number at least 1.") == 1
    raw["quant"][0]["init"] = "scratch"
    assert [spec.epochs for e in parse_sweep(raw).experiments for spec in e.quant] == [1, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"quant__0__bitz": 8}, "`quant.0.bitz` is not a known key. Did you mean 'bits'?"),
        ({"quant__0__act_observr": "ema"}, "`quant.0.act_observr` is not a known key. Did you mean 'act_observer'?"),
        ({"quant__0__bits": [8, 17]}, "`quant.0.bits` must be a whole number in 2..16, got 17."),
        ({"quant__0__bits": 1}, "`quant.0.bits` must be a whole number in 2..16, got 1."),
        ({"quant__0__bits": "8"}, "`quant.0.bits` must be a whole number in 2..16, got '8' (a text)."),
        ({"quant__0__bits": []}, "`quant.0.bits` is an empty list: give it a value."),
        ({"quant__0__weight_bits": 8}, "`quant.0.bits` sets weight_bits and act_bits; remove it or weight_bits."),
        (
            {"quant__0__act_observer": "minmx"},
            f"`quant.0.act_observer` must be one of {', '.join(get_args(ActObserver))}, got 'minmx'. "
            "Did you mean 'minmax'?",
        ),
        (
            {"quant__1__act_observer": "percentile"},
            "`quant.1.act_observer` is 'percentile', which needs a whole pass over fixed weights: "
            "set freeze_observers_after = 0",
        ),
        ({"quant__1__method": "qatt"}, "`quant.1.method` must be ptq or qat, got 'qatt'. Did you mean 'qat'?"),
        (
            {"quant": [{"method": "ptq", "base": "fp32_ft", "epochs": 2, "lr": 0.1, "schedule": "step"}]},
            "`quant.0.milestones` is missing: the schedule 'step' needs the epochs at which `lr` drops",
        ),
        ({"quant__1__epochs": 0}, "`quant.1.epochs` must be a whole number at least 1, got 0."),
        ({"quant__1__lr": -0.1}, "`quant.1.lr` must be a number above 0, got -0.1."),
        ({"quant": {"method": "ptq"}}, "`quant` must be a list of tables, written [[quant]]."),
        (
            {"experiments__0__dataset__name": "mnits"},
            f"`experiments.0.dataset.name` must be one of {', '.join(SOURCES)}, package.module:factory, got 'mnits'. "
            "Did you mean 'mnist'?",
        ),
        (
            {"experiments__0__model__name": "smal_cnn"},
            f"`experiments.0.model.name` must be one of {', '.join(MODELS)}, torchvision:NAME, "
            "package.module:factory, got 'smal_cnn'. Did you mean 'small_cnn'?",
        ),
        (
            {"experiments__0__dataset__task": "digits"},
            "`experiments.0.dataset.task` must be one of ['digit'], got 'digits'",
        ),
        ({"experiments__0__dataset__group_by": ["lable"]}, "`experiments.0.dataset.group_by`"),
        ({"experiments__0__train": {"epochs": 3}}, "`experiments.0.train.lr` is missing; it must be a number above 0."),
        ({"experiments__0__data": {}}, "`experiments.0.data` is not a known key. Did you mean 'dataset'?"),
        (
            {"quant__0__base": "fp32_ft"},
            '`quant.0.epochs` is missing: base = "fp32_ft" needs the recipe of its control.',
        ),
        (
            {"quant__0__overrides": {"classifier": {"bitz": 8}}},
            "`quant.0.overrides.classifier.bitz` is not a known key. Did you mean 'bits'? Known here: quantize, ",
        ),
        (
            {"quant__0__overrides": {"*": {}, "features.*": {"bits": 17}}},
            '1 problem in the sweep:\n  `quant.0.overrides."features.*".bits` must be a whole number in 2..16, got 17.',
        ),
        (
            {"quant__0__overrides": {"0": {"act_bits": "8"}}},
            "`quant.0.overrides.0.act_bits` must be a whole number in 2..16, or 32, got '8' (a text).",
        ),
        (
            {"quant__0__overrides": {"fc": {"bits": 4, "act_bits": 4}}},
            "`quant.0.overrides.fc.bits` sets weight_bits and act_bits; remove it or those.",
        ),
        (
            {"quant__0__overrides": {"fc": {"quantize": "no"}}},
            "`quant.0.overrides.fc.quantize` must be true or false, got 'no' (a text).",
        ),
        (
            {"quant__0__overrides": {"fc": {"scheme": "symetric"}}},
            "`quant.0.overrides.fc.scheme` must be one of symmetric, asymmetric, got 'symetric'. "
            "Did you mean 'symmetric'?",
        ),
        ({"quant__0__overrides": {"fc": 8}}, "`quant.0.overrides.fc` must be a table, got 8 (a whole number)."),
        ({"quant__0__overrides": 8}, "`quant.0.overrides` must be a table from layer pattern to settings, such as"),
        ({"quant__0__overrides": [8]}, "`quant.0.overrides.0` must be a table, got 8 (a whole number)."),
        (
            {"quant__1__overrides": {"fc": {}, "features.*": {"act_observer": "kl"}}},
            "`quant.1.overrides.\"features.*\".act_observer` is 'kl', which needs a whole pass over fixed weights",
        ),
        (
            {"quant__1__overrides": {"fc": {"weight_observer": "mse"}}},
            "`quant.1.overrides.\"fc\".weight_observer` is 'mse', which needs a whole pass over fixed weights",
        ),
        ({"quant__0__first_last_bits": 1}, "`quant.0.first_last_bits` must be a whole number in 2..16, got 1."),
        ({"quant__0__quantize_adds": 1}, "`quant.0.quantize_adds` must be true or false, got 1 (a whole number)."),
        ({"quant__0__lr": 0.1}, '`quant.0.lr` has no effect with base = "fp32": remove it, or set base = "fp32_ft".'),
        (
            {"experiments__0__train": {"epochs": 1, "lr": 0.1, "augment": ["flip"]}},
            "`experiments.0.train.augment` may not hold 'flip' for digits: a mirror image",
        ),
        ({"experiments": []}, "`experiments` is missing; give at least one [[experiments]] block."),
        ({"seeds": []}, "`seeds` is an empty list: give it a value."),
        ({"seeds": [0.5]}, "`seeds.0` must be a list of whole numbers from 0 up, got 0.5 (a number)."),
        ({"seeds": [1, 1]}, "`seeds` holds a value twice: [1, 1]."),
        ({"seeds": [2**31]}, "`seeds.0` must be a list of whole numbers from 0 up, got 2147483648."),
        ({"quants": []}, "`quants` is not a known key. Did you mean 'quant'?"),
        ({"quant__0__method": {"a": 1}}, "`quant.0.method` must be ptq or qat, got {'a': 1}."),
        ({"sweeps": 1}, "`sweeps` is not a known key."),
        ({"name": "a/b"}, "`name` must match ^[A-Za-z0-9]"),
        ({"retry": 3}, "`retry` must be a table, got 3 (a whole number)."),
        ({"quant__1__lr": math.inf}, "`quant.1.lr` must be a number above 0, got inf."),
        ({"experiments__0__dataset__group_by": "label"}, "must be a list of texts, got 'label' (a text)."),
        (
            {"runtimes": ["torch", "tensort"]},
            f"`runtimes.1` must be one of {', '.join(['torch', *RUNTIMES])}, got 'tensort'.",
        ),
        ({"runtimes": ["tensorrt"]}, "`runtimes` must hold 'torch', which every other runtime is compared with"),
        ({"resources": {"qat": {"cpus": 1}}}, "`resources.qat.cpus` is not a known key. Did you mean 'cpu'?"),
        ({"resources": {"qat": {"gpu": 1.5}}}, "`resources.qat.gpu` must be at most 1, or a whole number, got 1.5"),
        ({"resources": {"qat": {"labels": {"pool": 3}}}}, "`resources.qat.labels` must be a table of texts, such as"),
        ({"resources": {"qat": {"labels": {"pool": "!a"}}}}, "letters, digits and . _ - / inside, got {'pool': '!a'}"),
        ({"resources": {"qat": {"labels": "gpu"}}}, "`resources.qat.labels` must be a table of texts"),
        ({"resources": {"qat": {"accelerator_type": "A 1"}}}, "`resources.qat.accelerator_type` must match"),
        ({"resources": {"qat": {"cpu": 0}}}, "`resources.qat.cpu` must be a number above 0, got 0."),
        ({"retry": {"timeout_s": 0}}, "`retry.timeout_s` must be a number above 0, got 0."),
        ({"retry": {"timeout_s": "1h"}}, "`retry.timeout_s` must be a number above 0, got '1h' (a text)."),
        ({"retry": {"timeout": 60}}, "`retry.timeout` is not a known key. Did you mean 'timeout_s'?"),
        ({"retry": {"crash": True}}, "`retry.crash` must be a whole number at least 0, got True (true or false)."),
    ],
)
def test_a_mistake_is_named_with_its_path_value_and_remedy(changes: dict, expected: str) -> None:
    assert expected in problems_of(with_(**changes))


def test_all_mistakes_are_reported_at_once_and_each_once() -> None:
    raw = with_(quant__0__bits=17, quant__1__lr=0, experiments__0__dataset__name="x", seeds="0", nmae="x")
    text = problems_of(raw)
    assert text.startswith("5 problems in the sweep:")
    for path in ("quant.0.bits", "quant.1.lr", "experiments.0.dataset.name", "seeds", "nmae"):
        assert text.count(f"`{path}`") == 1


def test_an_unknown_sweep_names_the_nearest() -> None:
    with pytest.raises(
        RequestError, match=r"`quickstrat` is neither a file nor a built-in .*Did you mean 'quickstart'\?"
    ):
        load_sweep("quickstrat", [])


def test_broken_toml_says_where(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("name = \n")
    with pytest.raises(RequestError, match=r"broken.toml:\n  This is not TOML: .*line 1"):
        load_sweep(str(file), [])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("quant.7.bits=4", "`quant.7.bits` cannot be set: there is no '7' in a list of 3 \\(count from 0\\)"),
        ("name.x=1", "`name.x` cannot be set: there is no 'x' in 'quickstart'"),
    ],
)
def test_an_override_that_leads_nowhere_is_an_error(override: str, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        load_sweep("quickstart", [override])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: QatSpec(method="qat", epochs=1, lr=0.1, act_observer="percentile"),
            "`act_observer` is 'percentile', which needs",
        ),
        (lambda: PtqSpec(method="ptq", lr=0.1), "`lr` has no effect with base"),
        (lambda: PtqSpec(method="ptq", weight_bits=17), r"weight_bits\n  Input should be less than or equal to 16"),
        (
            lambda: TrainSpec(epochs=1, lr=0.1, milestones=(2,)),
            "`milestones` belongs to the schedule 'step', and this one is 'cosine'",
        ),
        (lambda: ModelSpec(name="nin", heads="all"), "`heads` is 'all', but nin has one head"),
        (lambda: DatasetSpec(name="mnist", task="gender"), r"`task` must be one of \['class'\], got 'gender'"),
        (lambda: Retry(timeout_s=0), r"timeout_s\n  Input should be greater than 0"),
    ],
)
def test_a_spec_that_is_made_in_python_names_the_field_that_does_not_fit(make: Callable, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        make()
