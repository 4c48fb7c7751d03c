"""The networks against section-by-section facts of the originals, torchvision's ResNet and plain functional code."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from pydantic import ValidationError
from quant_digits import same_state
from torch import Tensor, nn

from quantfair.quant import ModelSpec, PtqSpec, build_model, calibrate, describe_layers, freeze, predict, prepare
from quantfair.quant.specs.model import MODELS, WIDTHS

FACES = {"age": 9, "gender": 2, "ethnicity": 5}
# name, input (channels, side), classes, parameters, layers to quantize, batch norms to fold
NETWORKS = [
    ("nin", (3, 32), 10, 969_822, 9, 9),
    ("nin_gc", (3, 32), 10, 591_390, 9, 9),
    ("nin_gc", (1, 32), 10, 578_590, 9, 9),
    ("resnet18", (3, 32), 10, 11_173_962, 21, 20),
    ("resnet18", (3, 32), 7, 11_172_423, 21, 20),
    ("trident", (1, 48), 2, 6_410_544, 12, 0),
]
NARROW = {"small_cnn": 2, "nin": 6, "nin_gc": 32, "resnet18": 2, "trident": 2}  # nin_gc at 16: 1 x 1 groups


def build(name: str, *, channels: int = 3, classes: int = 10, seed: int = 0, task: str | None = None, **settings):
    task = task or ("gender" if name == "trident" else None)
    spec = ModelSpec(name=name, **settings)
    return build_model(spec, in_channels=channels, n_classes=classes, seed=seed, task=task)


def random_images(n: int, channels: int, side: int) -> Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(0))


def shake_batchnorm(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics and factors that are not the initial ones."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def test_there_is_a_width_for_every_model():
    assert MODELS.keys() == WIDTHS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone(name):
    before = torch.get_rng_state()
    first, again, other = (build(name, classes=2, seed=seed, width=NARROW[name]) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert same_state(first, again)
    assert not same_state(first, other)


@pytest.mark.parametrize(("name", "image", "classes", "n_parameters", "n_layers", "n_folded"), NETWORKS)
def test_parameter_counts_and_logits_are_the_originals(name, image, classes, n_parameters, n_layers, n_folded):
    model = build(name, channels=image[0], classes=classes).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters
    with torch.no_grad():
        assert model(random_images(1, *image)).shape == (1, classes)


NIN_CONVS = {
    "nin": [14592, 30880, 15456, 460992, 37056, 37056, 331968, 37056, 1930],
    "nin_gc": [19456, 33024, 33024, 74240, 66048, 66048, 148480, 132096, 10250],
}
NIN_BNS = {
    "nin": [384, 320, 192, 384, 384, 384, 384, 384, 20],
    "nin_gc": [512, 512, 512, 1024, 1024, 1024, 2048, 2048, 20],
}


@pytest.mark.parametrize("name", NIN_CONVS)
def test_every_block_of_nin_has_the_originals_name_and_size(name):
    sizes: dict[str, int] = {}
    for key, parameter in build(name).named_parameters():
        layer = key.rpartition(".")[0]
        sizes[layer] = sizes.get(layer, 0) + parameter.numel()
    positions = (0, 1, 2, 4, 5, 6, 8, 9, 10)
    expected = {f"model.{at}.conv": n for at, n in zip(positions, NIN_CONVS[name], strict=True)}
    expected |= {f"model.{at}.bn": n for at, n in zip(positions, NIN_BNS[name], strict=True)}
    assert sizes == expected


def nin_by_hand(state: dict[str, Tensor], x: Tensor, *, groups: list[int], shuffles: list[int], pool) -> Tensor:
    for at, n_groups, n_shuffled in zip((0, 1, 2, 4, 5, 6, 8, 9, 10), groups, shuffles, strict=True):
        x = pool(x) if at in (4, 8) else x
        x = nn.ChannelShuffle(n_shuffled)(x)
        weight, bn = state[f"model.{at}.conv.weight"], f"model.{at}.bn."
        x = F.conv2d(x, weight, state[f"model.{at}.conv.bias"], padding=weight.shape[-1] // 2, groups=n_groups)
        statistics = state[bn + "running_mean"], state[bn + "running_var"]
        x = F.relu(F.batch_norm(x, *statistics, state[bn + "weight"], state[bn + "bias"]))
    return F.avg_pool2d(x, 8, stride=1).flatten(1)


def test_nin_computes_what_its_table_says():
    model, images = shake_batchnorm(build("nin")).eval(), random_images(2, 3, 32)
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    expected = nin_by_hand(model.state_dict(), images, groups=[1] * 9, shuffles=[1] * 9, pool=pool)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected)
    assert (expected >= 0).all(), "the last block ends in a ReLU"


def test_nin_gc_computes_what_its_table_says():
    model, images = shake_batchnorm(build("nin_gc")).eval(), random_images(2, 3, 32)
    groups, shuffles = [1, 2, 2, 16, 4, 4, 32, 8, 1], [1, 1, 2, 2, 16, 4, 4, 32, 1]
    expected = nin_by_hand(model.state_dict(), images, groups=groups, shuffles=shuffles, pool=nn.MaxPool2d(2))
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected)
    assert expected.std() > 0


def torchvision_twin(model: nn.Module) -> nn.Module:
    """torchvision's ResNet-18 with a stem for small images and the values of `model`, which come in the same order."""
    twin = torchvision.models.resnet18(num_classes=10)
    twin.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    twin.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    twin.load_state_dict(dict(zip(twin.state_dict(), model.state_dict().values(), strict=True)))
    return twin


