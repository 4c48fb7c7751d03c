"""What is to be shipped of a trial: its model for a runtime, and a small program that uses it."""

import shutil
from pathlib import Path
from typing import Final

from quantfair import quant
from quantfair.datasets import find_dataset_id
from quantfair.orchestrator.config.errors import ConfigProblem, RequestError
from quantfair.orchestrator.config.spec import Resources, parse_sweep
from quantfair.orchestrator.planning.plan import PlannedTrial, make_plan
from quantfair.orchestrator.trials.context import find_device, set_up
from quantfair.orchestrator.trials.deployment import describe_export, export_trial
from quantfair.orchestrator.trials.log import TrialLog
from quantfair.results import Store

SHIPPED: Final = Path(__file__).parent.parent / "shipped"


def write_artifacts(store: Store, trial_id: str, runtime: str, folder: Path | None, *, half: bool) -> list[Path]:
    """Write model.onnx, what else the runtime ships with it, and predict.py; return their paths.

    Raises:
        RequestError: no such trial is finished here, the runtime cannot represent it or does not run on this machine,
            or its model cannot be exported.
        StoreError: there is no sweep in the store, or the trial's model was not kept.
    """
    trial = _find_trial(store, trial_id)
    row = quant.RUNTIMES[runtime]
    if row.program is None:
        raise _cannot_be_met(f"{row.title} is only measured, and no program is shipped for it")
    _refuse(quant.find_unsupported(trial.quant, runtime))
    code = row.load()
    _refuse(code.why_unavailable())
    folder = _find_folder(store, trial, runtime) if folder is None else folder
    context = set_up(trial, store, TrialLog(lambda text: None), find_device(Resources()))
    path, model = folder / "model.onnx", context.restore()
    _refuse(quant.find_unsupported_layers(quant.describe_layers(model), runtime))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError([ConfigProblem("--output", f"cannot be made: {error}.")]) from error
    try:
        export_trial(context, model, path, half=half)
        others = code.ship(path, describe_export(context))
    except (quant.ExportError, quant.DeploymentError) as error:
        raise RequestError([ConfigProblem("TRIAL_ID", f"{trial.trial_id}: {error}.")]) from error
    program = folder / "predict.py"
    shutil.copyfile(SHIPPED / row.program, program)
    return [path, *others, program]


def _find_trial(store: Store, trial_id: str) -> PlannedTrial:
    """Return the planned trial whose id begins so, if there is one and it is finished."""
    manifest = store.read_manifest()
    ids = [row["trial_id"] for row in manifest["plan"] if row["trial_id"].startswith(trial_id)]
    if len(ids) != 1:
        what = "begins no trial's id" if not ids else f"begins the ids of {len(ids)} trials"
        raise RequestError(
            [ConfigProblem("TRIAL_ID", f"'{trial_id}' {what} of this sweep: the table `trials` lists them.")]
        )
    sweep = parse_sweep(manifest["sweep"])
    try:
        plan = make_plan(sweep, {e.dataset: find_dataset_id(e.dataset) for e in sweep.experiments})
    except RequestError:
        raise
    except ValueError as error:  # the data is not there, or a file of weights does not fit
        raise RequestError([ConfigProblem("", str(error))]) from error
    found = [trial for trial in plan if trial.trial_id == ids[0]]
    if not found:
        fault = "cannot be built here: its data or weights changed since it ran, or the version of quantfair did."
        raise RequestError([ConfigProblem("TRIAL_ID", f"{ids[0]} {fault}")])
    if store.read_status(found[0].trial_id) != "ok":
        raise RequestError([ConfigProblem("TRIAL_ID", f"{found[0].trial_id} is not finished: run the sweep first.")])
    return found[0]


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise _cannot_be_met(reason)


def _cannot_be_met(reason: str) -> RequestError:
    return RequestError([ConfigProblem("--runtime", f"cannot be met: {reason}.")])


def _find_folder(store: Store, trial: PlannedTrial, runtime: str) -> Path:
    place = store.artifacts_path(trial.trial_id, runtime)
    if "://" in place:
        raise RequestError([ConfigProblem("--output", "is needed: the store is on no disk of this machine.")])
    return Path(place)
