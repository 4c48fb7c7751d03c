"""Ids change when a result would, and at nothing else: every field of every spec is asked."""

import hashlib
import json
from typing import Any

import pytest
from test_plan import plan_of

from quantfair.datasets import DatasetSpec
from quantfair.orchestrator.config.spec import SweepHead, load_sweep
from quantfair.orchestrator.planning.plan import PlannedTrial, make_plan
from quantfair.quant import Fp32FtSpec, ModelSpec, PtqSpec, QatSpec, TrainSpec


def ids_of(*overrides: str, name: str = "quickstart") -> dict[str, list[str]]:
    """The ids of the first seed by method; data sets are told apart by what decides their content and splits."""
    sweep = load_sweep(name, list(overrides))
    ids = {
        experiment.dataset: hashlib.sha256(json.dumps(experiment.dataset.identity()).encode()).hexdigest()[:16]
        for experiment in sweep.experiments
    }
    found: dict[str, list[str]] = {}
    for trial in make_plan(sweep, ids):
        found.setdefault(trial.method, []).append(trial.trial_id)
    return {method: sorted(ids) for method, ids in found.items()}


def base(*extra: str) -> tuple[str, ...]:
    """A small sweep in which every setting below has an effect."""
    return (
        "seeds=[0]",
        "quant=[{method='ptq', weight_bits=4, act_bits=4, act_observer='percentile'}, "
        "{method='qat', weight_bits=4, act_bits=4, epochs=5, lr=0.001}]",
        *extra,
    )


UNCHANGED = [
    "name='other'",
    "runtimes=['torch', 'onnxruntime', 'tensorrt']",
    "analysis=['sqnr', 'sensitivity']",
    "resources.qat={cpu=2, gpu=0.5}",
    "retry={crash=5, timeout_s=60}",
    "experiments.0.dataset.group_by=['digit']",
    "experiments.0.dataset.val_share=0.1",
    "experiments.0.dataset.imbalance_by='digit'",
    "experiments.0.model.width=16",
    "experiments.0.model.preprocess={mean=[], std=[]}",
    "experiments.0.train={lr=0.003, epochs=15}",
    "experiments.0.train.weight_decay=0.0",
    "quant.0.scheme='symmetric'",
    "quant.0.calib_images=1024",
    "quant.0.weight_observer='ema'",
    "quant.0={act_observer='percentile', act_bits=4, weight_bits=4, method='ptq', percentile=0.9999}",
    "quant.1={method='qat', bits=4, epochs=5, lr=1e-3}",
    "quant.1.first_last_bits=4",
]


@pytest.mark.parametrize("override", UNCHANGED)
def test_ids_stay_where_no_result_changes(override: str) -> None:
    assert ids_of(*base(override)) == ids_of(*base())


def test_the_order_of_blocks_axes_seeds_and_names_changes_no_id() -> None:
    ways = [
        ("seeds=[0, 1]", "quant=[{method='ptq', bits=[8, 4]}, {method='qat', bits=8, epochs=1, lr=1}]"),
        ("seeds=[1, 0]", "quant=[{method='qat', lr=1.0, epochs=1, bits=8}, {method='ptq', bits=[4, 8]}]"),
        ("seeds=[1, 0]", "quant=[{method='qat', lr=1, epochs=1}, {method='ptq', bits=4}, {method='ptq'}]"),
    ]
    first, *others = (ids_of(*way) for way in ways)
    assert others == [first, first]
    crop, flip = (
        ids_of("experiments.0.dataset={name='cifar10', task='class'}", f"experiments.0.train.augment={augment}")
        for augment in ("['crop', 'flip']", "['flip', 'crop']")
    )
    assert crop == flip


