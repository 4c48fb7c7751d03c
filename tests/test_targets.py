"""What the table of runtimes says of real specs and of prepared models."""

import pytest

from quantfair.quant import (
    RUNTIMES,
    Fp32FtSpec,
    Fp32Spec,
    LayerReport,
    PtqSpec,
    QatSpec,
    find_unsupported,
    find_unsupported_layers,
)

INT8 = {"act_signed": "always"}


def ptq(**settings: object) -> PtqSpec:
    return PtqSpec.model_validate({"method": "ptq", **settings})


def weight_only(weight_bits: int, **settings: object) -> PtqSpec:
    return ptq(weight_bits=weight_bits, **settings).model_copy(update={"act_bits": 32})


FLOATS = (Fp32Spec(method="fp32"), Fp32FtSpec(method="fp32_ft", epochs=1, lr=0.1))
DEPLOYABLE = (
    *FLOATS,
    ptq(**INT8),
    ptq(**INT8, granularity="per_tensor", quantize_adds=True),
    QatSpec(method="qat", epochs=1, lr=0.1, act_signed="always"),
    ptq(**INT8, overrides={"fc": {"quantize": False}, "conv": {"act_observer": "mse"}}),
    ptq(**INT8, overrides={"*": {"bits": 8}}, weight_bits=4, act_bits=4),
    weight_only(4),
    weight_only(4, granularity="per_tensor"),
)
REFUSED = (
    (ptq(), 'act_signed = "auto": TensorRT has no unsigned integers.* set act_signed = "always"'),
    (ptq(**INT8, scheme="asymmetric"), 'every zero point must be 0.* set scheme = "symmetric"'),
    (ptq(**INT8, weight_bits=16, act_bits=16), "no integers of more than 8 bits; set bits = 8, or deploy the fp32 mod"),
    (ptq(**INT8, weight_bits=8, act_bits=16), "weight_bits = 8 and act_bits = 16: TensorRT has no integers of more"),
    (
        ptq(**INT8, weight_bits=4),
        "INT4 for weights alone; set weight_bits = 8 and act_bits = 8, or weight_bits = 4 and",
    ),
    (ptq(**INT8, weight_bits=4, act_bits=4), "INT4 for weights alone"),
    (ptq(**INT8, weight_bits=6, act_bits=6), "grids of 8 bits, and of 4 bits for weights alone"),
    (weight_only(8), "weights alone in INT4 only, and computes this in float"),
    (weight_only(16), "no integers of more than 8 bits"),
    (weight_only(4, scheme="asymmetric"), 'set scheme = "symmetric"'),
    (weight_only(4, first_last_bits=8), "^first_last_bits: weight_bits = 8 and act_bits = 32"),
    (ptq(**INT8, first_last_bits=4), "^first_last_bits: weight_bits = 4 and act_bits = 4"),
    (ptq(**INT8, overrides={"fc": {"weight_bits": 4}}), r'^overrides\."fc": weight_bits = 4 and act_bits = 8'),
    (ptq(preset="iao", act_observer="percentile"), 'half away from zero.* set preset = "none"'),
)


@pytest.mark.parametrize("spec", DEPLOYABLE, ids=str)
def test_tensorrt_takes_floats_int8_with_signed_activations_and_int4_weights(spec: PtqSpec) -> None:
    assert find_unsupported(spec, "tensorrt") is None


@pytest.mark.parametrize(("spec", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_whatever_else_tensorrt_refuses_names_the_setting_to_change(spec: PtqSpec, reason: str) -> None:
    told = find_unsupported(spec, "tensorrt")
    assert told is not None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(told)


@pytest.mark.parametrize("spec", [*DEPLOYABLE, *(spec for spec, _ in REFUSED[:-1])], ids=str)
def test_onnxruntime_and_torch_take_every_grid_of_the_engine(spec: PtqSpec) -> None:
    assert find_unsupported(spec, "onnxruntime") is None
    assert find_unsupported(spec, "torch") is None


def test_onnxruntime_has_not_the_rounding_of_preset_iao() -> None:
    spec = ptq(preset="iao", act_observer="percentile")
    assert 'set preset = "none"' in str(find_unsupported(spec, "onnxruntime"))
    assert find_unsupported(spec, "torch") is None


def test_an_unknown_runtime_is_an_error() -> None:
    with pytest.raises(ValueError, match=f"`runtime` must be one of {', '.join(['torch', *RUNTIMES])}, got 'openvino'"):
        find_unsupported(ptq(), "openvino")


def report(kind: str = "Conv2d", *, weight: int | None = 8, act: int | None = 8, grid: str = "signed") -> LayerReport:
    return LayerReport("layer", kind, "quantized", None, 9, weight, act, "symmetric", "per_channel", f"{grid} 0..1")


def test_what_calibration_and_overrides_made_of_a_layer_is_judged_too() -> None:
    floats = LayerReport("norm", "LayerNorm", "float", "has no quantized form", 9)
    fine = [floats, report(), report("Conv1d"), report("Conv3d"), report("Linear"), report("Add", weight=None)]
    fine += [report("ConvTranspose2d", weight=4, act=32), report(weight=4, act=None)]
    assert find_unsupported_layers(fine, "tensorrt") is None
    unsigned = find_unsupported_layers([*fine, report(grid="unsigned")], "tensorrt")
    assert str(unsigned).startswith("layer 'layer' (Conv2d): act_signed = \"auto\": TensorRT has no unsigned integers")
    assert "INT4 for weights alone" in str(find_unsupported_layers([report(weight=4)], "tensorrt"))
    assert find_unsupported_layers([report(grid="unsigned"), report(weight=4)], "onnxruntime") is None
    assert find_unsupported_layers([report(weight=4)], "torch") is None


@pytest.mark.parametrize(
    ("act", "reason"),
    [(4, "act_bits = 4: TensorRT has INT4 for weights alone"), (16, "no integers of more than 8 bits")],
)
def test_a_join_of_other_bits_than_a_runtime_has_says_so(act: int, reason: str) -> None:
    assert reason in str(find_unsupported_layers([report("Add", weight=None, act=act)], "tensorrt"))


def test_a_quantized_transposed_convolution_is_left_float_by_name() -> None:
    told = find_unsupported_layers([report("ConvTranspose2d")], "tensorrt")
    assert told is not None
    assert "computes this layer in float" in told
    assert 'overrides = {"layer" = {quantize = false}}' in told
