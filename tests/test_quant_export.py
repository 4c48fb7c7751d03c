"""What an exported file holds: the frozen grids as integers and Q/DQ pairs, nothing else, and what it is."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
import torch
from deployed_models import frozen
from exported_digits import ExportedModel, export_digits, quantize_digits
from onnx import TensorProto, numpy_helper
from quant_digits import EXAMPLE, TEST, TRAIN, trained_model
from torch import nn

from quantfair.quant import (
    ExportError,
    ModelSpec,
    PtqSpec,
    QatSpec,
    build_model,
    calibrate,
    export_onnx,
    freeze,
    predict,
    prepare,
)
from quantfair.quant.deploy import operator_table
from quantfair.quant.deploy.onnxruntime import OnnxRuntime
from quantfair.quant.layers.modules import quant_layers

NAMES = ("INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16")
TYPES: dict[str, int] = {name: TensorProto.DataType.Value(name) for name in NAMES}


def quantized(**settings: Any) -> nn.Module:
    return quantize_digits(PtqSpec(method="ptq", **settings))


def exported_once(**settings: Any) -> ExportedModel:
    return export_digits(PtqSpec(method="ptq", **settings))


def export(model: nn.Module, folder: Path, **options: Any) -> onnx.ModelProto:
    export_onnx(model, EXAMPLE, folder / "model.onnx", metadata={"quantfair.trial_id": "abc"}, **options)
    return onnx.load(folder / "model.onnx")


def integer_weights(model: onnx.ModelProto) -> list[TensorProto]:
    """The integer initializers that are dequantized, in the order of the layers."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    taken = [node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"]
    return [initializers[name] for name in taken if name in initializers]


def dequantized(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Every weight as onnx's own reference implementation dequantizes it, by the node that takes it."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    weights: dict[str, np.ndarray] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in initializers:
            only = onnx.helper.make_graph(
                [node], "one", [], [onnx.helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)],
                [initializers[name] for name in node.input],
            )  # fmt: skip
            proto = onnx.helper.make_model(only, opset_imports=model.opset_import, ir_version=model.ir_version)
            (weights[node.output[0]],) = onnx.reference.ReferenceEvaluator(proto).run(None, {})  # pyright: ignore
    return weights


@pytest.mark.parametrize(
    ("settings", "weight_type", "act_types"),
    [
        ({"weight_bits": 8, "act_bits": 8}, "INT8", {"INT8", "UINT8"}),
        ({"weight_bits": 8, "act_bits": 8, "act_signed": "always"}, "INT8", {"INT8"}),
        ({"weight_bits": 8, "act_bits": 8, "scheme": "asymmetric"}, "UINT8", {"UINT8"}),
        ({"weight_bits": 4, "act_bits": 8, "granularity": "per_tensor"}, "INT4", {"INT8", "UINT8"}),
        ({"weight_bits": 4, "act_bits": 4, "scheme": "asymmetric"}, "UINT4", {"UINT4", "UINT8"}),
        ({"weight_bits": 16, "act_bits": 16}, "INT16", {"INT16", "UINT16"}),
        ({"weight_bits": 2, "act_bits": 12}, "INT4", {"INT16", "UINT16"}),
    ],
)
def test_weights_are_integers_of_the_smallest_type_and_mean_what_the_frozen_model_holds(
    settings: dict[str, Any], weight_type: str, act_types: set[str]
) -> None:
    model = exported_once(**settings).model
    exported = exported_once(**settings).proto
    names = {value: name for name, value in TYPES.items()}
    onnx.shape_inference.infer_shapes(exported, strict_mode=True)
    assert [names[tensor.data_type] for tensor in integer_weights(exported)] == 4 * [weight_type]
    held = [layer.weight.detach().numpy() for _, layer in quant_layers(model)]
    for mine, theirs in zip(held, dequantized(exported).values(), strict=True):
        assert np.array_equal(mine, theirs)
    typed = onnx.shape_inference.infer_shapes(exported)
    types = {info.name: info.type.tensor_type.elem_type for info in typed.graph.value_info}
    quantize = [node for node in typed.graph.node if node.op_type == "QuantizeLinear"]
    assert {names[types[node.output[0]]] for node in quantize} == act_types


