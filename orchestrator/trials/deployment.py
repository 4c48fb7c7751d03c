"""A finished trial in the runtimes that people ship: exported, run on the images it was measured on, timed.

Each runtime leaves predictions and then its rows, which come last: that they exist means that this runtime is done.
What a runtime cannot represent, and what goes wrong in it, is a row with a reason, and never the trial's failure.
Which runtimes there are, and the code of each, is a row of `quant.RUNTIMES`.
"""

import json
import tempfile
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from quantfair import quant
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.planning.runtimes import list_missing
from quantfair.orchestrator.provenance import name_processor
from quantfair.orchestrator.trials.context import EVALUATION_BATCH_SIZE, TrialContext
from quantfair.orchestrator.trials.evaluation import list_evaluated
from quantfair.orchestrator.trials.log import TrialLog
from quantfair.results import DamagedError, Store, WriteError

LATENCY_BATCHES: Final = (1, 256)
Row = dict[str, Any]


def measure_runtimes(
    trial: PlannedTrial,
    store: Store,
    trial_log: TrialLog,
    open_context: Callable[[], TrialContext],
    *,
    model: torch.nn.Module | None,
) -> None:
    """Measure a finished trial in every runtime that it lacks. Without `model` it is restored, once it is needed."""
    restore = cache(lambda: open_context().restore() if model is None else model)
    for runtime in list_missing(trial, store):
        trial_log.say_progress(f"measures {runtime}")
        try:
            rows = _measure_runtime(trial, runtime, open_context, restore)
        except WriteError:  # no place for results: the sweep stops
            raise
        except Exception as error:
            trial_log.say(traceback.format_exc())
            rows = [{"status": "failed", "reason": _explain(error, trial)}]
        for row in rows:
            trial_log.say(_describe(row))
        store.write_runtime(trial.trial_id, runtime, rows)


def _measure_runtime(
    trial: PlannedTrial, runtime: str, open_context: Callable[[], TrialContext], restore: Callable[[], torch.nn.Module]
) -> list[Row]:
    reason = quant.find_unsupported(trial.quant, runtime) or _find_obstacle(runtime)
    if reason is not None:
        return [{"status": "unsupported", "reason": reason}]
    context, model = open_context(), restore()
    reason = quant.find_unsupported_layers(quant.describe_layers(model), runtime)
    if reason is not None:
        return [{"status": "unsupported", "reason": reason}]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_trial(context, model, path)
        return _measure(context, model, path, runtime)


def _find_obstacle(runtime: str) -> str | None:
    """Return why a runtime cannot run on this worker, and how the sweep comes back to it."""
    missing = quant.RUNTIMES[runtime].load().why_unavailable()
    return missing and f"{missing}; then `sweep --retry-failed` measures it"


def _explain(error: Exception, trial: PlannedTrial) -> str:
    """Return what went wrong as one line; where the model was not kept, also how it comes back."""
    if isinstance(error, DamagedError):
        return f"{error.path} {error.why}: delete trials/{trial.trial_id}.parquet, and `sweep` runs the trial again"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _describe(row: Row) -> str:
    if row["status"] != "ok":
        return f"{row['status']}: {row['reason']}"
    times = "" if row.get("p50_ms") is None else f", batch {row['batch']} in {row['p50_ms']:.2f} ms"
    flips = f"{row['n_flip']} of {row['n_test']} test answers are not torch's"
    return f"{row['session']}: {flips}{times} ({row['kernels']})"


def export_trial(context: TrialContext, model: torch.nn.Module, path: Path, *, half: bool = False) -> None:
    """Write the ONNX file of a trial, `half` in float16. Raises quant.ExportError."""
    quant.export_onnx(model, context.example(), path, metadata=describe_export(context), half=half)


def describe_export(context: TrialContext) -> dict[str, str]:
    """Return what an exported file says of itself: whose it is, its classes, and what its images go through."""
    dataset, preprocess = context.dataset, context.trial.model.preprocess
    mean_C, std_C = dataset.normalization(preprocess.mean, preprocess.std)
    images = {"shape": list(context.example().shape[1:]), "mean": mean_C.tolist(), "std": std_C.tolist()}
    return {
        "quantfair.trial_id": context.trial.trial_id,
        "quantfair.label": context.trial.label,
        "quantfair.quant": context.trial.identity["quant"],
        "quantfair.class_names": json.dumps(dataset.class_names),
        "quantfair.images": json.dumps(images),  # pixels in [0, 1], less mean, over std
    }


def _measure(context: TrialContext, model: torch.nn.Module, path: Path, runtime: str) -> list[Row]:
    """Measure a file in every session of a runtime; return a row for each, and one for each batch that is timed."""
    torch_NK = context.predict(model)
    code = quant.RUNTIMES[runtime].load()
    rows = []
    for predictor in code.open_predictors(path, n_threads=torch.get_num_threads()):
        row = {
            "status": "ok",
            "device": name_processor(),  # unless the runtime names another one
            **predictor.columns,
            **_predict(context, predictor, torch_NK),
        }
        if predictor.not_timed is not None:
            rows.append({**row, "reason": predictor.not_timed})
            continue
        for batch in LATENCY_BATCHES:
            latency = quant.measure_latency(predictor.predict, _take(context, batch))
            rows.append({**row, "batch": batch, "p50_ms": latency.p50_ms, "p95_ms": latency.p95_ms})
    return rows


def _predict(context: TrialContext, predictor: quant.Predictor, torch_NK: np.ndarray) -> Row:
    """Keep what a runtime answers to the val and test images; return how far that is from torch's answers."""
    indices, splits_N = list_evaluated(context.dataset)
    images = context.batches(indices, EVALUATION_BATCH_SIZE).images()
    logits_NK = np.concatenate([predictor.predict(images_NCHW.cpu().numpy()) for images_NCHW in images])
    predictions = context.make_predictions(logits_NK, predictor.name)
    context.store.write_predictions(context.trial.trial_id, predictor.name, predictions)
    test_N = splits_N == "test"
    return {
        "n_test": int(test_N.sum()),
        "n_flip": int((logits_NK.argmax(1) != torch_NK.argmax(1))[test_N].sum()),
        "max_difference": float(np.abs(logits_NK - torch_NK).max()),
    }


def _take(context: TrialContext, n: int) -> np.ndarray:
    """Return `n` test images, as the network takes them; some twice where there are fewer."""
    return next(context.batches(np.resize(context.dataset.splits["test"], n), n).images()).cpu().numpy()
