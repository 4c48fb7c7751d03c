"""Gradient, trace and eigenvalue against the whole Hessian of small networks."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from quantfair.quant import ModelSpec, build_model, measure_curvature
from quantfair.quant.analysis import curvature
from quantfair.quant.analysis.curvature import N_PROBES


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


def be_sure(model: nn.Module, *, margin: float) -> None:
    with torch.no_grad():
        model.get_parameter("4.bias").copy_(torch.tensor([margin, 0, 0]))


@pytest.mark.parametrize("margin", [5.0, 15.0, 25.0])
def test_a_network_that_is_sure_of_its_images_has_the_small_eigenvalue_of_the_whole_hessian(margin: float) -> None:
    model, images, _ = make_case()
    be_sure(model, margin=margin)
    labels = torch.zeros(40, dtype=torch.long)
    found = measure_curvature(model, lambda: [(images, labels)])
    gradient, hessian = find_hessian(model, images, labels)
    assert found.grad_norm == pytest.approx(float(np.linalg.norm(gradient)), rel=1e-3)
    assert found.lambda_max == pytest.approx(float(np.linalg.eigvalsh(hessian)[-1]), rel=0.02)


def test_a_loss_that_is_flat_has_no_curvature() -> None:
    model, images, _ = make_case()
    be_sure(model, margin=1e4)
    found = measure_curvature(model, lambda: [(images, torch.zeros(40, dtype=torch.long))])
    assert found == (40, 0, 0, 0, 0)


def test_an_eigenvalue_that_is_not_found_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "MOST_STEPS", 2)
    model, images, labels = make_case()
    found = measure_curvature(model, lambda: [(images, labels)])
    assert np.isnan(found.lambda_max)
    assert found.hessian_trace != 0


def test_the_trace_of_a_network_with_relu_is_that_of_its_fisher_information() -> None:
    """It is linear in each weight, piece by piece: the trace is the mean of |d log p(y)|^2 over images and y of p."""
    model = build_model(ModelSpec(name="small_cnn"), in_channels=1, n_classes=3, task="digit", heads={}, seed=0)
    torch.manual_seed(0)
    labels_N = torch.arange(24) % 3
    images, parameters = torch.randn(3, 1, 8, 8)[labels_N] + torch.randn(24, 1, 8, 8), list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.003)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels_N).backward()
        optimizer.step()
    found = [measure_curvature(model, lambda: [(images, labels_N)], seed=seed) for seed in range(2)]
    model.eval()
    fisher = 0.0
    for image_CHW in images:
        log_p_K = model(image_CHW[None]).double().log_softmax(1)[0]
        for log_p in log_p_K:
            gradient = torch.autograd.grad(log_p, parameters, retain_graph=True, materialize_grads=True)
            fisher += float(log_p.exp().detach() * sum(g.square().sum() for g in gradient)) / len(images)
    error = np.sqrt(np.mean([run.trace_error**2 for run in found]) / len(found))
    assert abs(np.mean([run.hessian_trace for run in found]) - fisher) < 3 * error
    assert error < 0.2 * fisher


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