# One other value for every field, or a value and another: what feeds or trains the float model changes all ids.
EVERY = {"fp32", "fp32_ft", "ptq", "qat"}
PTQ, QAT, RECIPE = {"ptq"}, {"qat"}, {"qat", "fp32_ft"}
DATASET: dict[str, Any] = {
    "name": "{name='mnist', task='class'}",
    "task": ("{name='utkface', task='age', test_share=0.5}", "{name='utkface', task='gender', test_share=0.5}"),
    "test_share": "0.4",
    "val_share": "0.2",
    "train_size": "300",
    "test_size": "300",
    "split_seed": "1",
    "exclude_conflicts": "true",
    "imbalance": (
        "{name='digits', task='digit', train_size=300, imbalance='longtail:10'}",
        "{name='digits', task='digit', train_size=300}",
    ),
    "imbalance_by": (
        "{name='utkface', task='gender', train_size=300, imbalance='longtail:10', imbalance_by='ethnicity'}",
        "{name='utkface', task='gender', train_size=300, imbalance='longtail:10'}",
    ),
    "size": ("{name='utkface', task='gender', size=32}", "{name='utkface', task='gender'}"),
    "hard_share": ("{name='synthetic', task='class', hard_share=0.2}", "{name='synthetic', task='class'}"),
    "hard_group": ("{name='synthetic', task='class', hard_group='a'}", "{name='synthetic', task='class'}"),
}  # fmt: skip
MODEL = {
    "name": "{name='nin'}",
    "width": "{name='small_cnn', width=8}",
    "heads": ("{name='trident', heads='all'}", "{name='trident'}"),
    "weights": ("{name='torchvision:resnet18', weights='torchvision:DEFAULT'}", "{name='torchvision:resnet18'}"),
    "preprocess": "{name='small_cnn', preprocess={resize=16}}",
}
TRAIN = {
    "epochs": "16",
    "lr": "0.004",
    "schedule": "'constant'",
    "milestones": (
        "{epochs=9, lr=1, schedule='step', milestones=[3]}",
        "{epochs=9, lr=1, schedule='step', milestones=[4]}",
    ),
    "select": "'last'",
    "freeze_bn_after": "1",
    "batch_size": "32",
    "optimizer": "'sgd'",
    "weight_decay": "1e-5",
    "precision": "'bf16'",
    "compile": "true",
    "augment": "['crop']",
}  # fmt: skip
SHARED = {
    "weight_bits": "5", "act_bits": "5", "scheme": "'asymmetric'", "granularity": "'per_tensor'",
    "act_signed": "'always'", "first_last_bits": "8", "overrides": "{fc={bits=8}}", "quantize_adds": "true",
    "preset": "'iao'", "calib_images": "64",
    "calib_batch_size": "32", "calib_seed": "1", "calib_balance": "'label'",
}  # fmt: skip
FT = "{method='ptq', base='fp32_ft', epochs=2, lr=0.1%s}"
OF_PTQ = {
    **SHARED, "weight_observer": "'mse'", "act_observer": "'kl'", "percentile": "0.99", "bn_fold": "'none'",
    "rounding": "'adaround'", "bias_correction": "true",
}  # fmt: skip
OF_QAT = {
    **SHARED, "weight_observer": "'ema'", "act_observer": "'minmax'", "init": "'scratch'", "bn_fold": "'fold'",
    "scales": "'learned'", "freeze_observers_after": "1", "epochs": "6", "lr": "0.002", "schedule": "'constant'",
    "select": "'best_val'", "freeze_bn_after": "1",
}  # fmt: skip
RECIPE_FIELDS = ("epochs", "lr", "schedule", "milestones", "select", "freeze_bn_after")


def cases() -> list[Any]:
    found = []
    sections = {"experiments.0.dataset": DATASET, "experiments.0.model": MODEL, "experiments.0.train": TRAIN}
    for path, table in sections.items():
        found += [(f"{path}.{field}", path, change, field, EVERY) for field, change in table.items()]
    found += [(f"quant.0.{field}", "quant.0", change, field, PTQ) for field, change in OF_PTQ.items()]
    for field, change in OF_QAT.items():
        found.append((f"quant.1.{field}", "quant.1", change, field, RECIPE if field in RECIPE_FIELDS else QAT))
    return [pytest.param(*case[1:], id=case[0]) for case in found]


@pytest.mark.parametrize(("path", "change", "field", "methods"), cases())
def test_ids_change_with_every_setting_that_changes_a_result(
    path: str, change: Any, field: str, methods: set[str]
) -> None:
    after, before = change if isinstance(change, tuple) else (change, None)
    override = f"{path}={after}" if after.startswith("{") and field != "overrides" else f"{path}.{field}={after}"
    ours = ids_of(*base(override))
    theirs = ids_of(*base(*([f"{path}={before}"] if before else [])))
    for method in ours.keys() & theirs.keys():
        if method in methods:
            assert not set(ours[method]) & set(theirs[method]), method
        else:
            assert ours[method] == theirs[method], method