def test_resnet18_is_torchvisions_with_a_stem_for_small_images():
    model, images = shake_batchnorm(build("resnet18")), random_images(2, 3, 32)
    twin = torchvision_twin(model)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), twin.eval()(images))
    F.cross_entropy(model.train()(images), torch.tensor([1, 2])).backward()
    F.cross_entropy(twin.train()(images), torch.tensor([1, 2])).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def test_resnet18_has_the_originals_names():
    names = {key.rpartition(".")[0] for key in build("resnet18", width=2).state_dict()}
    blocks = [(f"conv{stage}_x.{block}", stage > 2 and block == 0) for stage in (2, 3, 4, 5) for block in (0, 1)]
    expected = {"conv1.0", "conv1.1", "fc"}
    expected |= {f"{block}.residual_function.{at}" for block, _ in blocks for at in (0, 1, 3, 4)}
    expected |= {f"{block}.shortcut.{at}" for block, changes in blocks if changes for at in (0, 1)}
    assert names == expected


def trident_by_hand(state: dict[str, Tensor], x: Tensor, head: str) -> Tensor:
    def conv(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    for first, second in ((0, 2), (5, 7), (10, 12)):
        x = conv(f"CNN.CNN.{second}", F.relu(conv(f"CNN.CNN.{first}", x)))
        x = F.relu(F.max_pool2d(x, 3, 2, 1))
    for name in ("conv1", "conv2"):
        x = F.relu(F.max_pool2d(conv(f"{head}.{name}", x), 3, 2, 1))
    x = x.flatten(1)
    for name in ("fc1", "fc2", "fc3", "fc4"):
        x = F.linear(x if name == "fc1" else F.relu(x), state[f"{head}.{name}.weight"], state[f"{head}.{name}.bias"])
    return x


@pytest.mark.parametrize(("task", "head"), [("age", "ageNN"), ("gender", "genNN"), ("ethnicity", "ethNN")])
def test_trident_runs_the_head_of_its_task(task, head):
    model, images = build("trident", channels=1, classes=FACES[task], task=task), random_images(2, 1, 48)
    with torch.no_grad():
        expected = trident_by_hand(model.state_dict(), images, head)
        torch.testing.assert_close(model.eval()(images), expected, rtol=1e-4, atol=0)
    assert expected.abs().min() > 0


def test_trident_with_all_heads_returns_the_tasks_logits_first():
    model, images = build("trident", channels=1, classes=5, task="ethnicity", heads="all"), random_images(2, 1, 48)
    with torch.no_grad():
        outputs = model.eval()(images)
        expected = [trident_by_hand(model.state_dict(), images, head) for head in ("ethNN", "ageNN", "genNN")]
    for logits_NK, expected_NK in zip(outputs, expected, strict=True):
        torch.testing.assert_close(logits_NK, expected_NK, rtol=1e-4, atol=0)
    assert torch.equal(predict(model, [images]), outputs[0])


def test_the_heads_of_trident_have_the_originals_sizes():
    model = build("trident", channels=1, classes=2)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    expected = {"CNN": 286_432, "ageNN": 2_041_609, "genNN": 2_041_154, "ethNN": 2_041_349}
    assert {name: n for name, n in sizes.items() if n} == expected


def test_heads_take_the_number_of_classes_of_the_data():
    model = build_model(
        ModelSpec(name="trident", width=2),
        in_channels=1,
        n_classes=3,
        seed=0,
        task="age",
        heads={"gender": 4, "ethnicity": 6, "age": 3, "hair": 7},
    )
    out = {key: len(value) for key, value in model.state_dict().items() if key.endswith("fc4.bias")}
    assert out == {"ageNN.fc4.bias": 3, "genNN.fc4.bias": 4, "ethNN.fc4.bias": 6}


@pytest.mark.parametrize("name", ["nin", "nin_gc", "resnet18", "trident"])
def test_weights_are_initialised_as_in_the_original(name):
    for module in build(name, channels=1, classes=2).modules():
        if isinstance(module, nn.Conv2d):
            (out, per_group), area = module.weight.shape[:2], math.prod(module.kernel_size)
            bound = math.sqrt(6 / ((out + per_group) * area))
            assert module.weight.abs().max() <= bound
            # three standard errors of the largest draw, and of a uniform's standard deviation
            assert module.weight.abs().max() > bound * (1 - 8 / module.weight.numel())
            n_errors = (module.weight.std() / (bound / math.sqrt(3)) - 1).abs() * math.sqrt(module.weight.numel() / 0.2)
            assert n_errors < 5
        elif isinstance(module, nn.Linear):
            n_errors = (module.weight.std() / 0.01 - 1).abs() * math.sqrt(2 * module.weight.numel())
            assert n_errors < 5
            assert module.weight.mean().abs() < 5 * 0.01 / math.sqrt(module.weight.numel())
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
        if (bias := getattr(module, "bias", None)) is not None:
            assert not bias.any()


@pytest.mark.parametrize(("name", "image", "classes", "_n_parameters", "n_layers", "n_folded"), NETWORKS)
def test_every_layer_that_runs_is_quantized_and_every_batch_norm_folded(
    name, image, classes, _n_parameters, n_layers, n_folded
):
    narrow = {"nin": 48, "nin_gc": 64, "resnet18": 16, "trident": 8}[name]
    model = shake_batchnorm(build(name, channels=image[0], classes=classes, width=narrow))
    images = random_images(4, *image)
    spec = PtqSpec(method="ptq", weight_bits=16, act_bits=16, quantize_adds=True)
    quantized = prepare(model, spec, images[:2]).model
    calibrate(quantized, [images])
    freeze(quantized)
    report = describe_layers(quantized)
    n_adds = {"resnet18": 8}.get(name, 0)
    assert sum(layer.status == "quantized" for layer in report) == n_layers + n_adds
    assert sum(layer.kind == "Add" for layer in report) == n_adds
    assert sum(layer.folded_batchnorm is not None for layer in report) == n_folded
    left = [layer for layer in report if layer.status == "float"]
    assert all(layer.reason == "not called as a module when the model ran on the example" for layer in left)
    assert {layer.layer.split(".")[0] for layer in left} == ({"ageNN", "ethNN"} if name == "trident" else set())
    expected = predict(model, [images])
    torch.testing.assert_close(predict(quantized, [images]), expected, rtol=0, atol=float(expected.std()) / 100)


def test_with_all_heads_every_layer_of_trident_is_quantized():
    model, images = build("trident", channels=1, classes=2, width=8, heads="all"), random_images(4, 1, 48)
    quantized = prepare(model, PtqSpec(method="ptq", weight_bits=16, act_bits=16), images[:2]).model
    calibrate(quantized, [images])
    assert [layer.status for layer in describe_layers(quantized)] == ["quantized"] * (6 + 3 * 6)
    with torch.no_grad():
        outputs = zip(quantized.eval()(images), model.eval()(images), strict=True)
    for logits_NK, expected_NK in outputs:
        torch.testing.assert_close(logits_NK, expected_NK, rtol=0, atol=float(expected_NK.std()) / 100)


@pytest.mark.parametrize("side", [8, 9, 28, 32])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["small_cnn", "nin", "nin_gc"])
def test_three_networks_take_images_from_8_pixels_on_and_batches_of_one(name, side, training):
    model = build(name, classes=7, width=NARROW[name]).train(training)
    assert model(torch.zeros(1, 3, side, side)).shape == (1, 7)


