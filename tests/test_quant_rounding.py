"""AdaRound and bias correction: against brute force and independent sums; whole models on real digits."""

import copy
import itertools
import pickle

import pytest
import torch
from quant_digits import EXAMPLE, TEST, TRAIN, same_state, trained_model
from torch import Tensor, nn

from quantfair.quant import (
    PtqSpec,
    calibrate,
    collect,
    describe_layers,
    freeze,
    load_quantizer_state,
    load_weights,
    predict,
    prepare,
    quantizer_state_to_bytes,
    weights_to_bytes,
)
from quantfair.quant.layers.modules import QuantLayer, quant_layers, swap
from quantfair.quant.ptq import corrections
from quantfair.quant.ptq.adaround import Candidates, OutputError, choose_rounding
from quantfair.quant.ptq.unfold import flatten_weight, unfold_inputs, weight_of_matrix
from quantfair.quant.quantizer.fake_quantize import FakeQuantize

IMAGES = list(TRAIN.images_NCHW.split(64))
KINDS = {
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), (5, 4, 11, 9)),
    "conv2d same reflect": (nn.Conv2d(4, 6, (3, 2), padding="same", padding_mode="reflect"), (5, 4, 11, 9)),
    "conv1d": (nn.Conv1d(3, 5, 4, stride=3), (4, 3, 17)),
    "conv3d": (nn.Conv3d(2, 4, 2, groups=2), (2, 2, 5, 4, 3)),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), (3, 6, 7, 7)),
    "transposed": (
        nn.ConvTranspose2d(
            4, 6, (3, 4), stride=(2, 3), padding=(1, 0), output_padding=(1, 2), groups=2, dilation=(1, 2)
        ),
        (3, 4, 5, 6),
    ),
    "linear": (nn.Linear(5, 7), (9, 5)),
    "linear of sequences": (nn.Linear(5, 7), (3, 4, 5)),
}


def spec_of(*, bits=4, rounding="adaround", bias_correction=False, **settings) -> PtqSpec:
    chosen = {"weight_bits": bits, "act_bits": 8, "rounding": rounding, "bias_correction": bias_correction}
    return PtqSpec.model_validate({"method": "ptq", **chosen, **settings})


def corrected(spec: PtqSpec, model: nn.Module | None = None, images: list[Tensor] = IMAGES) -> nn.Module:
    prepared = prepare(model or trained_model(), spec, images[0][:2]).model
    calibrate(prepared, images)
    return prepared


def layer_of(kind: str) -> tuple[QuantLayer, Tensor, Tensor]:
    """A swapped layer, and inputs to it: float ones, and others a little off."""
    float_layer, shape = KINDS[kind]
    layer = copy.deepcopy(float_layer)
    swap(layer)
    assert isinstance(layer, QuantLayer)
    random = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=random)
    return layer, x, x + 0.1 * torch.randn(shape, generator=random)


def on_channels_last(layer: QuantLayer, output: Tensor) -> Tensor:
    return (output if isinstance(layer, nn.Linear) else output.movedim(1, -1)).flatten(0, -2)


