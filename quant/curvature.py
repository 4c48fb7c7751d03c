"""How steep and how curved the loss of some images is at a float model's weights: gradient norm, Hessian trace and
largest eigenvalue, of the mean cross entropy over all trainable parameters.

A small change of the weights by dw changes a group's loss by g dw + dw H dw / 2, so groups with larger ones should lose
more; whether they do is for the tables to say. Source: Tran et al., Pruning has a disparate impact on model accuracy,
NeurIPS 2022, section 4. Batch norm keeps its running statistics, so that images do not depend on each other.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quant.states import device_of, evaluating

N_PROBES: Final = 16
_ARPACK: Final[dict[str, Any]] = {"tol": 1e-2, "return_eigenvectors": False}  # relative to the eigenvalue

LabelledBatches = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # one pass over (images_NCHW, labels_N)


class Curvature(NamedTuple):
    """Of the mean loss in nats of `n_images`. `trace_error` is the standard error of the trace over the probes."""

    n_images: int
    grad_norm: float
    hessian_trace: float
    trace_error: float
    lambda_max: float


def measure_curvature(model: nn.Module, batches: LabelledBatches, *, seed: int = 0) -> Curvature:
    """Measure a float model in eval mode. Leaves it, and its gradients, as they were.

    The trace is Hutchinson's (Communications in Statistics 19 (1990) 433): the mean of v H v over N_PROBES vectors of
    random signs. The eigenvalue is the algebraically largest, by ARPACK's Lanczos iterations. Both need products of the
    Hessian with vectors, each of which costs about four evaluations of the images: some 40 of them in all.

    Raises ValueError where there is no image.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluating(model):
        n_images, gradient = _differentiate(model, parameters, batches, ())
        generator = torch.Generator().manual_seed(seed)
        size = sum(parameter.numel() for parameter in parameters)
        signs = [torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1 for _ in range(N_PROBES)]
        _, products = _differentiate(model, parameters, batches, signs)
        traces = np.array([float(v.double() @ hv.double()) for v, hv in zip(signs, products, strict=True)])

        def multiply(vector: np.ndarray) -> np.ndarray:
            direction = torch.from_numpy(np.asarray(vector, dtype=np.float32).ravel())
            return _differentiate(model, parameters, batches, (direction,))[1][0].numpy()

        hessian = LinearOperator((size, size), matvec=multiply, dtype=np.float32)  # pyright: ignore[reportCallIssue]
        largest = eigsh(hessian, 1, which="LA", v0=signs[0].numpy(), **_ARPACK)
    return Curvature(
        n_images,
        float(gradient[0].norm()),
        float(traces.mean()),
        float(traces.std(ddof=1) / np.sqrt(N_PROBES)),
        float(largest[0]),
    )


def _differentiate(
    model: nn.Module, parameters: list[nn.Parameter], batches: LabelledBatches, vectors: Iterable[Tensor]
) -> tuple[int, list[Tensor]]:
    """Return the number of images, and the mean gradient, or, with `vectors`, the product of the Hessian with each."""
    vectors, totals, n_images = list(vectors), [], 0
    for images_NCHW, labels_N in batches():
        outputs = model(images_NCHW.to(device_of(model)))
        logits_NK = outputs[0] if isinstance(outputs, tuple) else outputs
        loss = cross_entropy(logits_NK.float(), labels_N.to(logits_NK.device), reduction="sum")
        gradient = _flatten(torch.autograd.grad(loss, parameters, create_graph=bool(vectors), materialize_grads=True))
        found = [gradient] if not vectors else [_multiply(gradient, parameters, vector) for vector in vectors]
        totals = [new.detach().cpu() + old for new, old in zip(found, totals or [0] * len(found), strict=True)]
        n_images += len(labels_N)
    if not n_images:
        raise ValueError("`batches` holds no image; a group without images has no loss")
    return n_images, [total / n_images for total in totals]


def _multiply(gradient: Tensor, parameters: list[nn.Parameter], vector: Tensor) -> Tensor:
    product = gradient @ vector.to(gradient.device)
    return _flatten(torch.autograd.grad(product, parameters, retain_graph=True, materialize_grads=True))


def _flatten(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])