def test_the_recipe_of_ptq_on_the_control_is_part_of_its_id() -> None:
    plain = ids_of(*base(f"quant.0={FT % ''}"))["ptq"]
    assert plain != ids_of(*base("quant.0={method='ptq'}"))["ptq"]
    for more in (", schedule='constant'", ", select='best_val'", ", freeze_bn_after=1", ", bits=4"):
        assert ids_of(*base(f"quant.0={FT % more}"))["ptq"] != plain


def test_a_file_of_weights_counts_by_its_content(tmp_path: Any) -> None:
    def ids(file: str, content: bytes, key_map: str = "{}") -> dict[str, list[str]]:
        (tmp_path / file).write_bytes(content)
        model = f"{{name='small_cnn', weights='{tmp_path / file}', key_map={key_map}}}"
        return ids_of(*base(f"experiments.0.model={model}"))

    assert ids("a.pt", b"one") == ids("b.pt", b"one")
    assert ids("a.pt", b"one") != ids("b.pt", b"another")
    assert ids("a.pt", b"one", "{a='b', c='d'}") == ids("a.pt", b"one", "{c='d', a='b'}")
    assert ids("a.pt", b"one", "{a='b'}") != ids("a.pt", b"one")


def test_every_field_of_every_spec_was_asked() -> None:
    elsewhere = {"method", "base", "milestones", "path", "key_map", "group_by"}
    assert set(DATASET) | elsewhere >= set(DatasetSpec.model_fields)
    assert set(MODEL) | elsewhere >= set(ModelSpec.model_fields)
    assert set(TRAIN) | elsewhere >= set(TrainSpec.model_fields)
    assert set(OF_PTQ) | set(RECIPE_FIELDS) | elsewhere >= set(PtqSpec.model_fields)
    assert set(OF_QAT) | {"percentile"} | elsewhere >= set(QatSpec.model_fields)
    assert set(Fp32FtSpec.model_fields) - {"method"} == set(RECIPE_FIELDS)
    head = {"name", "seeds", "runtimes", "analysis", "limit_pp", "resources", "retry"}
    assert set(SweepHead.model_fields) == head  # only seeds is in the ids


def test_a_new_setting_with_a_default_changes_no_id_until_it_is_set() -> None:
    class Later(TrainSpec, frozen=True):
        warmup: int = 0

    trial = plan_of("seeds=[0]")[0]
    values = {**trial.model_dump(exclude={"dataset", "model", "train", "quant"}), "dataset": trial.dataset}
    ids = [
        PlannedTrial.model_construct(**values, model=trial.model, quant=trial.quant, train=train).trial_id
        for train in (trial.train, Later(**trial.train.model_dump()), Later(**trial.train.model_dump(), warmup=1))
    ]
    assert ids[0] == ids[1] != ids[2]


# A promise: these may change only when a result would, and then ENGINE_VERSION is raised by hand.
GOLDEN = {
    ("cifar10", "fp32 seed 0"): "1d1c5be361c0f72d",
    ("cifar10", "qat W16A16 ema seed 0"): "56b23fabc20166a7",
    ("mnist", "fp32 seed 0"): "6bf71890c36d4717",
    ("mnist", "ptq W16A16 minmax seed 0"): "2d2388a2b8939c42",
    ("utkface", "fp32 seed 0"): "e4b7060374625615",
    ("utkface", "fp32_ft seed 0"): "7c0ab7499de8ed8f",
    ("utkface", "qat W16A16 minmax bn_fold=fold seed 0"): "502eb699490f3f00",
    ("scratch", "fp32_ft seed 0"): "c10e12a7f11fed0d",
    ("scratch", "qat W16A16 ema seed 0"): "dcb9be19805cfed1",
    ("schemes", "fp32 seed 0"): "1d1c5be361c0f72d",
    ("schemes", "fp32_ft seed 0"): "e3b763f50fefb0c6",
    ("schemes", "qat W4A4 ema seed 0"): "97556a21b03e1a12",
    ("reference", "fp32 seed 1"): "ebd4cd20e8ebd133",
    ("reference", "ptq W16A16 percentile percentile=0.999999 seed 1"): "97cc8bb54dec8f17",
    ("reference", "qat W16A16 ema schedule=constant select=best_val init=scratch seed 1"): "ac978912761c163b",
}


@pytest.mark.parametrize(("name", "label"), GOLDEN)
def test_ids_of_the_built_in_sweeps_are_those_of_yesterday(name: str, label: str) -> None:
    trial = next(trial for trial in plan_of(name=name) if trial.label.startswith(f"{label} ("))
    assert trial.trial_id == GOLDEN[name, label]