def test_there_is_no_stray_node() -> None:
    exported = exported_once().proto
    found = Counter(node.op_type for node in exported.graph.node)
    assert found == {
        "QuantizeLinear": 4, "DequantizeLinear": 8, "Conv": 3, "Relu": 3, "MaxPool": 2, "ReduceMean": 1, "Reshape": 1,
        "Gemm": 1,
    }  # fmt: skip
    assert [(entry.domain, entry.version) for entry in exported.opset_import] == [("", 21)]


@pytest.mark.parametrize("bits", [2, 3, 6])
def test_a_grid_that_is_narrower_than_its_type_is_clipped_to_its_own_ends(bits: int, tmp_path: Path) -> None:
    model = quantized(weight_bits=8, act_bits=bits)
    exported = export(model, tmp_path)
    assert sum(node.op_type == "Clip" for node in exported.graph.node) == 4
    found_NK = OnnxRuntime(tmp_path / "model.onnx", session="exact", n_threads=1)(TEST.images_NCHW.numpy())
    expected_NK = predict(model, [TEST.images_NCHW]).numpy()
    assert (found_NK.argmax(1) == expected_NK.argmax(1)).mean() >= 0.999


def test_a_batch_norm_goes_into_scales_and_bias_and_the_integers_stay_as_they_are(tmp_path: Path) -> None:
    model = quantized(bn_fold="none", scheme="asymmetric")
    with torch.no_grad():  # as training may leave them: a channel that is mirrored, and one that is switched off
        model.features.block1.bn.weight[0], model.features.block1.bn.weight[1] = -0.7, 0.0  # pyright: ignore
    exported = export(model, tmp_path)
    assert "BatchNormalization" not in {node.op_type for node in exported.graph.node}
    layer = dict(quant_layers(model))["features.block1.conv"]
    levels = (layer.weight_quantizer.to_levels(layer.weight) + layer.weight_quantizer.quant_min).detach().numpy()  # pyright: ignore
    packed = numpy_helper.to_array(integer_weights(exported)[0]).astype(np.float32)
    assert np.array_equal(packed[2:], levels[2:])
    assert np.array_equal(packed[0], 255 - levels[0])
    found_NK = OnnxRuntime(tmp_path / "model.onnx", session="exact", n_threads=1)(TEST.images_NCHW.numpy())
    expected_NK = predict(model, [TEST.images_NCHW]).numpy()
    assert (found_NK.argmax(1) == expected_NK.argmax(1)).mean() >= 0.999


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_any_batch_size_is_taken(batch: int, tmp_path: Path) -> None:
    network = OnnxRuntime(exported_once().write(tmp_path), session="fast", n_threads=1)
    assert network(TEST.images_NCHW[:batch].numpy()).shape == (batch, 10)


def test_a_file_says_what_it_is_and_keeps_nothing_of_where_it_was_made() -> None:
    exported = exported_once().proto
    assert {entry.key: entry.value for entry in exported.metadata_props} == {"quantfair.trial_id": "abc"}
    assert [value.name for value in (*exported.graph.input, *exported.graph.output)] == ["images", "logits"]
    assert str(Path(__file__).parent.parent).encode() not in exported_once().data
    assert not [node for node in exported.graph.node if node.metadata_props or node.doc_string]


def test_float_models_are_exported_in_float32_and_float16(tmp_path: Path) -> None:
    expected_NK = predict(trained_model(), [TEST.images_NCHW]).numpy()
    for half, tolerance in ((False, 1e-4), (True, 0.1)):
        exported = export(trained_model(), tmp_path, half=half)
        kinds = {t.data_type for t in exported.graph.initializer if len(t.dims) == 4}
        assert kinds == {TensorProto.FLOAT16 if half else TensorProto.FLOAT}
        found_NK = OnnxRuntime(tmp_path / "model.onnx", session="exact", n_threads=1)(TEST.images_NCHW.numpy())
        assert np.abs(found_NK - expected_NK).max() < tolerance


