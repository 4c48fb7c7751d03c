"""One trial, from its spec to its row: read this file first.

    images -> float stage -> quantize -> predict every val and test image -> predictions -> the row, written last

Runs alike in this process and in a Ray worker. Whatever a trial raises becomes a `failed` row with its traceback.
"""

import time
import traceback
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch

import quant
from datasets import Batches, DatasetSpec, GroupedDataset, find_target, load_dataset
from orchestrator.analysis import write_curvature, write_layers, write_sensitivity
from orchestrator.evaluation import LargestDrop, find_largest_drop, list_evaluated, score, write_samples
from orchestrator.journal import Journal, describe_run
from orchestrator.manifest import find_code_version
from orchestrator.memory import Memory
from orchestrator.plan import OUT_OF_MEMORY, PlannedTrial
from orchestrator.spec import Resources
from orchestrator.work import Outcome
from results import Store, WriteError, make_predictions

EVALUATION_BATCH_SIZE = 256
CURVATURE_BATCH_SIZE = 64  # the graph of a batch is held
LOGITS: Memory[np.ndarray] = Memory(4)  # of reference models, by what `_reference_key` says
CALIBRATIONS: Memory[quant.Calibration] = Memory(4)  # of reference models, by that and the images


class Built(NamedTuple):
    """A model ready to predict, and the epoch whose weights it holds (null where nothing was trained).

    A quantized model comes with its twin: the same weights without quantizers.
    """

    model: torch.nn.Module
    selected_epoch: int | None = None
    twin: torch.nn.Module | None = None


class Bench(NamedTuple):
    """What a trial works with."""

    trial: PlannedTrial
    dataset: GroupedDataset
    store: Store
    journal: Journal
    device: str

    def batches(self, indices: np.ndarray, batch_size: int, **training: Any) -> Batches:
        """Batches of some images on this trial's device, as the network takes them."""
        shared = {"device": self.device, **self.trial.model.preprocess.model_dump()}
        return Batches(self.dataset, indices, batch_size=batch_size, **shared, **training)

    def training_batches(self, batch_size: int) -> Batches:
        """Batches of the training split, augmented, with the labels of every head that is trained."""
        augment, task = self.trial.train.augment, self.dataset.task
        others = [find_target(self.dataset.name, head) for head in self.trial.model.trained_heads if head != task]
        return self.batches(self.dataset.splits["train"], batch_size, augment=augment, targets=("label", *others))

    def head_sizes(self) -> dict[str, int]:
        """The number of classes of each head of a network with several, as far as the data has them."""
        targets = {
            head: find_target(self.dataset.name, head) for head in quant.MULTI_HEAD.get(self.trial.model.name, ())
        }
        known = self.dataset.attributes
        return {head: len(known[target].names) for head, target in targets.items() if target in known}


def run_trial(
    trial: PlannedTrial, store: Store, resources: Resources, watch: Callable[[str], None] = lambda text: None
) -> Outcome:
    """Run one trial and write everything it leaves behind; the row comes last.

    `watch` is called with a line at the end of every epoch, while the trial runs.
    """
    journal = Journal(watch, describe_run(trial, resources))
    row, drop = {**trial.columns(), "code_version": find_code_version()}, None
    with journal.kept_by(partial(store.write_log, trial.trial_id)):
        try:
            torch.set_num_threads(resources.n_threads)
            measured, drop = _measure(trial, store, journal, find_device(resources))
            row |= {"status": "ok", **measured}
        except WriteError:  # no place for results is not the trial's failure: the sweep stops
            raise
        except Exception as error:
            row |= {"status": "failed", "error": _name(error), "traceback": traceback.format_exc()}
            journal.say(row["traceback"])
        row |= {**journal.seconds, "total_s": time.perf_counter() - journal.started}
        journal.say(f"{row['status']} after {row['total_s']:.2f} s")
    store.write_trial(row)
    drop_pp, group = drop[:2] if drop is not None else (None, None)
    error, stage_s = row.get("error"), journal.seconds
    return Outcome(trial.trial_id, row["status"], row["total_s"], drop_pp, group, error=error, stage_s=stage_s)


def _name(error: Exception) -> str:
    """Return "ValueError: what it says"; all ways to be out of memory have one name."""
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return f"{OUT_OF_MEMORY if no_memory else type(error).__name__}: {error}"


def find_device(resources: Resources) -> str:
    """Return cuda where a share of a GPU was asked for, else cpu. Raises RuntimeError if torch sees no such GPU."""
    if resources.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"{resources.gpu:g} GPUs were asked for, but torch sees none here: set `gpu` to 0.")
    return resources.device


