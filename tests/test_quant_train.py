import copy
import itertools
import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from quant_digits import EXAMPLE, TEST, TRAIN, VAL, TensorBatches, same_state, trained_model, untrained_model
from torch import nn

from quantfair.quant import (
    DivergedError,
    ModelSpec,
    NonFiniteError,
    PtqSpec,
    QatSpec,
    TrainSpec,
    build_model,
    calibrate,
    fit,
    freeze,
    predict,
    prepare,
)
from quantfair.quant.layers.modules import quant_layers, quantizers
from quantfair.quant.layers.non_finite import find_non_finite
from quantfair.quant.quantizer.fake_quantize import FakeQuantize
from quantfair.quant.specs.training import Recipe
from quantfair.quant.training.optimizer import learning_rate

CUDNN_CONV: Any = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
SPEC = TrainSpec(epochs=2, lr=0.003)
QAT = QatSpec(method="qat", epochs=2, lr=0.001)


def train(model, spec: Recipe = SPEC, *, batches=TRAIN, val=VAL, seed=0, log=lambda _: None):
    spec = spec if isinstance(spec, TrainSpec) else SPEC.with_recipe(spec)
    return fit(model, spec, train=batches, val=val, seed=seed, log=log)


def images_of(batches):
    return (images_NCHW for images_NCHW, _ in batches.epoch(None))


def accuracy(model):
    return (predict(model, images_of(TEST)).argmax(1) == TEST.labels_N).double().mean().item()


def calibrated(spec, model=None):
    prepared = prepare(model or trained_model(), spec, EXAMPLE).model
    calibrate(prepared, images_of(TRAIN))
    return prepared


def train_plainly(model: nn.Module, spec, seed: int) -> None:
    """The loop of any tutorial: the oracle of `fit` with `select = "last"`."""
    optimizer = torch.optim.Adam(model.parameters(), lr=spec.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / (spec.epochs * len(TRAIN)))) / 2
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(spec.epochs):
        model.train()
        for images_NCHW, labels_N in TRAIN.epoch(generator):
            optimizer.zero_grad()
            F.cross_entropy(model(images_NCHW), labels_N).backward()
            optimizer.step()
            schedule.step()


def test_small_cnn_learns_the_digits():
    assert accuracy(trained_model()) > 0.96


def test_the_control_is_plain_fine_tuning_bit_for_bit():
    control, plain = prepare(trained_model(), QAT.control(), EXAMPLE).model.eval(), copy.deepcopy(trained_model())
    train(control, QAT.control(), seed=5)
    train_plainly(plain, QAT, seed=5)
    assert same_state(control, plain)
    assert not same_state(control, trained_model())


@pytest.mark.parametrize("scales", ["observed", "learned"])
@pytest.mark.parametrize("bn_fold", ["none", "fold", "fold_calibrated"])
def test_qat_with_quantizers_bypassed_is_the_control_bit_for_bit(bn_fold, scales):
    spec = QAT.model_copy(update={"bn_fold": bn_fold, "scales": scales})
    control, bypassed = prepare(trained_model(), QAT.control(), EXAMPLE).model, calibrated(spec)
    grids = [(quantizer, quantizer.scale.clone()) for quantizer in quantizers(bypassed)]
    for quantizer, _ in grids:
        quantizer.enabled = False
    train(control, QAT.control())
    train(bypassed, QAT)
    trained = {key.replace("conv.batchnorm.", "bn."): value for key, value in bypassed.state_dict().items()}
    assert all(torch.equal(trained[key], value) for key, value in control.state_dict().items())
    assert all(torch.equal(quantizer.scale, scale) for quantizer, scale in grids)


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("observer", ["minmax", "ema", "percentile"])
def test_qat_trains_with_every_weight_observer(observer, scheme):
    spec = QAT.model_copy(update={"weight_observer": observer, "scheme": scheme, "weight_bits": 4, "act_bits": 4})
    model = calibrated(spec)
    before = [quantizer.scale.clone() for quantizer in quantizers(model)]
    train(model, spec)
    freeze(model)
    assert accuracy(model) > 0.94
    moved = [not torch.equal(q.scale, scale) for q, scale in zip(quantizers(model), before, strict=True)]
    assert moved[1:] == [True] * 7, "only the range of the input images may be what it was"


