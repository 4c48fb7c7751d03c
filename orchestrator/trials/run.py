"""One trial, from its spec to its row: read this file first.

    images -> float stage -> quantize -> predict every val and test image -> predictions -> the row, written last
    then, for every other runtime: export -> predict the same images there -> its own rows (`deployment.py`)

Runs alike in this process and in a Ray worker. Whatever a trial raises becomes a `failed` row with its traceback.
"""

import time
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from quantfair import quant
from quantfair.orchestrator.config.spec import Resources
from quantfair.orchestrator.planning.plan import OUT_OF_MEMORY, PlannedTrial
from quantfair.orchestrator.provenance import find_code_version
from quantfair.orchestrator.trials.analysis import write_curvature, write_layers, write_sensitivity
from quantfair.orchestrator.trials.context import EVALUATION_BATCH_SIZE, LruCache, TrialContext, find_device, set_up
from quantfair.orchestrator.trials.deployment import measure_runtimes
from quantfair.orchestrator.trials.evaluation import (
    LargestDrop,
    find_largest_drop,
    list_evaluated,
    score,
    write_samples,
)
from quantfair.orchestrator.trials.log import TrialLog, describe_run
from quantfair.orchestrator.trials.outcome import TrialOutcome
from quantfair.results import DEPLOYED, Store, WriteError

CURVATURE_BATCH_SIZE = 64  # the graph of a batch is held
CALIBRATIONS: LruCache[quant.Calibration] = LruCache(
    4
)  # of reference models, by `TrialContext.reference_key` and the images


class BuiltModel(NamedTuple):
    """A model ready to predict, and the epoch whose weights it holds (null where nothing was trained).

    A quantized model comes with its twin: the same weights without quantizers.
    """

    model: torch.nn.Module
    selected_epoch: int | None = None
    twin: torch.nn.Module | None = None


class TrialResult(NamedTuple):
    """What a trial's row says beyond its settings, the group that lost most where it is quantized, and its model."""

    columns: dict[str, Any]
    drop: LargestDrop | None
    model: torch.nn.Module


def run_trial(
    trial: PlannedTrial, store: Store, resources: Resources, watch: Callable[[str], None] = lambda text: None
) -> TrialOutcome:
    """Run one trial and write everything it leaves behind; its row comes last, and after it those of other runtimes.

    A trial whose row is `ok` already is only measured in the runtimes that it lacks. `watch` is called with a line at
    the end of every epoch, while the trial runs.
    """
    trial_log = TrialLog(watch, describe_run(trial, resources))
    only_runtimes_left = store.read_status(trial.trial_id) == "ok"
    said = store.read_log(trial.trial_id) if only_runtimes_left else ""
    with trial_log.flushed_to(lambda text: store.write_log(trial.trial_id, said + text)):
        torch.set_num_threads(resources.n_threads)
        open_context = cache(lambda: set_up(trial, store, trial_log, find_device(resources)))
        outcome, model = (
            (TrialOutcome(trial.trial_id, "ok"), None)
            if only_runtimes_left
            else _run(trial, store, trial_log, open_context)
        )
        if outcome.status == "ok":
            measure_runtimes(trial, store, trial_log, open_context, model=model)
    return outcome._replace(seconds=time.perf_counter() - trial_log.started)


def _run(
    trial: PlannedTrial, store: Store, trial_log: TrialLog, open_context: Callable[[], TrialContext]
) -> tuple[TrialOutcome, torch.nn.Module | None]:
    """Run the trial itself and write its row; return how it ended and its model.

    What runtimes measured of it before, it may be with another model, is forgotten first.
    """
    for runtime in DEPLOYED:
        store.remove_runtime(trial.trial_id, runtime)
    row, drop, model = {**trial.columns(), "code_version": find_code_version()}, None, None
    try:
        columns, drop, model = _measure(open_context())
        row |= {"status": "ok", **columns}
    except WriteError:  # no place for results is not the trial's failure: the sweep stops
        raise
    except Exception as error:
        row |= {"status": "failed", "error": _name(error), "traceback": traceback.format_exc()}
        trial_log.say(row["traceback"])
    row |= {**trial_log.seconds, "total_s": time.perf_counter() - trial_log.started}
    trial_log.say(f"{row['status']} after {row['total_s']:.2f} s")
    store.write_trial(row)
    drop_pp, group = drop[:2] if drop is not None else (None, None)
    found = {"error": row.get("error"), "stage_s": trial_log.seconds}
    return TrialOutcome(trial.trial_id, row["status"], row["total_s"], drop_pp, group, **found), model


def _name(error: Exception) -> str:
    """Return "ValueError: what it says"; all ways to be out of memory have one name."""
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return f"{OUT_OF_MEMORY if no_memory else type(error).__name__}: {error}"


def _measure(context: TrialContext) -> TrialResult:
    trial, dataset, store = context.trial, context.dataset, context.store
    write_samples(dataset, store)
    built = BUILDERS[trial.method](context)
    with context.trial_log.timed("evaluate_s"):
        logits_NK = context.predict(built.model)
    reference_NK = context.reference_logits()
    predictions = context.make_predictions(logits_NK, "torch", keep_logits=trial.method in ("fp32", "fp32_ft"))
    store.write_predictions(trial.trial_id, "torch", predictions)
    _analyse(context, built, reference_NK)
    drop = None
    if reference_NK is not None and trial.method in ("ptq", "qat"):
        drop = find_largest_drop(predictions, reference_NK, dataset, trial.dataset.group_by)
        context.trial_log.say(f"largest drop vs the reference: {drop or 'no group has enough test images'}")
    columns = {
        **score(predictions, dataset),
        "selected_epoch": built.selected_epoch,
        "device": context.device,
        "size_bytes": quant.count_bytes(built.model),
    }
    return TrialResult(columns, drop, built.model)