@pytest.mark.parametrize(("name", "sides"), [("resnet18", (9, 28, 48)), ("trident", (33, 48, 64))])
def test_the_two_others_have_limits_of_their_own(name, sides):
    model = build(name, classes=2, width=NARROW[name])
    assert [model(torch.zeros(1, 3, side, side)).shape for side in sides] == [(1, 2)] * 3


@pytest.mark.parametrize("name", MODELS)
def test_the_width_is_the_number_of_channels_of_the_first_layer(name):
    narrow, original = build(name, classes=2, width=NARROW[name]), build(name, classes=2)
    for model, width in ((narrow, NARROW[name]), (original, WIDTHS[name])):
        assert len(next(module for module in model.modules() if isinstance(module, nn.Conv2d)).weight) == width
    factor = WIDTHS[name] // NARROW[name]
    for one, other in zip(original.parameters(), narrow.parameters(), strict=True):
        assert len(one) in (len(other), factor * len(other))


def test_the_original_width_is_left_out_of_the_spec():
    assert ModelSpec(name="nin", width=192) == ModelSpec(name="nin")
    assert ModelSpec(name="nin", width=16).width == 16
    assert ModelSpec(name="small_cnn", width=16).model_dump(exclude_defaults=True) == {"name": "small_cnn"}


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("small_cnn", 7, "small_cnn needs images of at least 8 x 8 pixels, got 7 x 40; enlarge them"),
        ("nin", 7, "nin needs images of at least 8 x 8 pixels, got 7 x 40; enlarge them"),
        ("resnet18", 8, "resnet18 needs images of at least 9 x 9 pixels, got 8 x 40; enlarge them"),
        ("trident", 32, "trident needs images of at least 33 x 33 pixels, got 32 x 40; enlarge them"),
        ("trident", 65, "trident needs images of at most 64 x 64 pixels, got 65 x 40; shrink them"),
    ],
)
def test_images_of_the_wrong_size_are_refused(name, side, message):
    with pytest.raises(ValueError, match=message):
        build(name, classes=2, width=NARROW[name])(torch.zeros(2, 3, side, 40))


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [("nin", 100, "of nin must be a multiple of 6, got 100; try 102"), ("nin_gc", 3, "multiple of 16, got 3; try 16")],
)
def test_a_width_that_does_not_divide_is_refused(name, width, message):
    with pytest.raises(ValueError, match=message):
        build(name, width=width)


