"""How steep and how curved the loss of some images is at a float model's weights: gradient norm, Hessian trace and
largest eigenvalue, of the mean cross entropy over all trainable parameters.

A small change of the weights by dw changes a group's loss by g dw + dw H dw / 2, so groups with larger ones should lose
more; whether they do is for the tables to say. Source: Tran et al., Pruning has a disparate impact on model accuracy,
NeurIPS 2022, section 4. Batch norm keeps its running statistics, so that images do not depend on each other. The loss
is computed in float64: where the network is sure of an image, float32 would round 1 - p away.

Cost: a product of the Hessian with a vector takes about three gradients (3.1 to 4.6 on one CPU core, torch 2.14, 16
images of 32 x 32: 0.04 s small_cnn, 1 s nin, 3 s resnet18), and there are N_PROBES for the trace and about 10 for the
eigenvalue: as much as 80 training epochs of the same images. Memory: one batch's activations, twice, and about ten
times the parameters (resnet18: 2.0 GB at a batch of 16).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quantfair.quant.layers.modes import device_of, evaluating

N_PROBES: Final = 16
MOST_STEPS: Final = 100  # products after which the search for the eigenvalue gives up
TOLERANCE: Final = 0.01  # residual of the eigenvalue, as a share of it
RESOLUTION: Final = 2.0**-52  # of float64: what 1 - p can differ by

LabelledBatches = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # one pass over (images_NCHW, labels_N)


class Curvature(NamedTuple):
    """Of the mean loss in nats of `n_images`. `trace_error` is the standard error of the trace over the probes.

    `lambda_max` is nan where it was not found within MOST_STEPS.
    """

    n_images: int
    grad_norm: float
    hessian_trace: float
    trace_error: float
    lambda_max: float


def measure_curvature(model: nn.Module, batches: LabelledBatches, *, seed: int = 0) -> Curvature:
    """Measure a float model in eval mode. Leaves it, and its gradients, as they were.

    The trace is Hutchinson's (Communications in Statistics 19 (1990) 433): the mean of v H v over N_PROBES vectors of
    random signs, which are the same for every set of images. The eigenvalue is the algebraically largest.

    Raises ValueError where there is no image.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    size = sum(parameter.numel() for parameter in parameters)
    n_images, total, traces = 0, torch.zeros(size, device=device_of(model)), np.zeros(N_PROBES)
    with evaluating(model):
        for gradient, n in _differentiate(model, parameters, batches):
            total += gradient.detach()
            n_images += n
            products = (_dot(signs, _multiply(gradient, parameters, signs)) for signs in _draw_signs(total, seed))
            traces += np.fromiter(products, np.float64, N_PROBES)
        if not n_images:
            raise ValueError("`batches` holds no image; a group without images has no loss")

        def multiply(vector: Tensor) -> Tensor:
            parts = (_multiply(g, parameters, vector) for g, _ in _differentiate(model, parameters, batches))
            return sum(parts, torch.zeros_like(vector)) / n_images

        lambda_max = _find_largest(multiply, next(_draw_signs(total, seed)))
    traces /= n_images
    grad_norm = float(total.double().norm()) / n_images
    return Curvature(
        n_images, grad_norm, float(traces.mean()), float(traces.std(ddof=1) / np.sqrt(N_PROBES)), lambda_max
    )


def _differentiate(
    model: nn.Module, parameters: list[nn.Parameter], batches: LabelledBatches
) -> Iterator[tuple[Tensor, int]]:
    """Yield the gradient of each batch's summed loss, which can be differentiated again, and its number of images."""
    for images_NCHW, labels_N in batches():
        outputs = model(images_NCHW.to(device_of(model)))
        logits_NK = outputs[0] if isinstance(outputs, tuple) else outputs
        loss = cross_entropy(logits_NK.double(), labels_N.to(logits_NK.device), reduction="sum")
        yield _flatten(torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)), len(labels_N)


def _multiply(gradient: Tensor, parameters: list[nn.Parameter], vector: Tensor) -> Tensor:
    """Return the Hessian times a vector (Pearlmutter, Neural Computation 6 (1994) 147)."""
    return _flatten(torch.autograd.grad(gradient @ vector, parameters, retain_graph=True, materialize_grads=True))


def _flatten(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def _draw_signs(like: Tensor, seed: int) -> Iterator[Tensor]:
    """Yield the probes. They are drawn on the CPU, so that every device has the same, and again for every batch."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(N_PROBES):
        yield (torch.randint(0, 2, (len(like),), generator=generator) * 2.0 - 1).to(like.device)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double())


def _find_largest(multiply: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """Return the largest eigenvalue by Lanczos iterations; nan after MOST_STEPS.

    Nothing is orthogonalized again: rounding then finds eigenvalues more than once, which does not move the largest.
    Source: Parlett, The Symmetric Eigenvalue Problem (1998), sections 13.2 (residual) and 13.6 (rounding).
    """
    vector, previous, beta = start / start.norm(), torch.zeros_like(start), 0.0
    alphas, betas = [], []
    for _ in range(MOST_STEPS):
        product = multiply(vector) - beta * previous
        alphas.append(_dot(product, vector))
        product -= alphas[-1] * vector
        beta = float(product.double().norm())
        values, vectors = eigh_tridiagonal(alphas, betas)
        if beta * abs(vectors[-1, -1]) <= TOLERANCE * abs(values[-1]) + RESOLUTION:
            return float(values[-1])
        betas.append(beta)
        previous, vector = vector, product / beta
    return float("nan")
