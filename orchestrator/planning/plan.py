"""SweepSpec -> the trials it stands for, with content-addressed ids and what each one needs. Pure: no torch, no ray.

The float stage (fp32) and the controls of QAT (fp32_ft, one for each distinct recipe) join a plan by themselves.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from quantfair.datasets import DatasetSpec
from quantfair.orchestrator.config.spec import Analysis, Experiment, SweepSpec
from quantfair.quant import (
    ENGINE_VERSION,
    Fp32FtSpec,
    Fp32Spec,
    MethodSpec,
    ModelSpec,
    PtqSpec,
    QatSpec,
    TrainSpec,
    fingerprint_weights,
)
from quantfair.results import SETTINGS

Status = Literal["ok", "failed"]
METHODS = ("fp32", "fp32_ft", "ptq", "qat")
# How the error of a trial begins that took its worker down.
CRASHED = "WorkerDied"  # such trials always run again
OUT_OF_MEMORY = "OutOfMemory"
TIMED_OUT = "TimedOut"


class PlannedTrial(BaseModel, frozen=True, extra="forbid"):
    """One trial: what to do, what it needs (trials earlier in the plan) and what it is compared with.

    `analysis` is what else to measure, and `runtimes` are those to measure it in beside torch: they change no result,
    and are no part of the identity. `only_runtimes_left`: it has a row, and only runtimes are missing.
    """

    dataset: DatasetSpec
    dataset_id: str
    model: ModelSpec
    train: TrainSpec
    quant: MethodSpec
    seed: int
    weights_id: str | None = None
    needs: tuple[str, ...] = ()
    reference_trial_id: str | None = None
    control_trial_id: str | None = None
    control_reason: str | None = None
    analysis: tuple[Analysis, ...] = ()
    runtimes: tuple[str, ...] = ()
    only_runtimes_left: bool = False

    @property
    def method(self) -> str:
        """fp32, fp32_ft, ptq or qat."""
        return self.quant.method

    @cached_property
    def identity(self) -> dict[str, str]:
        """What decides the result, but for the seed: the canonical JSON of each part."""
        model = _to_json(self.model)
        return {
            "dataset": json.dumps(self.dataset_id),
            "engine": str(ENGINE_VERSION),
            "model": model if self.weights_id is None else _set_weights(model, self.weights_id),
            "quant": _to_json(self.quant),
            "train": _to_json(self.train),
        }

    @cached_property
    def trial_id(self) -> str:
        """First 16 hex digits of sha256 over canonical JSON of the identity and the seed."""
        return _short_hash({**self.identity, "seed": str(self.seed)})

    @cached_property
    def config_id(self) -> str:
        """The same without the seed."""
        return _short_hash(self.identity)

    @property
    def stage_id(self) -> str:
        """The float stage whose trials are best run in one worker."""
        return self.needs[0] if self.needs else self.trial_id

    @property
    def label(self) -> str:
        """A name for people: "qat W4A4 ema scales=learned seed 1 (config 07e97f)". The id tells all else apart."""
        settings, words = self.quant, [self.method]
        if isinstance(settings, PtqSpec | QatSpec):
            observer = [] if settings.quantizes_weights_alone else [settings.act_observer]
            words += [f"W{settings.weight_bits}A{settings.act_bits}", *observer, *_others(settings)]
        return f"{' '.join(words)} seed {self.seed} (config {self.config_id[:6]})"

    def columns(self) -> dict[str, Any]:
        """The columns of the table `trials` that are known before the trial has run."""
        parts = {"dataset": self.dataset, "model": self.model, "quant": self.quant, "": self}
        settings: dict[str, Any] = {}
        for setting in SETTINGS:
            section, field = setting.path
            if setting.type is not None:
                settings[setting.name] = getattr(parts[section], field, None)
        if self.method == "fp32_ft":
            settings["init"] = "fp32"
        return {
            "trial_id": self.trial_id,
            "config_id": self.config_id,
            "reference_trial_id": self.reference_trial_id,
            "control_trial_id": self.control_trial_id,
            "control_reason": self.control_reason,
            "dataset_id": self.dataset_id,
            **settings,
            "config": _join({**self.identity, "dataset": _dump(self.dataset.identity())}),
        }


def _others(settings: PtqSpec | QatSpec) -> list[str]:
    """Every setting that is not the usual one and stands nowhere else in a label; of overrides only the patterns."""
    said = {"method", "weight_bits", "act_bits", "act_observer", "epochs", "lr"}
    others = settings.model_dump(exclude_defaults=True, exclude=said)
    if settings.overrides:
        others["overrides"] = ",".join(pattern for pattern, _ in settings.overrides)
    return [f"{name}={str(value).replace(' ', '')}" for name, value in others.items()]


def make_plan(sweep: SweepSpec, dataset_ids: Mapping[DatasetSpec, str]) -> tuple[PlannedTrial, ...]:
    """Return every trial once, needs before dependants. `dataset_ids` maps each data set's spec to its content id.

    A user's own weights are one model: they are evaluated, and quantized after training, under the first seed alone.

    Raises ValueError if a file of the user's own weights is missing.
    """
    weights_ids = {experiment.model: fingerprint_weights(experiment.model) for experiment in sweep.experiments}
    trials: dict[str, PlannedTrial] = {}
    for seed in sweep.head.seeds:
        for experiment in sweep.experiments:
            identity = {
                "dataset_id": dataset_ids[experiment.dataset],
                "weights_id": weights_ids[experiment.model],
                "seed": seed,
                "analysis": sweep.head.analysis,
                "runtimes": tuple(name for name in sweep.head.runtimes if name != "torch"),
            }
            for trial in _trials_of(experiment, identity, sweep.head.seeds[0]):
                trials.setdefault(trial.trial_id, trial)
    return tuple(trials.values())


def _trials_of(experiment: Experiment, identity: dict[str, Any], first_seed: int) -> Iterable[PlannedTrial]:
    shared = {**experiment._asdict(), **identity}
    quant = shared.pop("quant")
    of_weights = {"seed": identity["seed"] if experiment.model.weights is None else first_seed}
    stage = PlannedTrial.model_construct(**{**shared, **of_weights}, quant=Fp32Spec(method="fp32"))
    yield stage
    on_stage = {**shared, "needs": (stage.trial_id,), "reference_trial_id": stage.trial_id}
    controls: dict[Fp32FtSpec, PlannedTrial] = {}
    for spec in quant:
        recipe = None if isinstance(spec, QatSpec) and spec.init == "scratch" else spec.control()
        if recipe is not None and recipe not in controls:
            reason = "the trial is a control"
            controls[recipe] = PlannedTrial.model_construct(**on_stage, quant=recipe, control_reason=reason)
            yield controls[recipe]
        control_id = controls[recipe].trial_id if recipe is not None else None
        of_trial = {**on_stage, **_links(spec, stage, control_id)}
        if isinstance(spec, PtqSpec) and control_id is None:
            of_trial |= of_weights
        yield PlannedTrial.model_construct(**of_trial, quant=spec)


def _links(spec: PtqSpec | QatSpec, stage: PlannedTrial, control_id: str | None) -> dict[str, Any]:
    """What a quantized trial needs and is compared with, beyond the float stage."""
    if isinstance(spec, PtqSpec):
        links: dict[str, Any] = {"control_reason": "PTQ trains nothing: its reference is the control"}
        if control_id is not None:
            links |= {"needs": (stage.trial_id, control_id), "reference_trial_id": control_id}
        return links
    if spec.init == "fp32":
        return {"control_trial_id": control_id}
    if stage.model.weights is not None:
        return {"control_reason": "trained from scratch, and fp32 was not trained here: more differs than quantization"}
    if all(getattr(spec, name) == value for name, value in stage.train.recipe.items()):
        return {"control_trial_id": stage.trial_id}
    return {
        "control_reason": "trained from scratch with other steps or selection than fp32: more differs than quantization"
    }


@cache
def _to_json(spec: BaseModel) -> str:
    """Return a spec as canonical JSON without the settings that are at their default; the seeds of a plan share it."""
    return _dump(spec.model_dump(mode="json", exclude_defaults=True))


def _set_weights(model: str, weights_id: str) -> str:
    """Put the content of a file of weights in place of its name."""
    return _dump({**json.loads(model), "weights": weights_id})


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _join(parts: Mapping[str, str]) -> str:
    """Return one canonical JSON document of parts that are JSON."""
    return "{" + ",".join(f'"{key}":{parts[key]}' for key in sorted(parts)) + "}"


def _short_hash(parts: Mapping[str, str]) -> str:
    return hashlib.sha256(_join(parts).encode()).hexdigest()[:16]


class PlanState(NamedTuple):
    """Where a plan stands: trial ids in plan order."""

    ok: tuple[str, ...]
    failed: tuple[str, ...]
    blocked: tuple[str, ...]
    to_run: tuple[str, ...]


def count_by_method(plan: Iterable[PlannedTrial], state: PlanState) -> Counter[tuple[str, str]]:
    """Return how many trials of each method are in each place of a state."""
    places = {trial_id: place for place, ids in state._asdict().items() for trial_id in ids}
    return Counter((trial.method, places[trial.trial_id]) for trial in plan)


def find_state(
    plan: Iterable[PlannedTrial],
    statuses: Mapping[str, Status],
    *,
    run_again: frozenset[str] = frozenset(),
    unmeasured: Container[str] = frozenset(),
) -> PlanState:
    """Sort a plan's trials by the stored statuses. A trial is blocked when something it needs failed for good.

    `run_again` names failed trials that are to be run once more, `unmeasured` finished ones that lack a runtime.
    """
    places: dict[str, list[str]] = {"ok": [], "failed": [], "blocked": [], "to_run": []}
    dead: set[str] = set()
    for trial in plan:
        status = statuses.get(trial.trial_id)
        is_left = trial.trial_id in run_again or (status == "ok" and trial.trial_id in unmeasured)
        place = status if status is not None and not is_left else "to_run"
        if place == "to_run" and dead.intersection(trial.needs):
            place = "blocked"
        if place in ("failed", "blocked"):
            dead.add(trial.trial_id)
        places[place].append(trial.trial_id)
    return PlanState(**{place: tuple(ids) for place, ids in places.items()})


class ImageCounts(NamedTuple):
    """What decides the size of predictions on a data set."""

    n_evaluated: int  # val and test images
    n_classes: int