def _measure(
    trial: PlannedTrial, store: Store, journal: Journal, device: str
) -> tuple[dict[str, Any], LargestDrop | None]:
    """Return the columns of the row that are measured, and of a quantized trial the group that lost most."""
    dataset = _load(trial.dataset)
    if dataset.dataset_id != trial.dataset_id:
        raise ValueError(f"The data changed since the plan was made ({trial.dataset_id} -> {dataset.dataset_id}).")
    if quant.fingerprint_weights(trial.model) != trial.weights_id:
        raise ValueError(f"{trial.model.weights} changed since the plan was made: run the sweep again.")
    bench = Bench(trial, dataset, store, journal, device)
    write_samples(dataset, store)
    built = BUILDERS[trial.method](bench)
    with journal.timed("evaluate_s"):
        logits_NK = _predict(bench, built.model)
    reference_NK = _reference_logits(bench) if trial.reference_trial_id else None
    indices, splits_N = list_evaluated(dataset)
    predictions = make_predictions(
        logits_NK,
        dataset.labels_N[indices],
        trial_id=trial.trial_id,
        runtime="torch",
        sample_ids_N=indices,
        splits_N=splits_N,
        reference_logits_NK=reference_NK,
        keep_logits=trial.method in ("fp32", "fp32_ft"),
    )
    store.write_predictions(trial.trial_id, "torch", predictions)
    _analyse(bench, built, reference_NK)
    drop = None
    if reference_NK is not None and trial.method in ("ptq", "qat"):
        drop = find_largest_drop(predictions, reference_NK, dataset, trial.dataset.group_by)
        journal.say(f"largest drop vs the reference: {drop or 'no group has enough test images'}")
    measured = {
        **score(predictions, dataset),
        "selected_epoch": built.selected_epoch,
        "device": bench.device,
        "size_bytes": quant.count_bytes(built.model),
    }
    return measured, drop


def _build_fp32(bench: Bench) -> Built:
    """Train the network, or take the user's own weights as they are."""
    trial = bench.trial
    model = _network(bench, trial.model)
    built = Built(model) if trial.model.weights else _fit(bench, model, trial.train)
    bench.store.write_stage(trial.trial_id, quant.weights_to_bytes(built.model))
    return built


def _build_fp32_ft(bench: Bench) -> Built:
    built = _fit(bench, _prepare(bench), _recipe(bench))
    bench.store.write_stage(bench.trial.trial_id, quant.weights_to_bytes(built.model))
    return built


def _build_ptq(bench: Bench) -> Built:
    model = _prepare(bench)
    twin = quant.float_twin(model)
    quant.freeze(_calibrate(bench, model))
    bench.store.write_stage(bench.trial.trial_id, quant.quantizer_state_to_bytes(model))
    return Built(model, twin=twin)


def _build_qat(bench: Bench) -> Built:
    built = _fit(bench, _calibrate(bench, _prepare(bench)), _recipe(bench))
    twin = quant.float_twin(built.model)
    quant.freeze(built.model)
    return built._replace(twin=twin)


BUILDERS: dict[str, Callable[[Bench], Built]] = {
    "fp32": _build_fp32,
    "fp32_ft": _build_fp32_ft,
    "ptq": _build_ptq,
    "qat": _build_qat,
}


def _prepare(bench: Bench) -> torch.nn.Module:
    """The model this trial starts from, with its quantizers in place."""
    settings = bench.trial.quant
    assert not isinstance(settings, quant.Fp32Spec)
    from_scratch = isinstance(settings, quant.QatSpec) and settings.init == "scratch"
    model = _network(bench, bench.trial.model.architecture) if from_scratch else _reference_model(bench)
    return quant.prepare(model, settings, next(bench.batches(bench.dataset.splits["train"], 2).images())).model


def _network(bench: Bench, spec: quant.ModelSpec) -> torch.nn.Module:
    """The model with its initial weights, which follow the seed, or with the user's own where `spec` names them."""
    n_channels, n_classes = bench.dataset.n_channels, len(bench.dataset.class_names)
    shape = {"in_channels": n_channels, "n_classes": n_classes, "task": bench.dataset.task, "heads": bench.head_sizes()}
    return quant.build_model(spec, **shape, seed=bench.trial.seed).to(bench.device)


def _reference_model(bench: Bench) -> torch.nn.Module:
    """The trained float model that this trial starts from and is compared with."""
    model = _network(bench, bench.trial.model.architecture)
    quant.load_weights(model, bench.store.read_stage(str(bench.trial.reference_trial_id)))
    return model


