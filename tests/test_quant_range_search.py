"""Searched ranges against brute force over the same candidates, written in numpy, and scipy's entropy."""

import numpy as np
import pytest
import scipy.stats
import torch

from quantfair.quant import PtqSpec, QatSpec
from quantfair.quant.quantizer.observers import ActivationStats, activation_range, weight_range
from quantfair.quant.quantizer.qparams import QuantizerSpec, choose_qparams
from quantfair.quant.quantizer.range_search import N_CANDIDATES, _without_zeros

GRIDS = ["signed", "unsigned", "asymmetric"]


def spec_of(observer: str, bits: int, *, grid="signed", role="activation", axis=None) -> QuantizerSpec:
    symmetric = grid != "asymmetric"
    fields = {"observer": observer, "percentile": 0.9999, "may_be_unsigned": grid == "unsigned"}
    return QuantizerSpec(role, bits, symmetric, **fields, axis=axis)  # pyright: ignore[reportArgumentType]


def heavy_tailed(grid: str, n: int = 20_000, seed: int = 0) -> torch.Tensor:
    """Values of which a good 4-bit grid cuts some off, of the sign that the grid is for."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed)) ** 3
    return {"signed": x, "unsigned": x.relu(), "asymmetric": torch.where(x < 0, x / 5, x)}[grid]


def see(x: torch.Tensor) -> ActivationStats:
    seen = ActivationStats()
    seen.add(x, 0, float(x.min()), float(x.max()))
    return seen


def activation_search(x: torch.Tensor, spec: QuantizerSpec, grid: str) -> tuple[float, float]:
    low, high = activation_range(see(x), spec, unsigned=grid == "unsigned")
    return float(low), float(high)


def bounds_of(bits: int, grid: str, role: str = "activation") -> tuple[int, int]:
    if grid != "signed":
        return 0, 2**bits - 1
    highest = 2 ** (bits - 1) - 1
    return -highest - (role == "activation"), highest


def quantize(x: np.ndarray, low: float, high: float, bounds: tuple[int, int], grid: str) -> np.ndarray:
    """Numpy, float64: the textbook formulas."""
    quant_min, quant_max = bounds
    if grid == "asymmetric":
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (quant_max - quant_min)
        zero_point = np.clip(np.rint(quant_min - low / scale), quant_min, quant_max)
    else:
        scale, zero_point = (high if grid == "unsigned" else max(-low, high)) / quant_max, 0
    return (np.clip(np.rint(x / scale) + zero_point, quant_min, quant_max) - zero_point) * scale


def squared_errors(x: np.ndarray, bounds: tuple[int, int], grid: str) -> np.ndarray:
    """Of the candidates 1/64 ... 64/64 of the range of `x`."""
    low, high = x.min(), x.max()
    shares = np.arange(1, N_CANDIDATES + 1) / N_CANDIDATES
    return np.array([((quantize(x, low * s, high * s, bounds, grid) - x) ** 2).sum() for s in shares])


@pytest.mark.parametrize("bits", [2, 4, 6, 8, 10])
@pytest.mark.parametrize("grid", GRIDS)
def test_mse_is_as_good_as_brute_force_on_the_raw_values(grid, bits):
    x = heavy_tailed(grid)
    low, high = activation_search(x, spec_of("mse", bits, grid=grid), grid)
    raw, bounds = x.double().numpy(), bounds_of(bits, grid)
    share = high / raw.max()
    assert share * N_CANDIDATES == pytest.approx(round(share * N_CANDIDATES), abs=1e-4), "one of the candidates"
    assert low == pytest.approx(share * raw.min(), rel=1e-5)
    errors = squared_errors(raw, bounds, grid)
    # A value stands for its bin, whose half width is an error of its own, once in x and once in its level.
    slack = 2 * see(x).histogram.width * np.sqrt(len(raw) * errors.min()) + len(raw) * see(x).histogram.width ** 2
    assert errors[round(share * N_CANDIDATES) - 1] <= errors.min() + slack
    assert slack < errors.max() - errors.min(), "the slack must not excuse every candidate"
    if bits <= 4:
        assert share < 0.9, "the tail is worth cutting off"


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 10])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("grid", ["signed", "asymmetric"])
def test_mse_of_a_weight_is_brute_force_for_each_channel(grid, axis, bits):
    weight_OIHW = heavy_tailed(grid, 6 * 8 * 9).reshape(6, 8, 3, 3) * torch.arange(1, 7).reshape(6, 1, 1, 1)
    low, high = weight_range(weight_OIHW, spec_of("mse", bits, grid=grid, role="weight", axis=axis))
    rows = [weight_OIHW] if axis is None else list(weight_OIHW.unbind(axis))
    assert high.numel() == len(rows)
    bounds = bounds_of(bits, grid, "weight")
    for row, one_low, one_high in zip(rows, low.flatten().tolist(), high.flatten().tolist(), strict=True):
        raw = row.flatten().double().numpy()
        best = squared_errors(raw, bounds, grid).min()
        error = ((quantize(raw, one_low, one_high, bounds, grid) - raw) ** 2).sum()
        assert error <= best * (1 + 1e-4)  # the search sums in float32


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("grid", ["signed", "asymmetric"])
@pytest.mark.parametrize("axis", [None, 0])
def test_mse_is_never_worse_than_minmax_in_squared_error(axis, grid, bits):
    for seed in range(10):
        weight_OI = heavy_tailed(grid, 40, seed).reshape(4, 10)
        errors = {}
        for observer in ("mse", "minmax"):
            spec = spec_of(observer, bits, grid=grid, role="weight", axis=axis)
            low, high = weight_range(weight_OI, spec)
            quant_min, quant_max = bounds_of(bits, grid, "weight")
            scale, zero_point = choose_qparams(
                low, high, quant_min=quant_min, quant_max=quant_max, symmetric=spec.symmetric
            )
            levels = ((weight_OI / scale).round() + zero_point).clamp(quant_min, quant_max)
            squares = ((levels - zero_point) * scale - weight_OI).square()
            errors[observer] = squares.sum() if axis is None else squares.sum(1)
        assert (errors["mse"] <= errors["minmax"] * 1.00001).all()


def test_one_channel_and_a_channel_axis_of_one_are_searched_alike():
    weight_OI = heavy_tailed("signed", 40).reshape(1, 40)
    per_tensor = weight_range(weight_OI, spec_of("mse", 3, role="weight"))
    per_channel = weight_range(weight_OI, spec_of("mse", 3, role="weight", axis=0))
    assert per_channel[1].shape == (1, 1)
    assert per_channel[1].item() == per_tensor[1].item()


def kl_by_scipy(seen: ActivationStats, high: float, bits: int) -> list[float]:
    """The divergence of every candidate for positive values on an unsigned grid, bin by bin."""
    counts = seen.histogram.counts.double().numpy()
    edges = (np.arange(len(counts)) - len(counts) // 2) * seen.histogram.width
    filled = counts > 0
    centers, counts = edges[filled] + seen.histogram.width / 2, counts[filled]
    counts[0] = min(counts[0], counts[1])  # the bin of 0
    found = []
    for share in np.arange(1, N_CANDIDATES + 1) / N_CANDIDATES:
        scale = high * share / (2**bits - 1)
        level = np.rint(centers / scale)
        inside = level <= 2**bits - 1
        p = counts[inside].copy()
        p[-1] += counts[~inside].sum()
        q = np.zeros_like(p)
        for one in np.unique(level[inside]):
            of_level = level[inside] == one
            q[of_level] = counts[inside][of_level].mean()
        # scipy normalizes q; the engine's q lacks the mass that is cut off
        found.append(scipy.stats.entropy(p, q) + np.log(p.sum() / q.sum()))
    return found


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_kl_takes_the_candidate_of_the_least_entropy_by_scipy(bits):
    x = torch.randn(5000, generator=torch.Generator().manual_seed(bits)).abs()
    x[:40] = 0  # a spike, as a ReLU leaves it
    _, high = activation_search(x, spec_of("kl", bits, grid="unsigned"), "unsigned")
    divergences = kl_by_scipy(see(x), float(x.max()), bits)
    share = high / float(x.max())
    assert divergences[round(share * N_CANDIDATES) - 1] == pytest.approx(min(divergences), rel=1e-6)
    assert max(divergences) > 2 * min(divergences)


@pytest.mark.parametrize("grid", GRIDS)
def test_kl_of_gaussian_data_cuts_off_at_4_bits_and_hardly_at_8(grid):
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    x = x.abs() if grid == "unsigned" else x
    shares = {
        bits: activation_search(x, spec_of("kl", bits, grid=grid), grid)[1] / float(x.max()) for bits in (4, 6, 8)
    }
    assert shares[4] < 0.85
    assert shares[8] > 0.8
    assert shares[4] < shares[6] - 0.03


@pytest.mark.parametrize("observer", ["mse", "kl"])
def test_the_spike_of_a_relu_moves_kl_little_and_the_range_stays_inside_the_data(observer):
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    plain = activation_search(x.abs(), spec_of(observer, 4, grid="unsigned"), "unsigned")[1]
    spiky = activation_search(torch.cat([x.abs(), torch.zeros(200_000)]), spec_of(observer, 4), "unsigned")[1]
    assert spiky == pytest.approx(plain, rel=0.1)
    assert 0 < spiky < x.abs().max()


@pytest.mark.parametrize("observer", ["mse", "kl"])
def test_data_far_from_zero_keeps_its_whole_range(observer):
    x = 5 + torch.rand(3000, generator=torch.Generator().manual_seed(0)) / 10
    _, high = activation_search(x, spec_of(observer, 8, grid="unsigned"), "unsigned")
    assert high > 5


def test_only_the_bin_of_zero_is_reduced_for_kl():
    centers, counts = torch.tensor([-1.5, -0.5, 0.5, 1.5]), torch.tensor([1.0, 7, 9, 2])
    assert _without_zeros(centers, counts, 1.0).tolist() == [1, 7, 2, 2]
    assert _without_zeros(centers + 3, counts, 1.0).tolist() == [1, 7, 9, 2], "its first bin is not that of 0"
    assert _without_zeros(centers[:3], counts[:3], 1.0).tolist() == [1, 7, 9], "nothing follows"
    assert counts.tolist() == [1, 7, 9, 2]


@pytest.mark.parametrize("observer", ["mse", "kl"])
@pytest.mark.parametrize(("bits", "expected"), [(10, "searched"), (11, "minmax"), (16, "minmax")])
def test_above_10_bits_the_range_is_minmax(observer, bits, expected):
    settings = PtqSpec(method="ptq", act_bits=bits, weight_bits=bits, act_observer=observer)
    assert QuantizerSpec.of_activation(settings).observer == (observer if expected == "searched" else "minmax")
    weights = PtqSpec(method="ptq", weight_bits=bits, weight_observer="mse")
    assert QuantizerSpec.of_weight(weights, 0).observer == ("mse" if expected == "searched" else "minmax")


def test_each_half_of_a_spec_is_normalized_by_its_own_bits():
    spec = PtqSpec(method="ptq", weight_bits=12, act_bits=8, weight_observer="mse", act_observer="kl").normalized()
    assert (spec.weight_observer, spec.act_observer) == ("minmax", "kl")
    spec = PtqSpec(method="ptq", weight_bits=8, act_bits=12, weight_observer="mse", act_observer="kl").normalized()
    assert (spec.weight_observer, spec.act_observer) == ("mse", "minmax")
    mixed = PtqSpec(method="ptq", weight_bits=12, act_bits=12, act_observer="kl", first_last_bits=8)
    assert mixed.normalized().act_observer == "kl", "two layers are searched"


def test_a_learned_scale_of_few_bits_starts_by_mse_whatever_is_asked():
    for bits, expected in ((2, "mse"), (4, "mse"), (5, "percentile"), (8, "percentile")):
        spec = QatSpec(
            method="qat", epochs=1, lr=0.1, scales="learned", weight_bits=bits, act_bits=bits,
            weight_observer="percentile", act_observer="percentile",
        )  # fmt: skip
        assert QuantizerSpec.of_weight(spec, 0).observer == QuantizerSpec.of_activation(spec).observer == expected