# --- the quadratic form ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_its_rows_times_its_matrix(kind):
    layer, x, _ = layer_of(kind)
    matrix_GOI = flatten_weight(layer, layer.weight)
    output = torch.einsum("mgi,goi->mgo", unfold_inputs(layer, x), matrix_GOI).flatten(1)
    expected = on_channels_last(layer, layer.compute(x, layer.weight, None))
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(weight_of_matrix(layer, matrix_GOI), layer.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_the_quadratic_form_is_the_mean_squared_error_of_the_output(kind):
    layer, x, quantized = layer_of(kind)
    rounded = layer.weight.detach().mul(4).round() / 4
    error = OutputError(flatten_weight(layer, layer.weight.detach()))
    for part, quantized_part in zip(x.split(2), quantized.split(2), strict=True):
        error.add(unfold_inputs(layer, part), unfold_inputs(layer, quantized_part))
    found = error.of(flatten_weight(layer, rounded)).flatten()
    difference = layer.compute(x, layer.weight, None) - layer.compute(quantized, rounded, None)
    torch.testing.assert_close(found, on_channels_last(layer, difference).square().mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_positions_are_spread_evenly_and_are_some_of_all(kind):
    layer, x, _ = layer_of(kind)
    every, some = unfold_inputs(layer, x), unfold_inputs(layer, x, 4)
    assert len(some) == 4
    assert torch.equal(some, every[torch.arange(4) * len(every) // 4])


# --- the rounding of one layer ---


def example_of_rounding(
    seed: int, *, outputs: int, inputs: int, bits: int = 3, groups: int = 1
) -> tuple[Candidates, OutputError, FakeQuantize, Tensor, Tensor]:
    """Random weights, and correlated positive inputs, as after a ReLU."""
    random = torch.Generator().manual_seed(seed)
    weight_GOI = torch.randn(groups, outputs, inputs, generator=random)
    spec = prepare(nn.Linear(2, 2), spec_of(bits=bits, granularity="per_tensor"), torch.ones(1, 2)).model
    assert isinstance(spec, QuantLayer)
    quantizer = spec.weight_quantizer
    assert isinstance(quantizer, FakeQuantize)
    quantizer.set_range(0.6 * weight_GOI.min(), 0.6 * weight_GOI.max())  # some weights lie beyond the grid
    mixed = torch.randn(500, groups, 3, generator=random) @ torch.randn(3, inputs, generator=random)
    rows_MGI = (mixed + 0.5 * torch.randn(500, groups, inputs, generator=random)).relu()
    quantized_MGI = rows_MGI.mul(4).round() / 4
    candidates = Candidates(weight_GOI, *quantizer.around(weight_GOI), quantizer.quantize(weight_GOI))
    error = OutputError(weight_GOI)
    error.add(rows_MGI, quantized_MGI)
    return candidates, error, quantizer, rows_MGI, quantized_MGI


@pytest.mark.parametrize("seed", range(8))
def test_the_rounding_is_about_the_best_of_all(seed):
    candidates, error, _, rows_MGI, quantized_MGI = example_of_rounding(seed, outputs=5, inputs=9)
    rounded_GOI = choose_rounding(candidates, error)
    ups_RI = torch.tensor(list(itertools.product([False, True], repeat=9)))
    wanted_MO = rows_MGI[:, 0] @ candidates.weight_GOI[0].mT
    best, found = [], []
    for output in range(5):
        low_I, high_I = candidates.low_GOI[0, output], candidates.high_GOI[0, output]
        every_RI = torch.where(ups_RI, high_I, low_I)
        best.append((quantized_MGI[:, 0] @ every_RI.mT - wanted_MO[:, output, None]).square().mean(0).min())
        found.append((quantized_MGI[:, 0] @ rounded_GOI[0, output] - wanted_MO[:, output]).square().mean())
    assert sum(found) <= 1.1 * sum(best)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_go_up_or_down_on_the_grid_and_no_output_is_worse_than_nearest(bits, groups):
    candidates, error, quantizer, _, _ = example_of_rounding(0, outputs=4, inputs=40, bits=bits, groups=groups)
    rounded_GOI = choose_rounding(candidates, error)
    level_GOI = rounded_GOI / quantizer.scale
    exact_GOI = candidates.weight_GOI / quantizer.scale
    down_GOI, up_GOI = (
        side.clamp(quantizer.quant_min, quantizer.quant_max) for side in (exact_GOI.floor(), exact_GOI.floor() + 1)
    )
    assert torch.equal(level_GOI.round().clamp(down_GOI, up_GOI), level_GOI.round())
    assert torch.equal(quantizer.quantize(rounded_GOI), rounded_GOI)
    nearest_GO = error.of(candidates.nearest_GOI)
    assert (error.of(rounded_GOI) <= nearest_GO).all()
    assert error.of(rounded_GOI).sum() < 0.9 * nearest_GO.sum()


def test_weights_on_their_grid_stay_where_they_are():
    candidates, _, quantizer, rows_MGI, _ = example_of_rounding(0, outputs=4, inputs=20)
    weight_GOI = candidates.nearest_GOI
    error = OutputError(weight_GOI)
    error.add(rows_MGI, rows_MGI)
    on_grid = Candidates(weight_GOI, *quantizer.around(weight_GOI), quantizer.quantize(weight_GOI))
    assert torch.equal(choose_rounding(on_grid, error), weight_GOI)


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_the_candidates_are_on_the_grid_and_restored_by_their_levels(scheme, granularity):
    model = prepare(trained_model(), spec_of(scheme=scheme, granularity=granularity), EXAMPLE).model
    calibrate(model, IMAGES[:1] * 2)
    for _, layer in quant_layers(model):
        quantizer = layer.weight_quantizer
        assert isinstance(quantizer, FakeQuantize)
        for values in (*quantizer.around(layer.weight), quantizer.quantize(layer.weight)):
            assert torch.equal(quantizer.quantize(values), values)
            assert torch.equal(quantizer.from_levels(quantizer.to_levels(values)), values)
            assert quantizer.to_levels(values).amin() >= 0
            assert quantizer.to_levels(values).amax() < 16


# --- whole models ---


def squared_logit_error(spec: PtqSpec) -> float:
    model = corrected(spec)
    freeze(model)
    off = predict(model, [TEST.images_NCHW]) - predict(trained_model(), [TEST.images_NCHW])
    return float(off.square().mean())


@pytest.mark.parametrize(
    ("bits", "granularity"),
    [
        (3, "per_tensor"),
        (4, "per_channel"),
        pytest.param(3, "per_channel", marks=pytest.mark.slow),
        pytest.param(4, "per_tensor", marks=pytest.mark.slow),
    ],
)
def test_both_corrections_bring_the_logits_of_real_digits_nearer_to_the_float_ones(bits, granularity):
    common = {"bits": bits, "granularity": granularity}
    nearest = squared_logit_error(spec_of(rounding="nearest", **common))
    assert squared_logit_error(spec_of(rounding="nearest", bias_correction=True, **common)) < nearest
    assert squared_logit_error(spec_of(**common)) < 0.7 * nearest
    assert squared_logit_error(spec_of(bias_correction=True, **common)) < 0.7 * nearest


@pytest.mark.parametrize("rounding", ["nearest", "adaround"])
def test_bias_correction_gives_every_layer_its_float_mean(rounding):
    images = torch.cat(IMAGES[:4])
    model = corrected(spec_of(bits=3, rounding=rounding, bias_correction=True), images=[images])
    freeze(model)
    float_model = prepare(trained_model(), PtqSpec(method="ptq"), EXAMPLE).model  # folded alike; quantizers unset
    means: dict[str, list[Tensor]] = {name: [] for name, _ in quant_layers(model)}
    for one in (float_model, model):
        for name, layer in quant_layers(one):

            def note_mean(_layer: nn.Module, _inputs: object, output: Tensor, name: str = name) -> None:
                means[name].append(output.movedim(1, -1).flatten(0, -2).double().mean(0))

            layer.register_forward_hook(note_mean)
    for quantizer in (module for module in float_model.modules() if isinstance(module, FakeQuantize)):
        quantizer.enabled = False
    with torch.no_grad():
        float_model.eval()(images)
        model.eval()(images)
    for wanted, given in means.values():
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)


class Mixed(nn.Module):
    """A transposed, a grouped and a shared layer, without biases; a layer kept in float."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(1, 4, 2, stride=2, bias=False)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.kept = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.grouped(self.up(x, output_size=[16, 16])).relu_()).relu_()
        return self.head(self.kept(x).mean((2, 3)))


def mixed() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Mixed()


def test_grouped_transposed_and_shared_layers_are_corrected_and_float_ones_left_alone():
    model, spec = mixed(), spec_of(bits=3, bias_correction=True, overrides={"kept": {"quantize": False}})
    wanted = predict(model, IMAGES)
    errors = []
    for one in (spec.model_copy(update={"rounding": "nearest", "bias_correction": False}), spec):
        quantized = corrected(one, model)
        freeze(quantized)
        errors.append(float((predict(quantized, IMAGES) - wanted).square().mean()))
    assert errors[1] < 0.5 * errors[0]
    for name in ("up", "grouped", "head"):
        assert quantized.get_submodule(name).bias is not None
    assert torch.equal(quantized.get_parameter("kept.weight"), model.get_parameter("kept.weight"))
    assert torch.equal(quantized.get_parameter("kept.bias"), model.get_parameter("kept.bias"))


def test_equal_images_give_equal_bits_and_the_random_state_is_left_alone():
    state = torch.get_rng_state()
    spec = spec_of(bias_correction=True)
    first, second = corrected(spec), corrected(spec)
    assert same_state(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    third = prepare(trained_model(), spec, EXAMPLE).model
    calibrate(third, iter(IMAGES), calibration=collect(third, IMAGES))
    assert same_state(first, third)


# --- life cycle ---

BOTH_AND_EACH = [
    spec_of(bias_correction=True),
    spec_of(scheme="asymmetric", granularity="per_tensor", bits=8),
    spec_of(bits=10),
    spec_of(rounding="nearest", bias_correction=True),
]


@pytest.mark.parametrize("spec", BOTH_AND_EACH, ids=str)
@pytest.mark.parametrize("make", [trained_model, mixed])
def test_the_quantizer_state_restores_a_corrected_model_bit_for_bit(spec, make):
    model = corrected(spec, make())
    freeze(model)
    data = quantizer_state_to_bytes(model)
    restored = prepare(make(), spec, EXAMPLE).model
    load_quantizer_state(restored, data)
    freeze(restored)
    assert torch.equal(predict(restored, IMAGES), predict(model, IMAGES))
    if spec.weight_bits <= 8 and make is trained_model:
        assert len(data) < 0.6 * len(weights_to_bytes(model))
    uncorrected = prepare(make(), PtqSpec(method="ptq"), EXAMPLE).model
    with pytest.raises(ValueError, match=r"'\S+(levels|bias)' is only on one side"):
        load_quantizer_state(uncorrected, data)


@pytest.mark.parametrize("spec", BOTH_AND_EACH, ids=str)
def test_a_corrected_model_is_saved_loaded_pickled_and_copied(spec):
    model = corrected(spec, mixed())
    loaded = prepare(mixed(), spec, EXAMPLE).model
    load_weights(loaded, weights_to_bytes(model))
    for one in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        freeze(one)
        assert torch.equal(predict(one, IMAGES), predict(model, IMAGES))


def test_a_bias_of_zeros_changes_nothing_before_the_correction():
    spec = spec_of(rounding="nearest", bias_correction=True)
    added = prepare(mixed(), spec, EXAMPLE).model
    for module in added.modules():
        if isinstance(module, FakeQuantize):
            module.enabled = False
    assert torch.equal(added(EXAMPLE), mixed()(EXAMPLE))


def test_what_cannot_be_corrected_is_refused_with_a_remedy():
    spec = spec_of()
    model = prepare(trained_model(), spec, EXAMPLE).model
    with pytest.raises(ValueError, match="read `batches` twice: give a list, or `calibration` too"):
        calibrate(model, iter(IMAGES))
    with pytest.raises(ValueError, match=r"need images: calibrate\(model, batches, calibration=...\)"):
        calibrate(model, collect(trained_model(), IMAGES))
    calibrate(model, IMAGES)
    with pytest.raises(ValueError, match="frozen; calibrate it before `freeze`, and once if it is corrected"):
        calibrate(model, IMAGES)


def test_a_layer_with_too_many_inputs_keeps_nearest_and_says_so(monkeypatch):
    monkeypatch.setattr(corrections, "MOST_INPUTS", 200)
    model = corrected(spec_of())
    nearest = corrected(spec_of(rounding="nearest"))
    freeze(nearest)
    notes = {report.layer: report.reason for report in describe_layers(model)}
    note = "rounded to nearest: adaround takes up to 200 inputs, and this has 288"
    assert notes == {**dict.fromkeys(notes), "features.block3.conv": note}
    for name, same in (("features.block3.conv", True), ("features.block2.conv", False)):
        weight = f"{name}.weight"
        assert torch.equal(model.get_parameter(weight), nearest.get_parameter(weight)) == same
