"""The values of a sweep file (`sweep_file.py` reads it) in, one validated SweepSpec or every error at once out.

Any field of an experiment or a quant block may be a list, which makes it an axis; the blocks are expanded here, so a
SweepSpec holds only single values. No torch and no ray.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, get_origin

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from quantfair.datasets import SOURCES, DatasetSpec
from quantfair.orchestrator.config.errors import ConfigProblem, RequestError, describe_errors, did_you_mean
from quantfair.orchestrator.config.sweep_file import (
    SweepSource,
    apply_overrides,
    check_overrides,
    name_source,
    read_sweep_file,
)
from quantfair.quant import RUNTIMES, ModelSpec, PtqSpec, QatSpec, TrainSpec

AnySpec = TypeVar("AnySpec", bound=BaseModel)
Analysis = Literal["sqnr", "sensitivity", "curvature"]
if TYPE_CHECKING:
    Runtime = str
else:
    Runtime = Literal[("torch", *RUNTIMES)]  # a Literal, so that errors and the JSON schema name every runtime
METHODS: dict[str, type[PtqSpec] | type[QatSpec]] = {"ptq": PtqSpec, "qat": QatSpec}
LABEL_PATTERN = r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?"  # no operators: a label fits by being equal
Label = Annotated[tuple[str, str], Field(strict=False)]  # JSON, which workers get, has no tuples
_ANY_TRAIN = TrainSpec(epochs=1, lr=0.1)  # quant blocks are checked even where no experiment is valid


class _Frozen(BaseModel, frozen=True, extra="forbid", strict=True, allow_inf_nan=False):
    """A frozen value: unknown keys and wrong types are errors."""


def _setting_error(message: str) -> PydanticCustomError:
    """Return the error of a setting that does not fit; pydantic names the field."""
    return PydanticCustomError("misfit", "{message}", {"message": message})


class Resources(_Frozen, frozen=True):
    """What Ray reserves for a trial of one method, and on which nodes. Torch gets as many threads as whole CPUs.

    `labels` are those of Ray's nodes, all of which must fit; `accelerator_type` is Ray's name, such as A100. No part of
    a trial's identity.
    """

    cpu: float = Field(default=1, gt=0)
    gpu: float = Field(default=0, ge=0)
    memory_gb: float = Field(default=0, ge=0)
    accelerator_type: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    labels: tuple[Label, ...] = Field(default=(), strict=False)

    @field_validator("gpu")
    @classmethod
    def several_gpus_are_whole(cls, gpu: float) -> float:
        """Raise for 1.5: Ray shares a GPU, or gives several whole ones."""
        if gpu > 1 and gpu != int(gpu):
            message = f"must be at most 1, or a whole number, got {gpu:g}: Ray shares one GPU only"
            raise _setting_error(message)
        return gpu

    @field_validator("labels", mode="before")
    @classmethod
    def labels_are_a_table(cls, labels: Any) -> Any:
        """Take a table as pairs, which can be hashed. Raise for what Ray takes for no label."""
        pairs = tuple(labels.items()) if isinstance(labels, dict) else labels
        words = [word for pair in pairs for word in pair] if isinstance(pairs, list | tuple) else [None]
        if not all(isinstance(word, str) and re.fullmatch(LABEL_PATTERN, word) for word in words):
            example = 'must be a table of texts, such as {pool = "gpu"}, of letters, digits and . _ - / inside'
            message = f"{example}, got {labels!r}"
            raise _setting_error(message)
        return pairs

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The kind of device that a trial runs on."""
        return "cuda" if self.gpu else "cpu"

    @property
    def n_threads(self) -> int:
        """Torch threads of a trial."""
        return max(1, int(self.cpu))


class ResourcesByMethod(_Frozen, frozen=True):
    """One resource shape for each method."""

    fp32: Resources = Resources()
    fp32_ft: Resources = Resources()
    ptq: Resources = Resources()
    qat: Resources = Resources()


class Retry(_Frozen, frozen=True):
    """How often a trial is started again after its worker or node was lost, and how long it may take."""

    crash: int = Field(default=1, ge=0)
    timeout_s: float | None = Field(default=None, gt=0)


