"""One step of a training: the loss, its precision, the optimizer and its learning rate."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantfair.quant.layers.modes import device_of
from quantfair.quant.layers.modules import quantizers
from quantfair.quant.specs.training import TrainSpec

SGD_MOMENTUM = 0.9

Loss = Callable[[Tensor, Tensor], Tensor]


def make_optimizer(model: nn.Module, spec: TrainSpec) -> torch.optim.Optimizer:
    """Return the optimizer over every parameter. Learned scales are not decayed, so QAT and its control decay the same.

    Adam's decay is L2 in the gradient, AdamW's is decoupled (Loshchilov and Hutter 2019).
    """
    groups = _parameter_groups(model, spec)
    match spec.optimizer:
        case "adam":
            return torch.optim.Adam(groups, lr=spec.lr, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, lr=spec.lr, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=spec.lr, momentum=SGD_MOMENTUM, fused=True)


def _parameter_groups(model: nn.Module, spec: TrainSpec) -> list[dict[str, Any]]:
    """Weights in one group, every learned scale in its own.

    A step of Adam is about `lr` whatever the gradient, and a scale may be far smaller than that: its `lr` is taken
    relative to where the scale starts. SGD steps by the gradient, which LSQ's factor keeps in proportion.
    """
    scales = [quantizer.scale for quantizer in quantizers(model) if quantizer.mode == "learn"]
    of_scales = {id(scale) for scale in scales}
    weights = [parameter for parameter in model.parameters() if id(parameter) not in of_scales]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": spec.weight_decay, "lr_factor": 1.0}]
    for scale in scales:
        factor = 1.0 if spec.optimizer == "sgd" else float(scale.detach().mean())
        groups.append({"params": [scale], "weight_decay": 0.0, "lr_factor": factor})
    return groups


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of the weights to `lr`, and those of learned scales in proportion."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def learning_rate(spec: TrainSpec, step: int, n_steps: int) -> float:
    """Return the rate of `step` (from 0) out of `n_steps`: half a cosine, or a tenth from each milestone on."""
    if spec.schedule == "cosine":
        return spec.lr * (1 + math.cos(math.pi * step / n_steps)) / 2
    epoch = step * spec.epochs // n_steps + 1
    return spec.lr * 0.1 ** sum(milestone <= epoch for milestone in spec.milestones)


@contextmanager
def training_loss(model: nn.Module, spec: TrainSpec) -> Iterator[Loss]:
    """Yield the function from (images_NCHW, labels) to the loss in nats; the model's layout is put back afterwards.

    bf16: autocast, and channels-last memory, in which its convolutions are fastest. The loss itself is float32.
    Raises ValueError for `compile` without a CUDA device.
    """
    device, is_bf16 = device_of(model), spec.precision == "bf16"
    if spec.compile and device.type != "cuda":
        raise ValueError(f"`train.compile` needs a CUDA device, and the model is on the {device.type}; set it to false")
    run = torch.compile(model) if spec.compile else model
    layout = torch.channels_last if is_bf16 else torch.preserve_format

    def loss(images_NCHW: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            outputs = run(images_NCHW.to(memory_format=layout) if images_NCHW.ndim == 4 else images_NCHW)
        return sum_cross_entropies(outputs, labels)

    model.to(memory_format=layout)
    try:
        yield loss
    finally:
        if is_bf16:
            model.to(memory_format=torch.contiguous_format)


def sum_cross_entropies(outputs: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Return the loss in nats of logits_NK for labels_N, or the sum over T heads for labels_NT, in float32.

    Raises ValueError, naming both sides, for another number of heads than of labels, and for a label without a logit.
    """
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    columns = labels.unbind(1) if labels.ndim == 2 else (labels,)
    if len(heads) != len(columns):
        raise ValueError(
            f"the model returns the logits of {len(heads)} heads, and the batches have labels for {len(columns)}; "
            "`model.heads` and the tasks of the data must agree"
        )
    for logits_NK, labels_N in zip(heads, columns, strict=True):
        if (highest := int(labels_N.max())) >= logits_NK.shape[1]:
            raise ValueError(f"the data has a label {highest} (from 0), the model {logits_NK.shape[1]} classes")
    losses = [F.cross_entropy(head.float(), column) for head, column in zip(heads, columns, strict=True)]
    return torch.stack(losses).sum()
