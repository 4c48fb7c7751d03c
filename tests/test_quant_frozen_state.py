"""What is kept of a frozen model: the places of its weights on their grids, from which it is the same bit for bit."""

from itertools import product
from typing import Any

import pytest
import torch
from quant_digits import EXAMPLE, TEST, TRAIN, VAL, same_state, split, trained_model
from torch import nn

from quantfair.quant import (
    PtqSpec,
    QatSpec,
    TrainSpec,
    calibrate,
    fit,
    freeze,
    frozen_to_bytes,
    load_frozen,
    predict,
    prepare,
    weights_to_bytes,
)

SETTINGS: list[dict[str, Any]] = [
    *(
        {"weight_bits": bits, "scheme": scheme, "granularity": granularity, "bn_fold": fold}
        for (bits, granularity), scheme, fold in product(
            ((2, "per_channel"), (4, "per_tensor"), (8, "per_tensor"), (16, "per_channel")),
            ("symmetric", "asymmetric"),
            ("none", "fold"),
        )
    ),
    {"scales": "learned", "weight_bits": 4, "act_bits": 4},
    {"preset": "iao"},
    {"preset": "iao", "scheme": "asymmetric", "bn_fold": "fold"},
    {"overrides": {"classifier": {"quantize": False}}},
]


def trained(spec: QatSpec) -> nn.Module:
    model = prepare(trained_model(), spec, EXAMPLE).model
    if spec.calibrates:
        calibrate(model, [TRAIN.images_NCHW])
    fit(model, TrainSpec(epochs=1, lr=0.001), train=split(0, 64), val=VAL, seed=0, log=lambda _: None)
    return model


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_frozen_model_is_the_same_bit_for_bit_after_loading(settings: dict[str, Any]) -> None:
    spec = QatSpec(method="qat", epochs=1, lr=0.001, **settings)
    model = trained(spec)
    freeze(model)
    loaded = prepare(trained_model(), spec, EXAMPLE).model
    load_frozen(loaded, frozen_to_bytes(model))
    assert same_state(model, loaded)
    images = [TEST.images_NCHW]
    assert torch.equal(predict(model, images), predict(loaded, images))


def test_weights_of_8_bits_take_a_quarter_of_the_bytes() -> None:
    layer = nn.Linear(256, 256)
    model = prepare(layer, PtqSpec(method="ptq"), torch.zeros(2, 256)).model
    calibrate(model, [torch.rand(8, 256)])
    freeze(model)
    assert len(frozen_to_bytes(model)) < 0.3 * len(weights_to_bytes(layer))


def test_a_model_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer 'features\.block1\.conv' is not frozen; call `freeze` first"):
        frozen_to_bytes(trained(QatSpec(method="qat", epochs=1, lr=0.001)))


def test_the_state_of_another_model_is_refused() -> None:
    model = trained(QatSpec(method="qat", epochs=1, lr=0.001))
    freeze(model)
    other = prepare(trained_model(), QatSpec(method="qat", epochs=1, lr=0.001, scheme="asymmetric"), EXAMPLE).model
    load_frozen(other, frozen_to_bytes(model))  # a grid says itself what it is; another network does not fit
    smaller = prepare(nn.Conv2d(1, 10, 3), QatSpec(method="qat", epochs=1, lr=0.001), EXAMPLE).model
    with pytest.raises(ValueError, match=r"this is another model's state: .* prepare it alike"):
        load_frozen(smaller, frozen_to_bytes(model))