def _build_fp32(context: TrialContext) -> BuiltModel:
    """Train the network, or take the user's own weights as they are."""
    trial = context.trial
    model = context.network(trial.model)
    built = BuiltModel(model) if trial.model.weights else _fit(context, model, trial.train)
    context.store.write_stage(trial.trial_id, quant.weights_to_bytes(built.model))
    return built


def _build_fp32_ft(context: TrialContext) -> BuiltModel:
    built = _fit(context, context.prepare(), _recipe(context))
    context.store.write_stage(context.trial.trial_id, quant.weights_to_bytes(built.model))
    return built


def _build_ptq(context: TrialContext) -> BuiltModel:
    model = context.prepare()
    twin = quant.without_quantizers(model)
    quant.freeze(_calibrate(context, model))
    context.store.write_stage(context.trial.trial_id, quant.quantizer_state_to_bytes(model))
    return BuiltModel(model, twin=twin)


def _build_qat(context: TrialContext) -> BuiltModel:
    built = _fit(context, _calibrate(context, context.prepare()), _recipe(context))
    twin = quant.without_quantizers(built.model)
    quant.freeze(built.model)
    context.store.write_stage(context.trial.trial_id, quant.frozen_to_bytes(built.model))
    return built._replace(twin=twin)


BUILDERS: dict[str, Callable[[TrialContext], BuiltModel]] = {
    "fp32": _build_fp32,
    "fp32_ft": _build_fp32_ft,
    "ptq": _build_ptq,
    "qat": _build_qat,
}


def _calibrate(context: TrialContext, model: torch.nn.Module) -> torch.nn.Module:
    settings, trial_log = context.trial.quant, context.trial_log
    assert isinstance(settings, quant.PtqSpec | quant.QatSpec)
    if not settings.calibrates:
        return model
    batches = context.calibration_batches()
    n, balance = settings.calib_images, settings.calib_balance
    how = "" if balance == "uniform" else f", balanced by {balance}"
    trial_log.say(f"calibrates on {len(batches.indices)} training images (up to {n} were asked for{how})")
    with trial_log.timed("calibrate_s"):
        quant.calibrate(model, batches.images(), calibration=_shared_calibration(context))
    return model


def _shared_calibration(context: TrialContext) -> quant.Calibration | None:
    """What the reference model's layers met, collected once for all trials in a row that ask for the same images.

    It is the float model's, so it is the same for every setting of the quantization. None for a trial that calibrates
    on its own: from scratch it starts from other weights than the reference's, and preset iao observes the quantized
    network.
    """
    settings = context.trial.quant
    assert isinstance(settings, quant.PtqSpec | quant.QatSpec)
    if settings.preset == "iao" or (isinstance(settings, quant.QatSpec) and settings.init == "scratch"):
        return None
    images = settings.calib_images, settings.calib_batch_size, settings.calib_seed, settings.calib_balance

    def collect() -> quant.Calibration:
        return quant.collect(context.reference_model(), context.calibration_batches().images())

    return CALIBRATIONS.get((*context.reference_key(), *images), collect)


def _recipe(context: TrialContext) -> quant.TrainSpec:
    assert isinstance(context.trial.quant, quant.QatSpec | quant.Fp32FtSpec)
    return context.trial.train.with_recipe(context.trial.quant)


def _fit(context: TrialContext, model: torch.nn.Module, spec: quant.TrainSpec) -> BuiltModel:
    with context.trial_log.timed("train_s"):
        fitted = quant.fit(
            model,
            spec,
            train=context.training_batches(spec.batch_size),
            val=context.batches(context.dataset.splits["val"], EVALUATION_BATCH_SIZE),
            seed=context.trial.seed,
            log=context.trial_log.say_progress,
        )
    return BuiltModel(model, fitted.selected_epoch)


def _analyse(context: TrialContext, built: BuiltModel, reference_NK: np.ndarray | None) -> None:
    """Write the report of every layer, and what `analysis` asks for: of a float model curvature, of others the rest."""
    trial, twin = context.trial, built.twin
    images = context.calibration_batches().images if twin is not None and "sqnr" in trial.analysis else None
    write_layers(context.store, trial.trial_id, built.model, twin=twin, images=images)
    if twin is None and "curvature" in trial.analysis:
        _analyse_curvature(context, built.model)
    if twin is None or "sensitivity" not in trial.analysis:
        return
    context.trial_log.say("quantizes each layer alone")
    indices, splits_N = list_evaluated(context.dataset)
    val_N = splits_N == "val"
    write_sensitivity(
        context.store,
        trial.trial_id,
        built.model,
        twin=twin,
        images=context.batches(context.dataset.splits["val"], EVALUATION_BATCH_SIZE).images,
        sample_ids_N=indices[val_N],
        twin_logits_NK=reference_NK[val_N] if reference_NK is not None and trial.method == "ptq" else None,
    )


def _analyse_curvature(context: TrialContext, model: torch.nn.Module) -> None:
    context.trial_log.say("measures the curvature of the loss of every group")
    write_curvature(
        context.store,
        context.trial.trial_id,
        model,
        dataset=context.dataset,
        groupings=dict.fromkeys(["label", *context.trial.dataset.group_by]),
        batches=lambda indices: context.batches(indices, CURVATURE_BATCH_SIZE),
    )