def test_every_head_is_an_output(tmp_path: Path) -> None:
    spec = ModelSpec(name="trident", width=4, heads="all")
    heads = {"age": 9, "gender": 2, "ethnicity": 5}
    model = build_model(spec, in_channels=3, n_classes=5, seed=0, task="ethnicity", heads=heads)
    images_NCHW = torch.rand(3, 3, 40, 40)
    prepared = prepare(model, PtqSpec(method="ptq"), images_NCHW).model
    calibrate(prepared, [images_NCHW])
    freeze(prepared)
    export_onnx(prepared, images_NCHW, tmp_path / "model.onnx", metadata={})
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"images": images_NCHW.numpy()})
    assert [output.shape for output in outputs] == [(3, 5), (3, 9), (3, 2)]  # pyright: ignore[reportAttributeAccessIssue]


class Odd(nn.Module):
    """Grouped and transposed convolutions, a layer called twice, batch norms with negative and zero factors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.grouped, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8)
        self.up, self.bn3 = nn.ConvTranspose2d(8, 6, 2, stride=2, bias=False), nn.BatchNorm2d(6)
        self.grouped_up, self.bn4 = nn.ConvTranspose2d(6, 6, 2, stride=2, groups=3), nn.BatchNorm2d(6)
        self.twice, self.bn5 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.last, self.bn6 = nn.Linear(6, 5), nn.BatchNorm1d(5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        self.bn1.weight.data[2] = 0

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        x = self.bn2(self.grouped(self.bn1(self.first(images_NCHW)).relu())).relu()
        x = self.bn4(self.grouped_up(self.bn3(self.up(x)))).relu()
        x = self.bn5(self.twice(self.twice(x)))
        return self.bn6(self.last(x.mean((2, 3))))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"granularity": "per_tensor"},
        {"scheme": "asymmetric", "granularity": "per_tensor", "weight_bits": 5, "act_bits": 5},
        {"scheme": "asymmetric", "act_bits": 4},
        pytest.param({"scheme": "asymmetric", "weight_bits": 3, "act_bits": 3}, marks=pytest.mark.slow),
        {"weight_bits": 4, "act_bits": 32, "overrides": {"grouped": {"quantize": False}}},
    ],
    ids=str,
)
def test_batch_norms_behind_odd_layers_change_no_number(settings: dict[str, Any], tmp_path: Path) -> None:
    images_NCHW = torch.randn(64, 3, 8, 8)
    model = prepare(Odd(), PtqSpec(method="ptq", bn_fold="none", **settings), images_NCHW[:2]).model
    calibrate(model, [images_NCHW])
    freeze(model)
    export_onnx(model, images_NCHW[:2], tmp_path / "model.onnx", metadata={})
    found_NK = OnnxRuntime(tmp_path / "model.onnx", session="exact", n_threads=1)(images_NCHW.numpy())
    difference = np.abs(found_NK - predict(model, [images_NCHW]).numpy())
    assert np.median(difference) < 1e-6
    assert difference.max() < 0.02


def test_torchvisions_classifiers_are_exported(tmp_path: Path) -> None:
    images_NCHW = torch.randn(8, 3, 64, 64)
    model = build_model(ModelSpec(name="torchvision:squeezenet1_1"), in_channels=3, n_classes=10, seed=0, task=None)
    prepared = prepare(model, PtqSpec(method="ptq"), images_NCHW).model
    calibrate(prepared, [images_NCHW])
    freeze(prepared)
    export_onnx(prepared, images_NCHW, tmp_path / "model.onnx", metadata={})
    found_NK = OnnxRuntime(tmp_path / "model.onnx", session="exact", n_threads=1)(images_NCHW.numpy())
    assert np.abs(found_NK - predict(prepared, [images_NCHW]).numpy()).max() < 0.05


def test_additions_whose_inputs_are_quantized_are_too(tmp_path: Path) -> None:
    spec = PtqSpec(method="ptq", quantize_adds=True)
    model, images_NCHW = frozen("resnet18", spec, 8)
    export_onnx(model, images_NCHW[:2], tmp_path / "model.onnx", metadata={})
    found_NK = OnnxRuntime(tmp_path / "model.onnx", session="exact", n_threads=1)(images_NCHW[:512].numpy())
    expected_NK = predict(model, [images_NCHW[:512]]).numpy()
    assert (found_NK.argmax(1) == expected_NK.argmax(1)).mean() >= 0.998


class Branching(nn.Module):
    """Control flow on the values of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 3)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        logits = self.conv(images_NCHW).mean((2, 3))
        return logits if images_NCHW.sum() > 0 else -logits