class SweepHead(_Frozen, frozen=True):
    """The part of a sweep file that has no axes."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="a name of its own, also for a sweep that extends another: it names the folder of the results",
    )
    seeds: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...] = Field(strict=False)
    runtimes: tuple[Runtime, ...] = Field(
        default=("torch",), strict=False, json_schema_extra={"contains": {"const": "torch"}}
    )
    analysis: tuple[Analysis, ...] = Field(default=(), strict=False)
    limit_pp: float = Field(default=1, gt=0, lt=100, description="verdicts ask whether any group loses more than this")
    resources: ResourcesByMethod = ResourcesByMethod()
    retry: Retry = Retry()

    @field_validator("seeds", "runtimes")
    @classmethod
    def is_a_set(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        """Raise for an empty list, and for a value that stands twice."""
        if not values or len(set(values)) < len(values):
            message = f"holds a value twice: {list(values)}" if values else "is an empty list: give it a value"
            raise _setting_error(message)
        return values

    @field_validator("runtimes")
    @classmethod
    def torch_is_among_them(cls, values: tuple[Runtime, ...]) -> tuple[Runtime, ...]:
        """Raise for a list without torch."""
        if "torch" not in values:
            message = f"must hold 'torch', which every other runtime is compared with, got {list(values)}"
            raise _setting_error(message)
        return values


class Experiment(NamedTuple):
    """A data set, a model and its training, each with single values, and every way in which it is quantized."""

    dataset: DatasetSpec
    model: ModelSpec
    train: TrainSpec
    quant: tuple[PtqSpec | QatSpec, ...] = ()


class SweepSpec(NamedTuple):
    """A validated sweep: every experiment meets every quant block under every seed."""

    head: SweepHead
    experiments: tuple[Experiment, ...]
    raw: dict[str, Any]  # the file with what it extends and its overrides, for the manifest


def load_sweep(source: SweepSource, overrides: Iterable[str] = ()) -> SweepSpec:
    """Read a built-in sweep, a TOML file or a dict, apply `key=value` overrides and validate the result.

    Raises:
        RequestError: with every problem that was found, each with the file that it is in where that is another one.
    """
    overrides = check_overrides(overrides)
    file = read_sweep_file(source, overrides)
    name = name_source(source)
    try:
        return parse_sweep(file.values, source=name)
    except RequestError as error:
        raise RequestError([file.locate(problem, name) for problem in error.problems], name) from None


def parse_sweep(raw: dict[str, Any], *, source: str = "the sweep") -> SweepSpec:
    """Validate a sweep given as plain values. Raises RequestError with every problem that was found."""
    problems: list[ConfigProblem] = []
    head = _validate(SweepHead, {k: v for k, v in raw.items() if k not in ("experiments", "quant")}, "", problems)
    if not raw.get("experiments"):
        problems.append(ConfigProblem("experiments", "is missing; give at least one [[experiments]] block."))
    experiments = [
        experiment
        for path, block in _blocks(raw, "experiments", problems)
        for experiment in _experiments(block, path, problems)
    ]
    blocks = list(_blocks(raw, "quant", problems))
    quant = {
        train: tuple(spec for path, block in blocks for spec in _quant_specs(block, path, train, problems))
        for train in dict.fromkeys([experiment.train for experiment in experiments] or [_ANY_TRAIN])
    }
    if problems or head is None:
        raise RequestError(problems, source)
    return SweepSpec(head, tuple(e._replace(quant=quant[e.train]) for e in experiments), raw)


def read_dataset(name: str, overrides: list[str]) -> DatasetSpec:
    """Return the spec of one data set; without `task=...` it is the first task of its source.

    Raises:
        RequestError: with every problem that was found.
    """
    tasks = SOURCES[name].tasks if name in SOURCES else {}
    raw: dict[str, Any] = {"name": name, "task": next(iter(tasks), "class")}
    problems = apply_overrides(raw, overrides)
    spec = None if problems else _validate(DatasetSpec, raw, "", problems)
    if spec is None:
        raise RequestError(problems, "the request")
    return spec


def _blocks(raw: dict[str, Any], key: str, problems: list[ConfigProblem]) -> Iterator[tuple[str, dict[str, Any]]]:
    blocks = raw.get(key, [])
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        problems.append(ConfigProblem(key, f"must be a list of tables, written [[{key}]]."))
        return
    yield from ((f"{key}.{index}", block) for index, block in enumerate(blocks))


def _experiments(block: dict[str, Any], path: str, problems: list[ConfigProblem]) -> list[Experiment]:
    known = Experiment._fields
    for key in block.keys() - set(known):
        message = f"is not a known key.{did_you_mean(key, known)} Known here: {', '.join(known)}."
        problems.append(ConfigProblem(f"{path}.{key}", message))
    datasets = _section(DatasetSpec, block.get("dataset"), f"{path}.dataset", problems)
    models = _section(ModelSpec, block.get("model"), f"{path}.model", problems)
    trains = _section(TrainSpec, block.get("train"), f"{path}.train", problems)
    experiments = [Experiment(*parts) for parts in itertools.product(datasets, models, trains)]
    for name in {e.dataset.name for e in experiments if "flip" in e.train.augment}:
        if name in SOURCES and not SOURCES[name].may_flip:
            message = f"may not hold 'flip' for {name}: a mirror image is another sign there; remove it."
            problems.append(ConfigProblem(f"{path}.train.augment", message))
    return experiments


def _section(model: type[AnySpec], data: Any, path: str, problems: list[ConfigProblem]) -> list[AnySpec]:
    if not isinstance(data, dict):
        problems.append(
            ConfigProblem(path, "is missing: it must be a table of settings." if data is None else "is no table.")
        )
        return []
    expanded = _expand_axes(data, model, path, problems)
    return [spec for values in expanded if (spec := _validate(model, values, path, problems)) is not None]


def _quant_specs(
    block: dict[str, Any], path: str, train: TrainSpec, problems: list[ConfigProblem]
) -> list[PtqSpec | QatSpec]:
    methods = block.get("method")
    methods = methods if isinstance(methods, list) else [methods]
    specs = []
    for method in methods:
        if not isinstance(method, str) or method not in METHODS:
            hint = did_you_mean(method, METHODS)
            message = f"must be ptq or qat, got {method!r}.{hint} (fp32 and fp32_ft join a plan by themselves.)"
            problems.append(ConfigProblem(f"{path}.method", message))
            continue
        specs += _method_specs(METHODS[method], {**block, "method": method}, path, train=train, problems=problems)
    return specs


def _method_specs(
    model: type[PtqSpec] | type[QatSpec],
    block: dict[str, Any],
    path: str,
    *,
    train: TrainSpec,
    problems: list[ConfigProblem],
) -> list[PtqSpec | QatSpec]:
    apart = block.keys() & {"weight_bits", "act_bits"}
    if "bits" in block and apart:
        message = f"sets weight_bits and act_bits; remove it or {' and '.join(sorted(apart))}."
        problems.append(ConfigProblem(f"{path}.bits", message))
        return []
    specs = []
    for values in _expand_axes(block, model, path, problems):
        found: list[ConfigProblem] = []
        values = _with_course(values, train)
        if "bits" in values:
            bits = values.pop("bits")
            values = {**values, "weight_bits": bits, "act_bits": bits}
            spec = _validate(model, values, path, found)
            renamed = {f"{path}.weight_bits": f"{path}.bits", f"{path}.act_bits": f"{path}.bits"}
            found = [problem._replace(path=renamed.get(problem.path, problem.path)) for problem in found]
            found = list({problem.path: problem for problem in reversed(found)}.values())[::-1]  # of both, one says it
        else:
            spec = _validate(model, values, path, found)
        problems += found
        specs += [spec.normalized()] if spec is not None else []
    return specs


def _with_course(values: dict[str, Any], train: TrainSpec) -> dict[str, Any]:
    """QAT from scratch with the course of `train` wherever its block is silent: equal steps then have equal ids."""
    if values.get("init") != "scratch":
        return values
    course = train.recipe
    if values.get("schedule", train.schedule) != train.schedule:
        del course["milestones"]  # they belong to the schedule that is not taken
    return {**course, **values}


def is_list(model: type[BaseModel], field: str) -> bool:
    """Whether a field is a list by nature: a list in a block then is its value, and no axis."""
    return field in model.model_fields and get_origin(model.model_fields[field].annotation) is tuple


def _expand_axes(
    block: dict[str, Any], model: type[BaseModel], path: str, problems: list[ConfigProblem]
) -> list[dict[str, Any]]:
    """Return one dict for each combination of the values of the lists in a block."""
    axes = {key: value for key, value in block.items() if isinstance(value, list) and not is_list(model, key)}
    problems += [
        ConfigProblem(f"{path}.{key}", "is an empty list: give it a value.") for key, v in axes.items() if not v
    ]
    combinations = itertools.product(*axes.values())
    return [{**block, **dict(zip(axes, values, strict=True))} for values in combinations]


def _validate(model: type[AnySpec], data: dict[str, Any], path: str, problems: list[ConfigProblem]) -> AnySpec | None:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        also_known = ("experiments", "quant") if model is SweepHead else ("bits",) if model in METHODS.values() else ()
        problems += describe_errors(error, model, path, data, also_known=also_known)
        return None