@pytest.mark.parametrize("select", ["last", "best_val"])
def test_after_qat_the_grid_is_that_of_the_weights_as_they_are(select):
    model = calibrated(QAT)
    train(model, QAT.model_copy(update={"lr": 0.02, "schedule": "constant", "select": select}))
    for _, layer in quant_layers(model):
        assert isinstance(layer.weight_quantizer, FakeQuantize)
        expected = layer.weight.detach().flatten(1).abs().amax(1) / 127
        torch.testing.assert_close(layer.weight_quantizer.scale.flatten(), expected, rtol=1e-6, atol=0)


def test_qat_repairs_what_two_bits_break():
    spec = QatSpec(method="qat", epochs=5, lr=0.003, weight_bits=2, act_bits=4)
    model = calibrated(spec)
    freeze(broken := copy.deepcopy(model))
    train(model, spec)
    freeze(model)
    assert accuracy(model) > accuracy(broken) + 0.1


@pytest.mark.parametrize("make", [untrained_model, lambda: calibrated(QAT)], ids=["fp32", "qat"])
def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_state_alone(make):
    models = [make() for _ in range(3)]
    results = []
    for model, seed in zip(models, (7, 7, 8), strict=True):
        torch.manual_seed(seed * 100 + len(results))
        before = torch.get_rng_state()
        results.append(train(model, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
    assert same_state(models[0], models[1])
    assert results[0] == results[1]
    assert not same_state(models[0], models[2])


def test_dropout_follows_the_seed():
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5))

    models = [make() for _ in range(2)]
    for i, model in enumerate(models):
        torch.manual_seed(i)
        train(model, seed=3)
    assert same_state(*models)


class Recorder(nn.Module):
    """Predicts class 0 with a logit that a step raises, and remembers its parameter in eval mode."""

    def __init__(self, val_right: list[bool]):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.val_right, self.seen = iter(val_right), []

    def forward(self, images_NCHW):
        if self.training:
            return torch.cat([self.bias, torch.zeros(1)]).expand(len(images_NCHW), 2)
        self.seen.append(self.bias.item())
        right = next(self.val_right)
        return torch.tensor([[1.0, 0.0] if right else [0.0, 1.0]]).expand(len(images_NCHW), 2)


