"""Training and fine-tuning: one loop for the float model, for QAT and for its control.

Given the same model, batches and seed the result has the same bits on a CPU; on CUDA cuDNN is held to deterministic
algorithms. The seed governs the order of the images and dropout; the global random state is left as it was.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from quantfair.quant.layers.modes import device_of, require_calibrated
from quantfair.quant.layers.modules import deployed_weight, quant_layers, quantizers
from quantfair.quant.layers.non_finite import DivergedError, NonFiniteError, find_non_finite, is_finite
from quantfair.quant.prediction import predict
from quantfair.quant.quantizer.fake_quantize import FakeQuantize
from quantfair.quant.quantizer.observers import forgets_weights
from quantfair.quant.specs.training import TrainSpec
from quantfair.quant.training.optimizer import Loss, learning_rate, make_optimizer, set_learning_rate, training_loss


class Batches(Protocol):
    """Batches of one split. `len()` is the number of batches in a shuffled epoch."""

    def __len__(self) -> int: ...

    def epoch(self, generator: torch.Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images_NCHW float32 normalised, labels int64), shuffled by `generator`, in order if it is None.

        The labels are labels_N, or labels_NT for T heads, the task's in the first column.
        """
        ...


class FitResult(NamedTuple):
    """What a training did. The lists have one entry per epoch; `selected_epoch` counts from 1."""

    selected_epoch: int
    val_accuracy: list[float]
    train_loss_nats: list[float]


def fit(
    model: nn.Module,
    spec: TrainSpec,
    *,
    train: Batches,
    val: Batches,
    seed: int,
    log: Callable[[str], None],
) -> FitResult:
    """Train `model` in place with cross entropy, summed over heads, and leave it in the state of the selected epoch.

    For QAT and for its control `spec` is `TrainSpec.with_recipe(recipe)`: optimizer, batch size, precision are shared.

    `select = "best_val"` takes the epoch of the best validation accuracy (the earliest of equals), "last" the last one.
    Logs one line per epoch. Raises DivergedError when the loss or the validation logits become non-finite, ValueError
    for empty batches, a frozen model, quantizers without a range, labels that do not fit, or `compile` on a CPU.
    """
    _check_can_be_trained(model, train, val)
    result = FitResult(spec.epochs, [], [])
    best_state = None
    optimizer = make_optimizer(model, spec)
    order = torch.Generator().manual_seed(seed)
    with training_loss(model, spec) as loss, _reproducible(seed, device_of(model)):
        for epoch in range(1, spec.epochs + 1):
            started = time.perf_counter()
            result.train_loss_nats.append(_train_epoch(model, loss, optimizer, spec, epoch, train, order))
            _catch_up_with_weights(model)
            result.val_accuracy.append(_validate(model, val, spec, epoch))
            if spec.select == "best_val" and result.val_accuracy[-1] > max(result.val_accuracy[:-1], default=-1):
                result = result._replace(selected_epoch=epoch)
                best_state = copy.deepcopy(model.state_dict())
            log(_describe_epoch(result, spec, time.perf_counter() - started))
    if best_state is not None:
        model.load_state_dict(best_state)
    return result


def _check_can_be_trained(model: nn.Module, train: Batches, val: Batches) -> None:
    for name, batches in (("train", train), ("val", val)):
        if len(batches) == 0:
            raise ValueError(f"`{name}` has no batches; give the split at least one image")
    if any(quantizer.mode == "frozen" for quantizer in quantizers(model)):
        raise ValueError("the model is frozen; train it before `freeze`")
    require_calibrated(model, to_train=True)


@contextmanager
def _reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what is random inside the model (dropout) and let cuDNN repeat its sums in one order; put both back."""
    was_deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                torch.cuda.manual_seed(seed)
            yield
    finally:
        torch.backends.cudnn.deterministic = was_deterministic


def _train_epoch(
    model: nn.Module,
    loss_of: Loss,
    optimizer: torch.optim.Optimizer,
    spec: TrainSpec,
    epoch: int,
    train: Batches,
    order: torch.Generator,
) -> float:
    """Take one step per batch and return the mean loss in nats."""
    _start_epoch(model, spec, epoch)
    device, n_steps, total_nats, step = device_of(model), spec.epochs * len(train), 0.0, 0
    for step, (images_NCHW, labels) in enumerate(train.epoch(order), start=1):
        set_learning_rate(optimizer, learning_rate(spec, (epoch - 1) * len(train) + step - 1, n_steps))
        images_NCHW = images_NCHW.to(device)
        loss = loss_of(images_NCHW, labels.to(device))
        loss_nats = loss.item()
        if not math.isfinite(loss_nats):
            where = find_non_finite(model, images_NCHW)
            raise DivergedError(f"loss became {loss_nats} at epoch {epoch}, step {step} ({where}); {_remedy(spec)}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_nats += loss_nats
    return total_nats / step


def _start_epoch(model: nn.Module, spec: TrainSpec, epoch: int) -> None:
    """Put `model` in training mode, but for what has been frozen by now."""
    model.train()
    if spec.freeze_bn_after is not None and epoch > spec.freeze_bn_after:
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.eval()
    for quantizer in quantizers(model):
        if quantizer.spec.follows_until is not None and epoch > quantizer.spec.follows_until:
            quantizer.mode = "fixed"


@torch.no_grad()
def _catch_up_with_weights(model: nn.Module) -> None:
    """Take the range of the weights as the last step left them; a forward pass saw them only before it."""
    for _, layer in quant_layers(model):
        quantizer = layer.weight_quantizer
        if not isinstance(quantizer, FakeQuantize) or not (quantizer.enabled and quantizer.mode == "follow"):
            continue
        # An average has had its value of every step. Of a weight that is not finite, validation tells.
        is_due = layer.refreshes_range_after_epoch and forgets_weights(quantizer.spec)
        if is_due and is_finite(layer.weight):
            quantizer.follow(deployed_weight(layer))


def _validate(model: nn.Module, val: Batches, spec: TrainSpec, epoch: int) -> float:
    """Return the accuracy on `val`."""
    labels: list[Tensor] = []

    def images() -> Iterator[Tensor]:
        for images_NCHW, batch in val.epoch(None):
            labels.append((batch if batch.ndim == 1 else batch[:, 0]).cpu())
            yield images_NCHW

    try:
        predicted_N = predict(model, images()).argmax(1)
    except NonFiniteError as error:
        raise DivergedError(f"validation after epoch {epoch}: {error}; {_remedy(spec)}") from error
    return float((predicted_N == torch.cat(labels)).double().mean())


def _remedy(spec: TrainSpec) -> str:
    return f"lower `lr`, now {spec.lr:g}"


def _describe_epoch(result: FitResult, spec: TrainSpec, seconds: float) -> str:
    loss_nats, accuracy = result.train_loss_nats[-1], result.val_accuracy[-1]
    epoch = f"epoch {len(result.val_accuracy)}/{spec.epochs}"
    return f"{epoch}: train loss {loss_nats:.4f} nats, val accuracy {accuracy:.4f}, {seconds:.2f} s"