def _calibrate(bench: Bench, model: torch.nn.Module) -> torch.nn.Module:
    settings, journal = bench.trial.quant, bench.journal
    assert isinstance(settings, quant.PtqSpec | quant.QatSpec)
    if not settings.calibrates:
        return model
    batches = _calibration_batches(bench)
    n, balance = settings.calib_images, settings.calib_balance
    how = "" if balance == "uniform" else f", balanced by {balance}"
    journal.say(f"calibrates on {len(batches.indices)} training images (up to {n} were asked for{how})")
    with journal.timed("calibrate_s"):
        quant.calibrate(model, batches.images(), calibration=_shared_calibration(bench))
    return model


def _calibration_batches(bench: Bench) -> Batches:
    settings = bench.trial.quant
    assert isinstance(settings, quant.PtqSpec | quant.QatSpec)
    indices = bench.dataset.calibration_indices(settings.calib_images, settings.calib_seed, settings.calib_balance)
    return bench.batches(indices, settings.calib_batch_size)


def _shared_calibration(bench: Bench) -> quant.Calibration | None:
    """What the reference model's layers met, collected once for all trials in a row that ask for the same images.

    It is the float model's, so it is the same for every setting of the quantization. None for a trial that calibrates
    on its own: from scratch it starts from other weights than the reference's, and preset iao observes the quantized
    network.
    """
    settings = bench.trial.quant
    assert isinstance(settings, quant.PtqSpec | quant.QatSpec)
    if settings.preset == "iao" or (isinstance(settings, quant.QatSpec) and settings.init == "scratch"):
        return None
    images = settings.calib_images, settings.calib_batch_size, settings.calib_seed, settings.calib_balance

    def collect() -> quant.Calibration:
        return quant.collect(_reference_model(bench), _calibration_batches(bench).images())

    return CALIBRATIONS.get((*_reference_key(bench), *images), collect)


def _recipe(bench: Bench) -> quant.TrainSpec:
    assert isinstance(bench.trial.quant, quant.QatSpec | quant.Fp32FtSpec)
    return bench.trial.train.with_recipe(bench.trial.quant)


def _fit(bench: Bench, model: torch.nn.Module, spec: quant.TrainSpec) -> Built:
    with bench.journal.timed("train_s"):
        fitted = quant.fit(
            model,
            spec,
            train=bench.training_batches(spec.batch_size),
            val=bench.batches(bench.dataset.splits["val"], EVALUATION_BATCH_SIZE),
            seed=bench.trial.seed,
            log=bench.journal.say_progress,
        )
    return Built(model, fitted.selected_epoch)


def _predict(bench: Bench, model: torch.nn.Module) -> np.ndarray:
    indices, _ = list_evaluated(bench.dataset)
    return quant.predict(model, bench.batches(indices, EVALUATION_BATCH_SIZE).images()).numpy()


def _analyse(bench: Bench, built: Built, reference_NK: np.ndarray | None) -> None:
    """Write the report of every layer, and what `analysis` asks for: of a float model curvature, of others the rest."""
    trial, twin = bench.trial, built.twin
    images = _calibration_batches(bench).images if twin is not None and "sqnr" in trial.analysis else None
    write_layers(bench.store, trial.trial_id, built.model, twin=twin, images=images)
    if twin is None and "curvature" in trial.analysis:
        _analyse_curvature(bench, built.model)
    if twin is None or "sensitivity" not in trial.analysis:
        return
    bench.journal.say("quantizes each layer alone")
    indices, splits_N = list_evaluated(bench.dataset)
    val_N = splits_N == "val"
    write_sensitivity(
        bench.store,
        trial.trial_id,
        built.model,
        twin=twin,
        images=bench.batches(bench.dataset.splits["val"], EVALUATION_BATCH_SIZE).images,
        sample_ids_N=indices[val_N],
        twin_logits_NK=reference_NK[val_N] if reference_NK is not None and trial.method == "ptq" else None,
    )


def _analyse_curvature(bench: Bench, model: torch.nn.Module) -> None:
    bench.journal.say("measures the curvature of the loss of every group")
    write_curvature(
        bench.store,
        bench.trial.trial_id,
        model,
        dataset=bench.dataset,
        groupings=dict.fromkeys(["label", *bench.trial.dataset.group_by]),
        batches=lambda indices: bench.batches(indices, CURVATURE_BATCH_SIZE),
    )


def _reference_logits(bench: Bench) -> np.ndarray:
    """Logits of the reference, computed once for all trials in a row that a worker compares with it."""
    return LOGITS.get(_reference_key(bench), lambda: _predict(bench, _reference_model(bench)))


def _reference_key(bench: Bench) -> tuple[object, ...]:
    """What decides what the reference computes here, to the last bit."""
    return bench.trial.reference_trial_id, bench.store.location, bench.device, torch.get_num_threads()


@lru_cache(maxsize=2)
def _load(spec: DatasetSpec) -> GroupedDataset:
    return load_dataset(spec)