ONE_BATCH = TensorBatches(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize(("select", "expected"), [("best_val", 2), ("last", 4)])
def test_the_selected_epoch_is_the_first_best_or_the_last_and_its_state_is_kept(select, expected):
    model, spec = Recorder([False, True, True, False]), TrainSpec(epochs=4, lr=0.1, select=select)
    result = train(model, spec, batches=ONE_BATCH, val=ONE_BATCH)
    assert result.selected_epoch == expected
    assert result.val_accuracy == [0, 1, 1, 0]
    assert model.bias.item() == model.seen[expected - 1]
    assert len(set(model.seen)) == 4


def test_the_best_state_of_qat_includes_its_grids():
    model = calibrated(QAT.model_copy(update={"act_bits": 3, "weight_bits": 3}))
    spec = TrainSpec(epochs=6, lr=0.02, schedule="constant")
    result = train(model, spec)
    assert result.selected_epoch < 6
    predicted_N = predict(model, images_of(VAL)).argmax(1)
    assert (predicted_N == VAL.labels_N).double().mean().item() == max(result.val_accuracy)


def test_learning_rate_schedules():
    constant = TrainSpec(epochs=1, lr=0.2, schedule="constant")
    assert [learning_rate(constant, step, 4) for step in range(4)] == [0.2] * 4
    cosine = TrainSpec(epochs=1, lr=0.2)
    assert [learning_rate(cosine, step, 4) for step in (0, 2, 4)] == pytest.approx([0.2, 0.1, 0])


def test_every_epoch_is_logged_once():
    lines: list[str] = []
    result = train(untrained_model(), log=lines.append)
    assert len(lines) == 2
    assert re.fullmatch(r"epoch 2/2: train loss \d\.\d{4} nats, val accuracy 0\.\d{4}, \d+\.\d\d s", lines[1])
    assert f"{result.train_loss_nats[1]:.4f}" in lines[1]
    assert result.train_loss_nats[1] < result.train_loss_nats[0]


def with_nan_at(batches: TensorBatches, row: int) -> TensorBatches:
    images_NCHW = batches.images_NCHW.clone()
    images_NCHW[row] = torch.nan
    return TensorBatches(images_NCHW, batches.labels_N)


def with_broken_block2(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.get_parameter("features.block2.conv.weight")[0] = torch.inf
    return model


@pytest.mark.parametrize("spec", [SPEC, QAT, QAT.control()], ids=["fp32", "qat", "fp32_ft"])
def test_divergence_names_epoch_step_layer_and_remedy(spec):
    model = untrained_model()
    if spec is not SPEC:
        model = prepare(model, spec, EXAMPLE).model
        calibrate(model, images_of(TRAIN))
    message = (
        r"loss became nan at epoch 1, step 1 \(first non-finite output in layer 'features.block2.conv'\); "
        rf"lower `lr`, now {spec.lr}$"
    )
    with pytest.raises(DivergedError, match=message):
        train(with_broken_block2(model), spec)


@pytest.mark.parametrize("spec", [SPEC, QAT], ids=["fp32", "qat"])
def test_a_learning_rate_far_too_large_diverges_with_a_message(spec):
    model = calibrated(QAT) if spec is QAT else untrained_model()
    with pytest.raises(DivergedError, match=r"at epoch 1, step \d+ \(.*\); lower `lr`, now 1e\+30"):
        train(model, spec.model_copy(update={"lr": 1e30}))


def test_divergence_in_the_last_step_of_an_epoch_is_found_in_validation():
    one_step = TensorBatches(TRAIN.images_NCHW[:64], TRAIN.labels_N[:64])
    message = r"validation after epoch 1: non-finite logits in batch 0 \(first non-finite output in layer"
    with pytest.raises(DivergedError, match=message):
        train(calibrated(QAT), QAT.model_copy(update={"lr": 1e39}), batches=one_step)


def test_divergence_caused_by_images_says_so():
    class InOrder(TensorBatches):
        def epoch(self, generator):
            return super().epoch(None)

    broken = with_nan_at(TRAIN, 100)
    broken = InOrder(broken.images_NCHW, broken.labels_N)
    with pytest.raises(DivergedError, match=r"at epoch 1, step 2 \(the input images are non-finite\)"):
        train(untrained_model(), batches=broken)


def test_divergence_in_validation_names_the_epoch():
    message = r"validation after epoch 1: non-finite logits in batch 2 \(the input images are non-finite\); lower `lr`"
    with pytest.raises(DivergedError, match=message):
        train(untrained_model(), val=with_nan_at(VAL, 130))


def test_non_finite_values_outside_layers_are_told_apart():
    class Divides(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 2)

        def forward(self, images):
            return self.linear(images) / 0

    assert find_non_finite(Divides(), torch.ones(1, 1)) == "the output of every layer is finite"


def test_predict_names_the_batch_and_the_layer():
    message = r"non-finite logits in batch 0 \(first non-finite output in layer 'features.block2.conv'\)"
    with pytest.raises(NonFiniteError, match=message):
        predict(with_broken_block2(trained_model()), images_of(TEST))


def test_predict_computes_in_float32_and_leaves_the_setting_of_cudnn_alone():
    class Spy(nn.Module):
        def forward(self, images_NCHW):
            seen.append(CUDNN_CONV.fp32_precision)
            return images_NCHW

    seen: list[str] = []
    before = CUDNN_CONV.fp32_precision
    predict(Spy(), [torch.zeros(1, 2)])
    assert seen == ["ieee"]
    assert CUDNN_CONV.fp32_precision == before != "ieee"


def test_predict_returns_float32_logits_in_order_and_keeps_no_graph():
    model = copy.deepcopy(trained_model()).train()
    logits_NK = predict(model, images_of(TEST))
    assert logits_NK.dtype == torch.float32
    assert not logits_NK.requires_grad
    assert model.training
    with torch.no_grad():
        expected = model.eval()(TEST.images_NCHW)
    torch.testing.assert_close(logits_NK, expected, atol=1e-4, rtol=1e-4)


def test_empty_batches_are_refused():
    empty = TensorBatches(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="`train` has no batches; give the split at least one image"):
        train(untrained_model(), batches=empty)
    with pytest.raises(ValueError, match="`val` has no batches"):
        train(untrained_model(), val=empty)
    with pytest.raises(ValueError, match="`images` holds no batch; nothing can be predicted"):
        predict(trained_model(), [])


def test_fit_refuses_a_frozen_model_and_an_uncalibrated_one():
    frozen = calibrated(PtqSpec(method="ptq"))
    freeze(frozen)
    with pytest.raises(ValueError, match="the model is frozen; train it before `freeze`"):
        train(frozen)
    with pytest.raises(ValueError, match=r"has no activation range yet; call `calibrate` first"):
        train(prepare(trained_model(), QAT, EXAMPLE).model, QAT)


OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, weight_decay=0.1, fused=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=0.1, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_their_decay_and_their_steps_are_torchs_bit_for_bit(optimizer):
    spec = TrainSpec(epochs=3, lr=0.01, schedule="step", milestones=(2, 3), select="last")
    spec = spec.model_copy(update={"optimizer": optimizer, "weight_decay": 0.1})
    model, plain = untrained_model(), untrained_model()
    train(model, spec, seed=4)
    torchs = OPTIMIZERS[optimizer](plain.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(torchs, lambda epoch: 0.1**epoch)
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        plain.train()
        for images_NCHW, labels_N in TRAIN.epoch(generator):
            torchs.zero_grad()
            F.cross_entropy(plain(images_NCHW), labels_N).backward()
            torchs.step()
        schedule.step()
    assert same_state(model, plain)


def pairs_of(one: nn.Module, other: nn.Module):
    return zip(one.state_dict().values(), other.state_dict().values(), strict=True)


def test_optimizers_differ():
    settings = [("adam", 0.0), ("adam", 0.1), ("adamw", 0.1), ("sgd", 0.0), ("sgd", 0.1)]  # adamw without decay is adam
    models = [untrained_model() for _ in settings]
    specs = [SPEC.model_copy(update={"optimizer": name, "weight_decay": decay}) for name, decay in settings]
    for model, spec in zip(models, specs, strict=True):
        train(model, spec)
    assert not any(same_state(one, other) for one, other in itertools.combinations(models, 2))


@pytest.mark.parametrize("n_batches", [1, 3, 7])
def test_schedules_are_torchs_step_by_step(n_batches):
    parameter = [nn.Parameter(torch.zeros(1))]
    step = TrainSpec(epochs=6, lr=0.2, schedule="step", milestones=(1, 3, 4, 9))
    n_steps = 6 * n_batches
    optimizers = [torch.optim.SGD(parameter, lr=lr) for lr in (0.02, 0.2)]
    by_epoch = torch.optim.lr_scheduler.MultiStepLR(optimizers[0], [2, 3, 8])  # epoch 1 drops before the first step
    by_step = torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[1], T_max=n_steps)
    cosine = TrainSpec(epochs=6, lr=0.2)
    for at in range(n_steps):
        assert learning_rate(step, at, n_steps) == pytest.approx(by_epoch.get_last_lr()[0])
        assert learning_rate(cosine, at, n_steps) == pytest.approx(by_step.get_last_lr()[0])
        for optimizer in optimizers:
            optimizer.step()
        by_step.step()
        if (at + 1) % n_batches == 0:
            by_epoch.step()


INHERITED = [
    {"optimizer": "sgd", "weight_decay": 0.05},
    {"optimizer": "adamw", "weight_decay": 0.05},
    {"optimizer": "adam", "weight_decay": 0.05, "precision": "bf16"},
]


@pytest.mark.parametrize("settings", INHERITED, ids=str)
def test_the_control_inherits_the_training_and_stays_bit_for_bit_with_bypassed_qat(settings):
    spec = SPEC.model_copy(update=settings)
    control, bypassed = prepare(trained_model(), QAT.control(), EXAMPLE).model, calibrated(QAT)
    for quantizer in quantizers(bypassed):
        quantizer.enabled = False
    train(control, spec.with_recipe(QAT.control()))
    train(bypassed, spec.with_recipe(QAT))
    trained = bypassed.state_dict()
    assert all(torch.equal(trained[key], value) for key, value in control.state_dict().items())
    default = prepare(trained_model(), QAT.control(), EXAMPLE).model
    train(default, QAT.control())
    assert not same_state(control, default)


def test_a_recipe_replaces_the_course_and_inherits_the_rest():
    spec = TrainSpec(
        epochs=9, lr=0.1, batch_size=32, optimizer="sgd", weight_decay=0.3, precision="bf16", augment=("crop",)
    )
    recipe = QatSpec(method="qat", epochs=2, lr=0.01, schedule="step", milestones=(2,), weight_bits=4)
    expected = {**spec.model_dump(), "epochs": 2, "lr": 0.01, "schedule": "step", "milestones": (2,), "select": "last"}
    assert spec.with_recipe(recipe).model_dump() == expected == spec.with_recipe(recipe.control()).model_dump()


def test_bf16_learns_what_fp32_learns_and_leaves_a_float32_model_as_it_was_laid_out():
    model = untrained_model()
    train(model, TrainSpec(epochs=15, lr=0.003, precision="bf16"))
    assert abs(accuracy(model) - accuracy(trained_model())) < 0.02
    assert not same_state(model, trained_model())
    for one, other in pairs_of(model, untrained_model()):
        assert (one.dtype, one.stride()) == (other.dtype, other.stride())


def test_bf16_trains_alike_twice():
    model, again = untrained_model(), untrained_model()
    spec = TrainSpec(epochs=2, lr=0.003, precision="bf16")
    assert train(model, spec) == train(again, spec)
    assert same_state(model, again)


class SpyOnConv(nn.Module):
    """Remembers in which type its convolution computes, and in which layout it is given images."""

    def __init__(self):
        super().__init__()
        self.first, self.conv, self.seen = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 10, 6), []

    def forward(self, images_NCHW):
        out = self.conv(self.first(images_NCHW))
        self.seen.append((self.training, out.dtype, self.conv.weight.is_contiguous()))
        return out.flatten(1)


def test_bf16_trains_in_bfloat16_and_evaluates_in_float32():
    model = SpyOnConv()
    train(model, SPEC.model_copy(update={"precision": "bf16"}))
    assert {seen[1:] for seen in model.seen if seen[0]} == {(torch.bfloat16, False)}, "channels last"
    assert {seen[1] for seen in model.seen if not seen[0]} == {torch.float32}
    assert model.conv.weight.is_contiguous()


def test_quantizers_compute_in_float32_under_bf16():
    seen = []

    def check(quantizer, inputs, output):
        if quantizer.training:
            levels = output.double() / quantizer.scale.double()
            seen.append((inputs[0].dtype, output.dtype, float((levels - levels.round()).abs().max().detach())))

    model = calibrated(QAT)
    for quantizer in quantizers(model):
        quantizer.register_forward_hook(check)
    train(model, SPEC.with_recipe(QAT).model_copy(update={"precision": "bf16"}))
    assert torch.bfloat16 in {given for given, _, _ in seen}
    assert {returned for _, returned, _ in seen} == {torch.float32}
    assert max(distance for _, _, distance in seen) < 1e-4, "bfloat16 would be off the grid by up to a half"
    assert all(quantizer.scale.dtype == torch.float32 for quantizer in quantizers(model))
    freeze(model)
    assert accuracy(model) > 0.94


def test_qat_compiles_into_one_graph_that_computes_the_same():
    model = calibrated(QAT).train()
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for rows in range(3):
        images_NCHW = TRAIN.images_NCHW[rows * 8 : rows * 8 + 8]
        outputs = compiled(images_NCHW), eager(images_NCHW)
        assert torch.equal(*outputs)
        for output in outputs:
            output.square().sum().backward()
    assert same_state(model, eager)
    for one, other in zip(model.parameters(), eager.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad)


def test_compile_is_refused_on_a_cpu():
    message = "`train.compile` needs a CUDA device, and the model is on the cpu; set it to false"
    with pytest.raises(ValueError, match=message):
        train(untrained_model(), SPEC.model_copy(update={"compile": True}))


def tiny_faces(heads: str, n: int = 12) -> tuple[nn.Module, TensorBatches, torch.Tensor]:
    """A narrow trident for ethnicity, images, and labels_NT in the order of its outputs."""
    spec = ModelSpec.model_validate({"name": "trident", "width": 2, "heads": heads})
    model = build_model(spec, in_channels=1, n_classes=5, seed=0, task="ethnicity")
    generator = torch.Generator().manual_seed(0)
    images_NCHW = torch.randn(n, 1, 48, 48, generator=generator)
    labels_NT = torch.stack([torch.randint(k, (n,), generator=generator) for k in (5, 9, 2)], dim=1)
    return model, TensorBatches(images_NCHW, labels_NT, batch_size=4), labels_NT


def test_all_heads_are_trained_on_the_sum_of_their_losses():
    model, batches, _ = tiny_faces("all")
    plain = copy.deepcopy(model)
    spec = TrainSpec(epochs=2, lr=0.01, schedule="constant", select="last")
    result = train(model, spec, batches=batches, val=batches)
    optimizer, generator, losses = torch.optim.Adam(plain.parameters(), lr=0.01, fused=True), torch.Generator(), []
    generator.manual_seed(0)
    for _ in range(2):
        for images_NCHW, labels_NT in batches.epoch(generator):
            ethnicity, age, gender = plain(images_NCHW)
            loss = F.cross_entropy(ethnicity, labels_NT[:, 0]) + F.cross_entropy(age, labels_NT[:, 1])
            loss = loss + F.cross_entropy(gender, labels_NT[:, 2])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert result.train_loss_nats == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3], rel=1e-5)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_only_the_head_of_the_task_is_trained_and_decayed():
    model, batches, labels_NT = tiny_faces("task")
    before = copy.deepcopy(model.state_dict())
    batches = TensorBatches(batches.images_NCHW, labels_NT[:, 0], batch_size=4)
    train(model, SPEC.model_copy(update={"weight_decay": 0.5}), batches=batches, val=batches)
    changed = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"CNN", "ethNN"}