class Strange(nn.Module):
    """An operator that ONNX has not."""

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(images_NCHW).mean((2, 3))


class OneSize(nn.Module):
    """A batch size that is fixed."""

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return images_NCHW.reshape(2, -1)


class OneByOne(nn.Module):
    """A loop over the images, which the exporter unrolls."""

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return torch.stack([image_CHW.mean((1, 2)) for image_CHW in images_NCHW])


def iao() -> nn.Module:
    model = prepare(trained_model(), PtqSpec(method="ptq", preset="iao", act_observer="percentile"), EXAMPLE).model
    calibrate(model, [TRAIN.images_NCHW])
    freeze(model)
    return model


def calibrated() -> nn.Module:
    model = prepare(trained_model(), PtqSpec(method="ptq"), EXAMPLE).model
    calibrate(model, [TRAIN.images_NCHW])
    return model


def in_training() -> nn.Module:
    model = prepare(trained_model(), QatSpec(method="qat", epochs=1, lr=0.1), EXAMPLE).model
    calibrate(model, [TRAIN.images_NCHW])
    return model


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Branching, {}, "Branching cannot be exported: .*data-dependent"),
        (Strange, {}, "Strange cannot be exported: .*bessel_j0"),
        (OneSize, {}, "OneSize cannot be exported: it gives logits for a fixed number of images"),
        (OneByOne, {}, "OneByOne cannot be exported: it gives logits for a fixed number of images"),
        (iao, {}, "preset 'iao' rounds half away from zero.* set preset = 'none'"),
        (in_training, {}, "not frozen: call `freeze`"),
        (calibrated, {}, "not frozen: call `freeze`"),
        (lambda: prepare(trained_model(), PtqSpec(method="ptq"), EXAMPLE).model, {}, "has no .* range yet"),
        (quantized, {"half": True}, "export it without `half`"),
    ],
)
def test_what_cannot_be_exported_says_why_and_leaves_no_file(
    make: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(make(), EXAMPLE, tmp_path / "model.onnx", metadata={}, **options)
    assert not list(tmp_path.iterdir())


def test_a_model_of_more_than_two_gigabytes_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    model = nn.Linear(2**15, 2**15, device="meta")
    with pytest.raises(ExportError, match=r"has 4\.3 GB of weights, and an ONNX file holds 2 GB"):
        export_onnx(model, EXAMPLE, tmp_path / "model.onnx", metadata={})


def test_torchs_table_of_operators_is_read_once_and_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = exported_once()
    before = operator_table._read_once.cache_info()
    assert before.currsize == 1, "torch has moved the table: see `operator_table.py`"
    export(kept.model, tmp_path)
    assert operator_table._read_once.cache_info().misses == before.misses
    assert (tmp_path / "model.onnx").read_bytes() == kept.data

    monkeypatch.setattr(operator_table, "_read", None)  # torch itself reads it now
    export(kept.model, tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == kept.data


def test_the_model_is_not_touched(tmp_path: Path) -> None:
    model = quantized(bn_fold="none")
    before = predict(model, [EXAMPLE])
    export(model, tmp_path)
    assert torch.equal(predict(model, [EXAMPLE]), before)
