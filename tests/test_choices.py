"""Each value of each choice in a sweep file changes a result, or is refused with a message.

The cases follow from the fields of the specs, so a new value of a Literal, or a new switch, is measured here at once:
its trial runs from the sweep file to the stored answers, on a tiny data set and a network that has all that a setting
may act on. `SAME` and `REFUSED` list the exceptions, and neither may hold one too many.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pyarrow.parquet as pq
import pytest
from inline_sweep import plan_sweep
from pydantic import BaseModel
from torch import Tensor, nn

from quantfair.datasets import ArrayImages, Attribute, DatasetSpec, RawData
from quantfair.orchestrator.config.errors import RequestError
from quantfair.orchestrator.config.spec import Resources, SweepHead
from quantfair.orchestrator.trials.run import run_trial
from quantfair.quant import MODELS, Add, ModelSpec, PtqSpec, QatSpec, TrainSpec
from quantfair.quant.specs.methods import LayerOverride
from quantfair.quant.specs.model import Preprocess
from quantfair.results import Store

Case = tuple[type[BaseModel], str]


def faces() -> RawData:
    """96 noisy images of two classes, with the attributes that the heads of trident predict, and copies in conflict."""
    rng = np.random.default_rng(0)
    gender_N = np.arange(96) % 2
    prototypes_KHW = rng.uniform(40, 215, (2, 8, 8))
    images_NHW = prototypes_KHW[gender_N] + rng.normal(0, 60, (96, 8, 8))
    images_NHW[1:12:2] = images_NHW[0:12:2]  # six pairs of equal images with different labels
    images_NCHW = images_NHW.clip(0, 255).astype(np.uint8).reshape(96, 1, 8, 8)
    attributes = {
        "gender": Attribute(gender_N, ("f", "m")),
        "age": Attribute(rng.integers(0, 3, 96), ("young", "grown", "old")),
        "ethnicity": Attribute(rng.integers(0, 2, 96), ("a", "b")),
    }
    return RawData(ArrayImages(images_NCHW), attributes)


class Network(nn.Module):
    """Convolutions with and without a ReLU behind them, batch norms to fold, an addition, and a linear layer."""

    def __init__(self, in_channels: int, n_classes: int):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(in_channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.add = Add()
        self.last = nn.Linear(6, n_classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        features_NCHW = self.first(images_NCHW)
        features_NCHW = self.add(features_NCHW, self.second(features_NCHW)).relu()
        return self.last(features_NCHW.mean((2, 3)))


def network(*, in_channels: int, n_classes: int) -> nn.Module:
    return Network(in_channels, n_classes)


# ---- the cases: every choice of every spec ----


def find_choices(annotation: Any) -> Iterator[Any]:
    """Yield every value that a field may have by name, also where it is optional or a list of them."""
    if annotation is bool:
        yield from (False, True)
    elif get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Annotated, Union, UnionType, tuple):
        for part in get_args(annotation):
            yield from find_choices(part)


def choices_of(model: type[BaseModel]) -> dict[str, tuple[Any, ...]]:
    """Return the fields of a spec that are choices, with all their values."""
    found = {}
    for name, field in model.model_fields.items():
        values = tuple(find_choices(field.annotation))
        if len(values) > 1:  # `method` has one, and tells specs apart
            found[name] = values
    return found


SPECS = (DatasetSpec, ModelSpec, Preprocess, TrainSpec, PtqSpec, QatSpec, LayerOverride)
CASES: dict[Case, tuple[Any, ...]] = {
    (model, name): found for model in SPECS for name, found in choices_of(model).items()
}
# Names out of a table are choices too, although no Literal holds them. (Sources of data need their files: see
# `test_datasets*.py`, which read every one.)
CASES[ModelSpec, "name"] = tuple(MODELS)

# ---- what surrounds a value, so that it can act ----

TRAIN = {"epochs": 3, "lr": 0.01, "batch_size": 8}
SWEEP: dict[str, Any] = {
    "name": "choices",
    "seeds": [0],
    "experiments": [
        {
            "dataset": {"name": "test_choices:faces", "task": "gender", "test_share": 0.3, "val_share": 0.2},
            "model": {"name": "test_choices:network"},
            "train": TRAIN,
        }
    ],
}
COARSE = {"weight_bits": 3, "act_bits": 3, "percentile": 0.95, "calib_images": 40, "calib_batch_size": 8}
BLOCKS: dict[type[BaseModel], dict[str, Any]] = {
    PtqSpec: {"method": "ptq", **COARSE},
    QatSpec: {"method": "qat", **COARSE, "epochs": 2, "lr": 0.01},
}
RECIPE = {"epochs": 3, "lr": 0.05}
NARROW = {"small_cnn": 4, "nin": 6, "nin_gc": 16, "resnet18": 8, "trident": 8}
SURROUNDINGS: dict[Case, dict[str, Any]] = {
    (PtqSpec, "schedule"): {"base": "fp32_ft", **RECIPE},
    (PtqSpec, "select"): {"base": "fp32_ft", **RECIPE},
    (QatSpec, "select"): {"epochs": 4, "lr": 0.1},  # its best epoch is not its last
    (QatSpec, "act_observer"): {"freeze_observers_after": 0},  # else most of them are refused
    # The factors of a fold cancel out where each channel has its own scale.
    (PtqSpec, "bn_fold"): {"granularity": "per_tensor"},
    (QatSpec, "bn_fold"): {"granularity": "per_tensor"},
    (TrainSpec, "optimizer"): {"weight_decay": 0.01},  # Adam and AdamW differ in that alone
    (ModelSpec, "name"): {"preprocess": {"resize": 36}},
    (ModelSpec, "heads"): {"name": "trident", "width": 8, "preprocess": {"resize": 36}},
}
# What a value cannot go without.
NEEDS: dict[tuple[str, Any], dict[str, Any]] = {
    ("schedule", "step"): {"milestones": [2]},
    ("base", "fp32_ft"): RECIPE,
    **{("name", name): {"width": width} for name, width in NARROW.items()},
}

# ---- the exceptions ----

SAME: dict[tuple[type[BaseModel], str, Any], str] = {
    (PtqSpec, "weight_observer", "ema"): "PTQ sees the weights once, so that their average is their range",
    (LayerOverride, "weight_observer", "ema"): "as above",
}
REFUSED: dict[tuple[type[BaseModel], str, Any], str] = {
    (QatSpec, "weight_observer", "mse"): "needs a whole pass over fixed weights",
    (TrainSpec, "compile", True): "needs a CUDA device",
}


def sweep_of(case: Case, value: Any) -> dict[str, Any]:
    """Return a sweep in which the setting has this value."""
    model, field = case
    settings = {**SURROUNDINGS.get(case, {}), field: value, **NEEDS.get((field, value), {})}
    raw = json.loads(json.dumps(SWEEP))
    experiment = raw["experiments"][0]
    if model is DatasetSpec:
        experiment["dataset"] |= settings
    elif model is TrainSpec:
        experiment["train"] |= settings
        if isinstance(TrainSpec.model_fields[field].default, tuple):
            experiment["train"][field] = [value]
    elif model is ModelSpec:
        experiment["model"] |= settings
        experiment["train"] |= {"lr": 0.001, "epochs": 2}  # a faster rate kills the narrow ones
    elif model is LayerOverride:
        raw["quant"] = [{**BLOCKS[PtqSpec], "overrides": {"*": settings}}]
    else:
        raw["quant"] = [{**BLOCKS[model], **settings}]
    return raw


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("choices")))


def measure(raw: dict[str, Any], store: Store) -> tuple[str, str]:
    """Run a sweep of one setting; return ("refused", why), or ("answers", a hash of all that its last trial answered).

    Trials that are in the store already, such as a float model that many share, do not run again.
    """
    try:
        plan = plan_sweep(raw)
    except RequestError as error:
        return "refused", str(error)
    for trial in plan:
        if store.read_status(trial.trial_id) is None:
            outcome = run_trial(trial, store, Resources())
            if outcome.status == "failed":
                return "refused", str(outcome.error)
    methods = [block["method"] for block in raw.get("quant", [])] or ["fp32"]
    last = next(trial for trial in plan if trial.method == methods[0])
    answers = store.read_predictions(last.trial_id, "torch").to_pandas()[["sample_id", "loss_nats"]]
    return "answers", hashlib.sha256(answers.to_csv(index=False).encode()).hexdigest()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}.{case[1]}")
def test_each_value_of_each_choice_changes_a_result_or_is_refused(case: Case, store: Store) -> None:
    model, field = case
    seen: dict[str, Any] = {}
    for value in CASES[case]:
        kind, found = measure(sweep_of(case, value), store)
        name = (model, field, value)
        assert (kind == "refused") == (name in REFUSED), f"{value}: {found}"
        if kind == "refused":
            assert field in found
            assert REFUSED[name] in found
            continue
        assert (found in seen) == (name in SAME), f"{value} gives the answers of {seen.get(found)}"
        seen.setdefault(found, value)


def test_no_exception_is_left_over() -> None:
    for model, field, value in [*SAME, *REFUSED]:
        assert value in CASES[model, field]
    assert set(SURROUNDINGS) <= set(CASES)
    assert {field for field, _ in NEEDS} <= {field for _, field in CASES}


def test_the_answers_of_one_setting_are_the_same_in_another_store(store: Store, tmp_path: Path) -> None:
    """Differences come from the settings, and from nothing else."""
    raw = sweep_of((QatSpec, "scheme"), "symmetric")
    kind, found = measure(raw, store)
    assert kind == "answers"
    assert measure(raw, Store.open(str(tmp_path))) == (kind, found)


def test_every_choice_of_the_head_of_a_sweep_leaves_something_of_its_own(tmp_path: Path) -> None:
    choices = choices_of(SweepHead)
    assert set(choices) == {"runtimes", "analysis"}
    left: dict[tuple[str, str], frozenset[str]] = {}
    for field, values in choices.items():
        for value in values:
            raw = {**sweep_of((PtqSpec, "scheme"), "asymmetric"), "analysis": []}
            if field == "runtimes":
                del raw["quant"]  # the float model alone: an export takes seconds
            raw[field] = [value] if field == "analysis" else list(dict.fromkeys(["torch", value]))
            store = Store.open(str(tmp_path / field / value))
            for trial in plan_sweep({name: part for name, part in raw.items() if name != "analysis"}, *raw["analysis"]):
                assert run_trial(trial, store, Resources()).status == "ok"
            left[field, value] = frozenset(list_contents(Path(store.location)))
    for field, values in choices.items():
        contents = [left[field, value] for value in values]
        assert len(set(contents)) == len(contents), field


def list_contents(root: Path) -> Iterator[str]:
    """Yield each file of a store, with those of its columns that hold something."""
    for path in sorted(root.rglob("*.parquet")):
        table = pq.read_table(path)
        columns = [name for name in table.column_names if table[name].null_count < len(table)]
        yield f"{path.relative_to(root).as_posix()}: {', '.join(columns)}"