@pytest.mark.parametrize(
    ("task", "classes", "sizes", "message"),
    [
        (None, 2, None, "trident has heads age, gender, ethnicity; the task of the data set is None"),
        ("digit", 10, None, "trident has heads age, gender, ethnicity; the task of the data set is 'digit'"),
        ("gender", 3, None, "the head 'gender' of trident has 2 classes, the task of the data set 3"),
        ("gender", 2, {"gender": 2}, "trident has heads age, gender, ethnicity; the data set has no age, ethnicity"),
    ],
)
def test_heads_that_do_not_fit_the_data_are_refused(task, classes, sizes, message):
    spec = ModelSpec(name="trident", heads="all")
    with pytest.raises(ValueError, match=message):
        build_model(spec, in_channels=1, n_classes=classes, seed=0, task=task, heads=sizes)


def test_the_data_may_lack_the_heads_that_do_not_run():
    spec = ModelSpec(name="trident", width=2)
    model = build_model(spec, in_channels=1, n_classes=3, seed=0, task="age", heads={"age": 3})
    out = {key: len(value) for key, value in model.state_dict().items() if key.endswith("fc4.bias")}
    assert out == {"ageNN.fc4.bias": 3, "genNN.fc4.bias": 2, "ethNN.fc4.bias": 5}


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])
def test_torchvisions_classifiers_are_built_by_name_and_return_one_tensor(name):
    model, again = (build(f"torchvision:{name}", classes=4) for _ in range(2))
    assert same_state(model, again)
    assert model(random_images(2, 3, 64)).shape == (2, 4)


