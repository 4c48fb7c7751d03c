import pytest
import torch
from quant_digits import same_state

from quant import ModelSpec, build_model

SPEC = ModelSpec(name="small_cnn")


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    first, again, other = (build_model(SPEC, in_channels=1, n_classes=10, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert same_state(first, again)
    assert not same_state(first, other)


@pytest.mark.parametrize("side", [8, 9, 28, 32])
@pytest.mark.parametrize("training", [True, False])
def test_small_cnn_takes_images_from_8_to_32_pixels_and_batches_of_one(side, training):
    model = build_model(ModelSpec(name="small_cnn", width=4), in_channels=3, n_classes=7, seed=0).train(training)
    assert model(torch.zeros(1, 3, side, side)).shape == (1, 7)
    assert model.get_submodule("features.block1.conv").weight.shape == (4, 3, 3, 3)


def test_small_cnn_refuses_images_that_are_too_small():
    model = build_model(SPEC, in_channels=1, n_classes=10, seed=0)
    with pytest.raises(ValueError, match=r"at least 8 x 8 pixels, got 7 x 12; enlarge them"):
        model(torch.zeros(2, 1, 7, 12))
