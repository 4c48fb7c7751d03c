"""What a trial works with: its images in batches, its networks, and what the reference answers.

The models of a finished trial come back from what the store keeps of them (`TrialContext.restore`).
"""

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch

from quantfair import quant
from quantfair.datasets import Batches, DatasetSpec, GroupedDataset, find_target, load_dataset
from quantfair.orchestrator.config.spec import Resources
from quantfair.orchestrator.planning.plan import PlannedTrial
from quantfair.orchestrator.trials.evaluation import list_evaluated
from quantfair.orchestrator.trials.log import TrialLog
from quantfair.results import Store, make_predictions

Value = TypeVar("Value")


class LruCache(Generic[Value]):
    """The `size` values that were used last."""

    def __init__(self, size: int):
        self.size = size
        self._values: dict[Hashable, Value] = {}

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of `key`, made now if it is not kept."""
        value = self._values.pop(key) if key in self._values else make()
        self._values[key] = value  # last in the order: used last
        if len(self._values) > self.size:
            del self._values[next(iter(self._values))]
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()


EVALUATION_BATCH_SIZE = 256
LOGITS: LruCache[np.ndarray] = LruCache(4)  # of reference models, by what `TrialContext.reference_key` says


class TrialContext(NamedTuple):
    """What a trial works with."""

    trial: PlannedTrial
    dataset: GroupedDataset
    store: Store
    trial_log: TrialLog
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

    def calibration_batches(self) -> Batches:
        """Batches of the images that this trial calibrates on."""
        settings = self.trial.quant
        assert isinstance(settings, quant.PtqSpec | quant.QatSpec)
        indices = self.dataset.calibration_indices(settings.calib_images, settings.calib_seed, settings.calib_balance)
        return self.batches(indices, settings.calib_batch_size)

    def example(self) -> torch.Tensor:
        """Two images as the network takes them."""
        return next(self.batches(self.dataset.splits["train"], 2).images())

    def predict(self, model: torch.nn.Module) -> np.ndarray:
        """Return the logits of all val and test images, in the order of `list_evaluated`."""
        indices, _ = list_evaluated(self.dataset)
        return quant.predict(model, self.batches(indices, EVALUATION_BATCH_SIZE).images()).numpy()

    def make_predictions(self, logits_NK: np.ndarray, runtime: str, *, keep_logits: bool = False) -> pa.Table:
        """Return the rows of what `runtime` answered to the images of `predict`."""
        indices, splits_N = list_evaluated(self.dataset)
        return make_predictions(
            logits_NK,
            self.dataset.labels_N[indices],
            trial_id=self.trial.trial_id,
            runtime=runtime,
            sample_ids_N=indices,
            splits_N=splits_N,
            reference_logits_NK=self.reference_logits(),
            keep_logits=keep_logits,
        )

    def network(self, spec: quant.ModelSpec) -> torch.nn.Module:
        """The model with its initial weights, which follow the seed, or with the user's own where `spec` names them."""
        n_channels, n_classes = self.dataset.n_channels, len(self.dataset.class_names)
        shape = {"in_channels": n_channels, "n_classes": n_classes, "task": self.dataset.task}
        return quant.build_model(spec, **shape, heads=self._head_sizes(), seed=self.trial.seed).to(self.device)

    def _head_sizes(self) -> dict[str, int]:
        """The number of classes of each head of a network with several, as far as the data has them."""
        heads = quant.MULTI_HEAD.get(self.trial.model.name, ())
        targets = {head: find_target(self.dataset.name, head) for head in heads}
        known = self.dataset.attributes
        return {head: len(known[target].names) for head, target in targets.items() if target in known}

    def stage(self, trial_id: str) -> torch.nn.Module:
        """The float model that another trial left, such as the one that this trial starts from."""
        model = self.network(self.trial.model.architecture)
        quant.load_weights(model, self.store.read_stage(trial_id))
        return model

    def reference_model(self) -> torch.nn.Module:
        """The trained float model that this trial starts from and is compared with."""
        return self.stage(str(self.trial.reference_trial_id))

    def reference_logits(self) -> np.ndarray | None:
        """Logits of the reference, computed once for all trials in a row that a worker compares with it, or None."""
        if self.trial.reference_trial_id is None:
            return None
        return LOGITS.get(self.reference_key(), lambda: self.predict(self.reference_model()))

    def reference_key(self) -> tuple[object, ...]:
        """What decides what the reference computes here, to the last bit."""
        return self.trial.reference_trial_id, self.store.location, self.device, torch.get_num_threads()

    def prepare(self) -> torch.nn.Module:
        """The model this trial starts from, with its quantizers in place."""
        settings = self.trial.quant
        assert not isinstance(settings, quant.Fp32Spec)
        from_scratch = isinstance(settings, quant.QatSpec) and settings.init == "scratch"
        model = self.network(self.trial.model.architecture) if from_scratch else self.reference_model()
        return quant.prepare(model, settings, self.example()).model

    def restore(self) -> torch.nn.Module:
        """The model of this trial, which is finished, as it was measured. Raises DamagedError where it was not kept."""
        if isinstance(self.trial.quant, quant.Fp32Spec | quant.Fp32FtSpec):
            return self.stage(self.trial.trial_id)
        kept, model = self.store.read_stage(self.trial.trial_id), self.prepare()
        if isinstance(self.trial.quant, quant.QatSpec):
            quant.load_frozen(model, kept)
        else:
            quant.load_quantizer_state(model, kept)
            quant.freeze(model)
        return model


def set_up(trial: PlannedTrial, store: Store, trial_log: TrialLog, device: str) -> TrialContext:
    """Return the bench of a trial. Raises ValueError where data or weights are not those that were planned."""
    dataset = _load(trial.dataset)
    if dataset.dataset_id != trial.dataset_id:
        raise ValueError(f"The data changed since the plan was made ({trial.dataset_id} -> {dataset.dataset_id}).")
    if quant.fingerprint_weights(trial.model) != trial.weights_id:
        raise ValueError(f"{trial.model.weights} changed since the plan was made: run the sweep again.")
    return TrialContext(trial, dataset, store, trial_log, device)


def find_device(resources: Resources) -> str:
    """Return cuda where a share of a GPU was asked for, else cpu. Raises RuntimeError if torch sees no such GPU."""
    if resources.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"{resources.gpu:g} GPUs were asked for, but torch sees none here: set `gpu` to 0.")
    return resources.device


@lru_cache(maxsize=2)
def _load(spec: DatasetSpec) -> GroupedDataset:
    return load_dataset(spec)
