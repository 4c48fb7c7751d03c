"""Our own exports and TensorRT: the rules say of a graph what the table says of its settings, and builds agree."""

from pathlib import Path
from typing import Any

import pytest
from deployed_models import NARROW, frozen
from exported_digits import export_digits
from quant_digits import EXAMPLE, trained_model

from quantfair.orchestrator.config.spec import load_sweep
from quantfair.quant import (
    PtqSpec,
    check_ahead_of_time,
    describe_layers,
    export_onnx,
    find_unsupported,
    find_unsupported_layers,
    lint_for_tensorrt,
)

SIGNED: dict[str, Any] = {"act_signed": "always"}
INT4: dict[str, Any] = {"weight_bits": 4, "act_bits": 32}
TABLE: list[tuple[dict[str, Any], bool]] = [
    (SIGNED, True),
    (INT4, True),
    ({}, False),
    ({**SIGNED, "weight_bits": 4, "act_bits": 4}, False),
    ({**SIGNED, "overrides": {"classifier": {"weight_bits": 4}}}, False),
]
MORE_OF_TABLE: list[tuple[dict[str, Any], bool]] = [
    ({**SIGNED, "granularity": "per_tensor"}, True),
    ({**SIGNED, "bn_fold": "none"}, True),
    ({**SIGNED, "overrides": {"classifier": {"quantize": False}}}, True),
    ({**INT4, "granularity": "per_tensor"}, True),
    ({"scheme": "asymmetric"}, False),
    ({**INT4, "scheme": "asymmetric"}, False),
    ({**SIGNED, "weight_bits": 16, "act_bits": 16}, False),
    ({**SIGNED, "weight_bits": 4}, False),
    ({"act_bits": 32}, False),
]


@pytest.mark.parametrize(
    ("settings", "is_supported"),
    [*TABLE, *(pytest.param(*row, marks=pytest.mark.slow) for row in MORE_OF_TABLE)],
    ids=str,
)
def test_table_and_rules_agree_on_an_export(settings: dict[str, Any], is_supported: bool) -> None:
    spec = PtqSpec(method="ptq", **settings)
    exported = export_digits(spec)
    assert (find_unsupported(spec, "tensorrt") is None) == is_supported
    assert (find_unsupported_layers(describe_layers(exported.model), "tensorrt") is None) == is_supported
    assert (lint_for_tensorrt(exported.proto) == []) == is_supported


def test_narrow_grids_are_refused_by_the_table_which_sees_what_no_graph_shows() -> None:
    assert find_unsupported(PtqSpec(method="ptq", weight_bits=6, act_bits=6, act_signed="always"), "tensorrt")


# tensorrt-rtx is optional: one build always runs and stands for all of them.
ALWAYS = ("small_cnn", SIGNED)
OTHERS = [(name, settings) for settings in (SIGNED, INT4) for name in NARROW if (name, settings) != ALWAYS]


@pytest.mark.trt_aot
@pytest.mark.parametrize(
    ("name", "settings"), [ALWAYS, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)], ids=str
)
def test_every_architecture_builds_as_it_asks(name: str, settings: dict[str, Any], trt: Any, tmp_path: Path) -> None:
    model, images_NCHW = frozen(name, PtqSpec(method="ptq", **settings), NARROW[name])
    export_onnx(model, images_NCHW[:2], tmp_path / "model.onnx", metadata={})
    report = check_ahead_of_time(tmp_path / "model.onnx")
    assert (report.refused_by, report.reasons) == (None, ())
    asked = "int8" if settings is SIGNED else "int4 weights"
    assert {layer.asked for layer in report.layers} == {asked}
    assert {layer.input_type for layer in report.layers} == ({"Int8"} if settings is SIGNED else {"Float"})


@pytest.mark.trt_aot
@pytest.mark.slow
@pytest.mark.parametrize(("half", "precision"), [(False, "Float"), (True, "Half")])
def test_float_models_build_in_their_own_type(half: bool, precision: str, trt: Any, tmp_path: Path) -> None:
    export_onnx(trained_model(), EXAMPLE, tmp_path / "model.onnx", metadata={}, half=half)
    report = check_ahead_of_time(tmp_path / "model.onnx")
    assert report.refused_by is None
    assert {layer.input_type for layer in report.layers} == {precision}


@pytest.mark.parametrize("name", ["quickstart", "utkface"])
def test_a_quantized_configuration_of_the_sweep_is_deployable(name: str) -> None:
    specs = [spec for experiment in load_sweep(name, []).experiments for spec in experiment.quant]
    deployable = [spec for spec in specs if find_unsupported(spec, "tensorrt") is None]
    assert [(spec.weight_bits, spec.act_bits) for spec in deployable] == [(8, 8)]
    assert all(find_unsupported(spec, "onnxruntime") is None for spec in specs)
