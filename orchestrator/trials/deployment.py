"""A finished trial in the runtimes that people ship: exported, run on the images it was measured on, timed.

Each runtime leaves predictions and then its rows, which come last: that they exist means that this runtime is done.
What a runtime cannot represent, and what goes wrong in it, is a row with a reason, and never the trial's failure.
"""

import json
import tempfile
import traceback
from collections import Counter
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
from quantfair.results import EXACT, DamagedError, Store, WriteError

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
    reason = quant.find_unsupported(trial.quant, runtime) or OBSTACLES[runtime]()
    if reason is not None:
        return [{"status": "unsupported", "reason": reason}]
    context, model = open_context(), restore()
    reason = quant.find_unsupported_layers(quant.describe_layers(model), runtime)
    if reason is not None:
        return [{"status": "unsupported", "reason": reason}]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_trial(context, model, path)
        return MEASURES[runtime](context, model, path)


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


def _measure_onnxruntime(context: TrialContext, model: torch.nn.Module, path: Path) -> list[Row]:
    """Measure the fast session, with its latency, and the exact one, which proves the export and is not timed."""
    torch_NK, n_threads = context.predict(model), torch.get_num_threads()
    shared = {"status": "ok", "file_bytes": path.stat().st_size, "threads": n_threads, "device": name_processor()}
    rows = []
    names: dict[quant.Session, str] = {"fast": "onnxruntime", "exact": EXACT}
    for session, name in names.items():
        network = quant.OnnxRuntime(path, session=session, n_threads=n_threads)
        about = {"session": session, "kernels": network.kernels, "version": network.version}
        row = {**shared, **about, **_predict(context, network, name, torch_NK)}
        if session == "exact":
            rows.append({**row, "reason": "a proof of the export: not timed"})
            continue
        for batch in LATENCY_BATCHES:
            latency = quant.measure_latency(network, _take(context, batch))
            rows.append({**row, "batch": batch, "p50_ms": latency.p50_ms, "p95_ms": latency.p95_ms})
    return rows


def _predict(
    context: TrialContext, network: Callable[[np.ndarray], np.ndarray], name: str, torch_NK: np.ndarray
) -> Row:
    """Keep what a runtime answers to the val and test images under `name`; return how far that is from torch's."""
    indices, splits_N = list_evaluated(context.dataset)
    images = context.batches(indices, EVALUATION_BATCH_SIZE).images()
    logits_NK = np.concatenate([network(images_NCHW.cpu().numpy()) for images_NCHW in images])
    context.store.write_predictions(context.trial.trial_id, name, context.make_predictions(logits_NK, name))
    test_N = splits_N == "test"
    return {
        "n_test": int(test_N.sum()),
        "n_flip": int((logits_NK.argmax(1) != torch_NK.argmax(1))[test_N].sum()),
        "max_difference": float(np.abs(logits_NK - torch_NK).max()),
    }


def _take(context: TrialContext, n: int) -> np.ndarray:
    """Return `n` test images, as the network takes them; some twice where there are fewer."""
    return next(context.batches(np.resize(context.dataset.splits["test"], n), n).images()).cpu().numpy()


def _measure_tensorrt(context: TrialContext, model: torch.nn.Module, path: Path) -> list[Row]:
    """Build an engine on this GPU, and measure it. Never run yet: see `quant/deploy/tensorrt/runtime.py`."""
    timings = Path(tempfile.gettempdir(), f"quantfair-{torch.cuda.get_device_name().replace(' ', '-')}.timings")
    engine_path = path.with_suffix(".engine")
    facts = quant.build_engine(path, engine_path, timing_cache=timings)
    runner = quant.open_engine(engine_path, onnx_path=path)

    def network(images_NCHW: np.ndarray) -> np.ndarray:
        return runner(images_NCHW)["logits"]

    precisions = Counter(f"{layer.operator} {layer.asked}" for layer in facts.layers)
    row = {
        "session": "engine",
        "status": "ok",
        "file_bytes": engine_path.stat().st_size,
        "kernels": ", ".join(f"{name} {n}" for name, n in precisions.most_common()),
        "version": f"tensorrt {facts.machine.version}",
        "device": facts.machine.device,
        **_predict(context, network, "tensorrt", context.predict(model)),
    }
    latencies = {batch: quant.measure_latency(network, _take(context, batch)) for batch in LATENCY_BATCHES}
    return [{**row, "batch": batch, "p50_ms": t.p50_ms, "p95_ms": t.p95_ms} for batch, t in latencies.items()]


def _find_no_obstacle() -> str | None:
    return None


def _why_tensorrt_is_unavailable() -> str | None:
    missing = quant.why_tensorrt_is_unavailable()
    return missing and f"{missing}; then `sweep --retry-failed` measures it"


OBSTACLES: Final = {"onnxruntime": _find_no_obstacle, "tensorrt": _why_tensorrt_is_unavailable}
MEASURES: Final = {"onnxruntime": _measure_onnxruntime, "tensorrt": _measure_tensorrt}
