"""The life of a model under the new settings: freezing by epoch, resuming bit for bit, copies, the caller's model."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from quant_digits import EXAMPLE, TEST, TRAIN, VAL, same_state, trained_model
from torch import Tensor, nn

from quantfair.quant import (
    Add,
    Concat,
    PtqSpec,
    QatSpec,
    TrainSpec,
    calibrate,
    describe_layers,
    fit,
    freeze,
    predict,
    prepare,
)
from quantfair.quant.layers.modules import QuantLayer, quant_layers, quantizers
from quantfair.quant.quantizer.fake_quantize import FakeQuantize
from quantfair.quant.training.optimizer import make_optimizer, set_learning_rate

KINDS: dict[str, dict[str, Any]] = {
    "follow": {},
    "ema": {"act_observer": "ema", "weight_observer": "ema"},
    "learned": {"scales": "learned", "weight_bits": 4},
    "fold": {"bn_fold": "fold", "granularity": "per_tensor"},
    "fold per channel": {"bn_fold": "fold"},
    "fold_calibrated": {"bn_fold": "fold_calibrated", "granularity": "per_tensor"},
    "learned folded": {"bn_fold": "fold", "scales": "learned", "weight_bits": 4},
    "observers frozen": {"freeze_observers_after": 1},
    "fixed": {"freeze_observers_after": 0, "act_observer": "kl", "bn_fold": "fold"},
}
OPTIMIZERS = ["adam", "sgd"]


def qat(**settings) -> QatSpec:
    return QatSpec.model_validate({"method": "qat", "epochs": 2, "lr": 0.003, "act_observer": "minmax", **settings})


def images_of(batches):
    return (images_NCHW for images_NCHW, _ in batches.epoch(None))


def calibrated(spec, model: nn.Module | None = None) -> nn.Module:
    prepared = prepare(model or trained_model(), spec, EXAMPLE).model
    calibrate(prepared, images_of(TRAIN))
    return prepared


def train(model: nn.Module, spec: QatSpec, **changes) -> None:
    base = TrainSpec.model_validate({"epochs": 1, "lr": 0.1, **changes})
    fit(model, base.with_recipe(spec), train=TRAIN, val=VAL, seed=0, log=lambda _: None)


def logits_of(model: nn.Module) -> Tensor:
    return predict(model, images_of(TEST))


# --- observers frozen after an epoch ---


@pytest.mark.parametrize("observer", ["minmax", "ema"])
@pytest.mark.parametrize(("after", "moves"), [(0, [False] * 3), (1, [True, False, False]), (None, [True] * 3)])
def test_ranges_of_activations_and_weights_move_until_their_epoch(after, moves, observer):
    spec = qat(freeze_observers_after=after, act_observer=observer, weight_observer=observer, epochs=3, lr=0.02)
    model = calibrated(spec)
    history = [grids_of(model)]

    def remember(_line: str) -> None:
        history.append(grids_of(model))

    fit(model, TrainSpec(epochs=1, lr=0.1).with_recipe(spec), train=TRAIN, val=VAL, seed=0, log=remember)
    for epoch, expected in enumerate(moves):
        for role in ("activation", "weight"):
            before, now = history[epoch][role], history[epoch + 1][role]
            moved = [not torch.equal(one, other) for one, other in zip(before, now, strict=True)]
            if expected and observer == "minmax" and role == "activation":
                continue  # a range that only grows may have reached its end
            assert any(moved) == expected, (epoch, role)
    assert any(
        not torch.equal(*pair) for pair in zip(history[0]["activation"], history[3]["activation"], strict=True)
    ) == (after != 0)
    assert {quantizer.mode for quantizer in quantizers(model)} == {"follow" if after is None else "fixed"}


def grids_of(model: nn.Module) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {"activation": [], "weight": []}
    for quantizer in quantizers(model):
        found[quantizer.spec.role].append(quantizer.scale.detach().clone())
    return found


def test_after_the_epoch_the_grid_of_the_weights_is_that_of_its_end():
    one, two = (
        qat(freeze_observers_after=1, epochs=1, schedule="constant"),
        qat(freeze_observers_after=1, epochs=2, schedule="constant"),
    )
    short, long = calibrated(one), calibrated(two)
    train(short, one)
    train(long, two)
    for first, second in zip(grids_of(short)["weight"], grids_of(long)["weight"], strict=True):
        assert torch.equal(first, second)
    for _, layer in quant_layers(short):
        assert isinstance(layer.weight_quantizer, FakeQuantize)
        peak = layer.weight.detach().flatten(1).abs().amax(1)
        torch.testing.assert_close(layer.weight_quantizer.scale.flatten(), peak / 127, rtol=1e-6, atol=0)


@pytest.mark.parametrize("observer", ["percentile", "mse", "kl"])
def test_observers_that_cannot_follow_train_with_their_ranges_from_calibration(observer):
    spec = qat(freeze_observers_after=0, act_observer=observer, weight_bits=4, act_bits=4, epochs=1)
    model = calibrated(spec)
    before = grids_of(model)["activation"]
    train(model, spec)
    assert all(torch.equal(*pair) for pair in zip(before, grids_of(model)["activation"], strict=True))
    assert (logits_of(model).argmax(1) == TEST.labels_N).double().mean() > 0.9


@pytest.mark.parametrize(
    ("field", "observer"), [("act_observer", "percentile"), ("act_observer", "mse"), ("weight_observer", "mse")]
)
def test_an_observer_that_cannot_follow_is_refused_with_the_remedies(field, observer):
    remedy = "set freeze_observers_after = 0 or scales = 'learned'"
    with pytest.raises(ValueError, match=rf"is '{observer}', which needs a whole pass over fixed weights: {remedy}"):
        qat(**{field: observer})
    assert qat(**{field: observer, "scales": "learned"})
    assert qat(**{field: observer, "freeze_observers_after": 0})


# --- resuming ---


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int, spec: TrainSpec) -> None:
    """A manual loop. After the first two steps observers are frozen where the spec says after epoch 1."""
    model.train()
    batches = list(TRAIN.epoch(None))
    for at in range(first, last):
        for quantizer in quantizers(model):
            if at >= 2 and quantizer.spec.follows_until == 1:
                quantizer.mode = "fixed"
        images_NCHW, labels_N = batches[at]
        set_learning_rate(optimizer, spec.lr)
        optimizer.zero_grad()
        F.cross_entropy(model(images_NCHW), labels_N).backward()
        optimizer.step()


def through_a_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_saving_loading_and_going_on_equals_an_uninterrupted_run_bit_for_bit(kind, name):
    spec = qat(**KINDS[kind])
    how = TrainSpec(epochs=1, lr=0.003, optimizer=name, weight_decay=0.01)
    whole = calibrated(spec)
    optimizer = make_optimizer(whole, how)
    steps(whole, optimizer, 0, 4, how)
    saved = through_a_file({"model": whole.state_dict(), "optimizer": optimizer.state_dict()})
    steps(whole, optimizer, 4, 8, how)

    resumed = prepare(trained_model(), spec, EXAMPLE).model
    resumed.load_state_dict(saved["model"])
    again = make_optimizer(resumed, how)
    again.load_state_dict(saved["optimizer"])
    assert not same_state(resumed, whole)
    steps(resumed, again, 4, 8, how)
    assert same_state(resumed, whole)
    assert [q.mode for q in quantizers(resumed)] == [q.mode for q in quantizers(whole)]
    for model in (whole, resumed):
        freeze(model)
    assert torch.equal(logits_of(whole), logits_of(resumed))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_survives_pickling_and_copying_at_every_age(kind):
    spec = qat(**KINDS[kind])
    model = prepare(trained_model(), spec, EXAMPLE).model
    for age in ("prepared", "calibrated", "trained", "frozen"):
        if age == "calibrated":
            calibrate(model, images_of(TRAIN))
        elif age == "trained":
            manual_steps(model)
        elif age == "frozen":
            freeze(model)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert same_state_or_nan(twin, model)
            assert describe_layers(twin) == describe_layers(model)
            if age != "prepared":
                assert torch.equal(logits_of(twin), logits_of(model))
            if age == "calibrated":
                manual_steps(twin)
                again = copy.deepcopy(model)
                manual_steps(again)
                assert same_state(twin, again), "a twin trains as the original"


def manual_steps(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for images_NCHW, labels_N in list(TRAIN.epoch(None))[:2]:
        optimizer.zero_grad()
        F.cross_entropy(model.train()(images_NCHW), labels_N).backward()
        optimizer.step()


def same_state_or_nan(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        torch.allclose(first[key].double(), second[key].double(), rtol=0, atol=0, equal_nan=True) for key in first
    )


# --- the caller's model ---


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.other = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(1, 2, 1)
        self.add, self.concat, self.fc = Add(), Concat(), nn.Linear(256, 10)

    def forward(self, images):
        y = self.add(self.bn(self.conv(images)), self.other(images))
        return self.fc(self.concat(y, y * 2).flatten(1))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_done_to_a_prepared_model_touches_the_callers(kind):
    model = Everything()
    before, kinds = copy.deepcopy(model), [type(module) for module in model.modules()]
    attributes = [sorted(vars(module)) for module in model.modules()]
    spec = qat(**KINDS[kind], quantize_adds=True)
    prepared = calibrated(spec, model)
    train(prepared, spec)
    freeze(prepared)
    assert same_state(model, before)
    assert [type(module) for module in model.modules()] == kinds
    assert [sorted(vars(module)) for module in model.modules()] == attributes
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    storages = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert storages.isdisjoint(tensor.data_ptr() for tensor in prepared.state_dict().values() if tensor.numel() > 1)


# --- bf16 and compilation ---


@pytest.mark.parametrize("kind", ["follow", "learned", "observers frozen"])
def test_bf16_leaves_scales_and_their_gradients_in_float32(kind):
    spec = qat(**KINDS[kind])
    model = calibrated(spec)
    seen = set()
    for quantizer in quantizers(model):
        quantizer.register_forward_hook(lambda q, inputs, out: seen.add((inputs[0].dtype, out.dtype, q.scale.dtype)))
    train(model, spec, precision="bf16")
    assert {(out, scale) for _, out, scale in seen} == {(torch.float32, torch.float32)}
    assert torch.bfloat16 in {given for given, _, _ in seen}
    assert (logits_of(model).argmax(1) == TEST.labels_N).double().mean() > 0.93


@pytest.mark.parametrize("kind", ["learned", pytest.param("fold", marks=pytest.mark.slow), "fold per channel"])
def test_training_compiles_into_one_graph_that_computes_the_same(kind):
    model = calibrated(qat(**KINDS[kind])).train()
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    images_NCHW = TRAIN.images_NCHW[:8]
    for run in (compiled, eager):
        run(images_NCHW).square().sum().backward()
    for (name, one), other in zip(model.named_parameters(), eager.parameters(), strict=True):
        assert one.grad is not None, name
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


# --- kinds of input ---


@pytest.mark.parametrize("value", [0.0, 1e-40, -1e-40, -3.0, 0.75, 3e37])
@pytest.mark.parametrize(
    "settings", [{}, {"scheme": "asymmetric"}, {"act_observer": "kl"}, {"act_observer": "mse"}], ids=str
)
def test_constant_images_give_finite_logits(settings, value):
    model = prepare(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten()), PtqSpec(method="ptq", **settings), EXAMPLE).model
    images_NCHW = torch.full_like(EXAMPLE, value)
    calibrate(model, [images_NCHW])
    freeze(model)
    assert predict(model, [images_NCHW]).isfinite().all()


@pytest.mark.parametrize("kind", ["follow", "learned", "observers frozen"])
def test_an_empty_batch_passes_quantizers_in_training_and_in_eval(kind):
    model = calibrated(qat(**KINDS[kind]), nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten()))
    for mode in (True, False):
        output = model.train(mode)(EXAMPLE[:0])
        assert output.shape == (0, 128)
        output.sum().backward()
    assert all(quantizer.scale.isfinite().all() for quantizer in quantizers(model))


@pytest.mark.parametrize("root", [nn.Conv2d(1, 5, 8), nn.Linear(8, 4)])
@pytest.mark.parametrize("kind", ["follow", "learned"])
def test_a_root_layer_trains_and_freezes(kind, root):
    model = calibrated(qat(**KINDS[kind]), root)
    assert isinstance(model, QuantLayer)
    model.train()(EXAMPLE).square().sum().backward()
    expected = model.eval()(EXAMPLE)
    freeze(model)
    assert torch.equal(model(EXAMPLE), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_nothing_to_quantize_is_refused(kind):
    with pytest.raises(ValueError, match="Sequential has nothing to quantize: it calls no Conv1d, Conv2d, Conv3d, Con"):
        prepare(nn.Sequential(nn.ReLU(), nn.Flatten()), qat(**KINDS[kind]), EXAMPLE)


def test_a_fused_attention_is_named():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.attention = nn.Conv2d(1, 4, 1), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, images):
            steps_NTC = self.conv(images).flatten(2).transpose(1, 2)
            return self.attention(steps_NTC, steps_NTC, steps_NTC)[0].mean(1)

    reports = {report.layer: report for report in prepare(Attends(), qat(), EXAMPLE).layers}
    assert reports["attention"].status == "float"
    assert reports["attention"].reason == "MultiheadAttention has no quantized form"
    assert reports["attention"].n_weights == 4 * 3 * 4