def test_validation_of_several_heads_is_that_of_the_first():
    model, batches, labels_NT = tiny_faces("all")
    result = train(model, SPEC.model_copy(update={"select": "last"}), batches=batches, val=batches)
    predicted_N = predict(model, images_of(batches)).argmax(1)
    assert result.val_accuracy[-1] == (predicted_N == labels_NT[:, 0]).double().mean().item()


def test_labels_that_do_not_fit_the_heads_name_both_sides():
    model, batches, labels_NT = tiny_faces("all")
    one_task = TensorBatches(batches.images_NCHW, labels_NT[:, 0])
    with pytest.raises(ValueError, match=r"the logits of 3 heads, and the batches have labels for 1; `model.heads`"):
        train(model, batches=one_task, val=one_task)
    single, _, _ = tiny_faces("task")
    with pytest.raises(ValueError, match="returns the logits of 1 heads, and the batches have labels for 3"):
        train(single, batches=batches, val=batches)
    too_high = TensorBatches(batches.images_NCHW, labels_NT[:, 1])
    with pytest.raises(ValueError, match=r"the data has a label [5-8] \(from 0\), the model 5 classes"):
        train(single, batches=too_high, val=too_high)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "step"}, "is missing: the schedule 'step' needs the epochs at which `lr` drops"),
        ({"milestones": [2]}, "belongs to the schedule 'step', and this one is 'cosine'"),
        ({"schedule": "step", "milestones": [3, 2]}, r"must rise, got \[3, 2\]"),
        ({"schedule": "step", "milestones": [2, 2]}, r"must rise, got \[2, 2\]"),
        ({"schedule": "step", "milestones": [0]}, "greater than or equal to 1"),
        ({"optimizer": "rmsprop"}, "'adam', 'adamw' or 'sgd'"),
        ({"precision": "fp16"}, "'fp32' or 'bf16'"),
        ({"weight_decay": -0.1}, "greater than or equal to 0"),
        ({"augment": ["rotate"]}, "'crop' or 'flip'"),
    ],
)
def test_training_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        TrainSpec.model_validate({"epochs": 3, "lr": 0.1, **settings})


def test_the_start_of_qat_is_part_of_its_spec():
    assert QatSpec(method="qat", epochs=1, lr=0.1, init="fp32") == QatSpec(method="qat", epochs=1, lr=0.1)
    scratch = QatSpec(method="qat", epochs=1, lr=0.1, init="scratch")
    assert scratch.model_dump(exclude_defaults=True)["init"] == "scratch"
    with pytest.raises(ValidationError, match="'fp32' or 'scratch'"):
        QatSpec.model_validate({"method": "qat", "epochs": 1, "lr": 0.1, "init": "random"})


def test_the_order_of_augmentations_does_not_matter():
    names = ["flip", "crop"]
    one, other = (TrainSpec.model_validate({"epochs": 1, "lr": 0.1, "augment": a}) for a in (names, names[::-1]))
    assert one == other
