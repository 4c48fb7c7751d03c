"""Gradient, trace and eigenvalue against the whole Hessian of small networks."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from quant import measure_curvature
from quant.curvature import N_PROBES


def make_case(seed: int = 0) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    model(torch.randn(64, 2, 2, 2))  # running statistics
    return model, torch.randn(40, 2, 2, 2), torch.randint(0, 3, (40,))


def find_hessian(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    model = model.eval().double()
    parameters = dict(model.named_parameters())
    shapes = {name: p.shape for name, p in parameters.items()}
    flat = torch.cat([p.detach().reshape(-1) for p in parameters.values()])

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([s.numel() for s in shapes.values()])
        named = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, named, (images.double(),)), labels)

    gradient, hessian = torch.autograd.functional.jacobian(loss, flat), torch.autograd.functional.hessian(loss, flat)
    assert isinstance(gradient, torch.Tensor)
    assert isinstance(hessian, torch.Tensor)
    return gradient.numpy(), hessian.numpy()


@pytest.mark.parametrize("batch_size", [7, 40])
def test_they_are_those_of_the_whole_hessian(batch_size: int) -> None:
    model, images, labels = make_case()
    found = measure_curvature(model, lambda: zip(images.split(batch_size), labels.split(batch_size), strict=True))
    gradient, hessian = find_hessian(model, images, labels)
    assert found.n_images == 40
    assert found.grad_norm == pytest.approx(float(np.linalg.norm(gradient)), rel=1e-4)
    assert found.lambda_max == pytest.approx(float(np.linalg.eigvalsh(hessian)[-1]), rel=0.02)
    assert abs(found.hessian_trace - np.trace(hessian)) < 3 * found.trace_error


def test_the_standard_error_is_that_of_hutchinsons_estimate() -> None:
    model, images, labels = make_case(1)
    runs = [measure_curvature(model, lambda: [(images, labels)], seed=seed) for seed in range(40)]
    _, hessian = find_hessian(model, images, labels)
    off_diagonal = hessian - np.diag(np.diag(hessian))
    expected = np.sqrt(2 * (off_diagonal**2).sum() / N_PROBES)  # the variance for random signs
    assert np.mean([run.trace_error for run in runs]) == pytest.approx(expected, rel=0.15)
    assert np.mean([run.hessian_trace for run in runs]) == pytest.approx(np.trace(hessian), abs=3 * expected / 40**0.5)


def test_the_model_stays_as_it_was_and_runs_repeat_to_the_bit() -> None:
    model, images, labels = make_case(2)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (measure_curvature(model, lambda: [(images, labels)]) for _ in range(2))
    assert first == second
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_group_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="`batches` holds no image; a group without images has no loss"):
        measure_curvature(make_case()[0], list)