def test_torchvisions_classifiers_refuse_grey_images_and_unknown_names():
    with pytest.raises(ValueError, match="resnet18 takes images of 3 channels, those of the data set have 1"):
        build("torchvision:resnet18", channels=1)
    with pytest.raises(ValueError, match=r"torchvision has no classifier 'resnet19'; it has alexnet, .*resnet18"):
        build("torchvision:resnet19")
    with pytest.raises(ValueError, match="torchvision has no classifier 'fcn_resnet50'"):
        build("torchvision:fcn_resnet50")


def user_network(*, in_channels: int, n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 16, n_classes))


def not_a_network(*, in_channels: int, n_classes: int) -> int:
    return in_channels + n_classes


def test_a_users_function_builds_its_network():
    first, again = build(f"{__name__}:user_network"), build(f"{__name__}:user_network")
    assert first(torch.zeros(5, 3, 4, 4)).shape == (5, 10)
    assert same_state(first, again)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:f", r"`model.name`: 'no_such_module:f' cannot be loaded \(No module named 'no_such_module'\)"),
        (f"{__name__}:nothing", "'test_quant_models:nothing' cannot be loaded .*; name a function of a module"),
        (f"{__name__}:not_a_network", "must return a torch.nn.Module, it returned int"),
    ],
)
def test_a_users_function_that_is_none_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        build(name)


@pytest.mark.parametrize("name", ["resnet19", "torchvision:", ":factory", "a b:c", "module:", "module:f:g"])
def test_an_unknown_name_is_a_literal_error(name):
    with pytest.raises(ValidationError) as caught:
        ModelSpec(name=name)
    (error,) = caught.value.errors()
    assert (error["type"], error["loc"]) == ("literal_error", ("name",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": {}, "width": 8}, "name\n.*valid string"),
        ({"name": "torchvision:resnet18", "width": 8}, "is not a setting of torchvision:resnet18; remove it"),
        ({"name": "package:factory", "width": 8}, "is not a setting of package:factory"),
        ({"name": "nin", "heads": "all"}, "is 'all', but nin has one head; only trident has several"),
        ({"name": "nin", "weights": "torchvision:DEFAULT"}, "'torchvision:DEFAULT', which only torchvision's models"),
        ({"name": "nin", "key_map": {"a": "b"}}, "renames the keys of a file, but `weights` names none"),
        ({"name": "nin", "weights": "a.pt", "key_map": "a=b"}, "must be a table from old prefix to new prefix"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        ModelSpec.model_validate(settings)


def test_a_model_spec_can_be_hashed_and_travels_as_json():
    spec = ModelSpec.model_validate({"name": "nin", "width": 6, "weights": "a.pt", "key_map": {"b": "x", "a": "y"}})
    assert spec.key_map == (("a", "y"), ("b", "x"))
    again = ModelSpec.model_validate_json(spec.model_dump_json())
    assert (again, hash(again)) == (spec, hash(spec))
    assert spec.architecture == ModelSpec(name="nin", width=6)
