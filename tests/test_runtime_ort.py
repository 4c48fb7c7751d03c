"""ONNX Runtime's two kinds of session: what the fast one changes, what the exact one does not, and bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_digits import export_digits
from quant_digits import TEST

from quantfair.quant import (
    OnnxRuntime,
    PtqSpec,
    RuntimeFailureError,
    measure_latency,
    predict,
)

IMAGES = TEST.images_NCHW


def export(folder: Path, **settings: Any) -> tuple[Path, np.ndarray]:
    """A quantized model's file, and its logits in torch."""
    exported = export_digits(PtqSpec(method="ptq", **settings))
    return exported.write(folder), predict(exported.model, [IMAGES]).numpy()


def differences(folder: Path, **settings: Any) -> dict[str, np.ndarray]:
    path, expected_NK = export(folder, **settings)
    sessions = {name: OnnxRuntime(path, session=name, n_threads=1) for name in ("fast", "exact")}
    return {name: np.abs(network(IMAGES.numpy()) - expected_NK) for name, network in sessions.items()}


@pytest.mark.parametrize(
    ("settings", "has_integer_kernels"),
    [
        ({}, True),  # unsigned after ReLU
        ({"scheme": "asymmetric"}, True),
        ({"act_signed": "always"}, False),  # the ReLU cannot go into a signed grid
        ({"weight_bits": 4}, False),
        ({"weight_bits": 16, "act_bits": 16}, False),
    ],
)
def test_fast_sessions_run_integer_kernels_where_the_grid_allows(
    settings: dict[str, Any], has_integer_kernels: bool, tmp_path: Path
) -> None:
    path, _ = export(tmp_path, **settings)
    assert ("QLinearConv" in OnnxRuntime(path, session="fast", n_threads=1).kernels) == has_integer_kernels
    assert "QLinear" not in OnnxRuntime(path, session="exact", n_threads=1).kernels


@pytest.mark.parametrize(
    "settings", [{}, {"weight_bits": 4, "act_bits": 4}, {"weight_bits": 4, "act_signed": "always"}]
)
def test_a_fast_session_changes_numbers_that_an_exact_one_keeps(settings: dict[str, Any], tmp_path: Path) -> None:
    found = differences(tmp_path, **settings)
    assert found["fast"].mean() > max(3 * found["exact"].mean(), 1e-4)


def test_a_fast_session_cuts_off_the_biases_of_16_bits(tmp_path: Path) -> None:
    found = differences(tmp_path, weight_bits=16, act_bits=16)
    assert found["exact"].max() < 1e-3
    assert found["fast"].max() > 1  # 2^31 * scale_x * scale_w is below a bias


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path, _ = export(tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(
        RuntimeFailureError, match=r"cannot load model\.onnx: .*; export it again, or update onnxruntime"
    ):
        OnnxRuntime(path, session="fast", n_threads=1)
    with pytest.raises(RuntimeFailureError, match=r"cannot load none\.onnx"):
        OnnxRuntime(tmp_path / "none.onnx", session="fast", n_threads=1)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    path, _ = export(tmp_path)
    network = OnnxRuntime(path, session="fast", n_threads=1)
    with pytest.raises(RuntimeFailureError, match=r"refused images of shape \(2, 1, 9, 9\)"):
        network(np.zeros((2, 1, 9, 9), np.float32))


def test_latency_is_of_ten_calls_at_least(tmp_path: Path) -> None:
    path, _ = export(tmp_path)
    latency = measure_latency(OnnxRuntime(path, session="fast", n_threads=1), IMAGES[:4].numpy(), seconds=0)
    assert latency.n == 10
    assert 0 < latency.p50_ms <= latency.p95_ms
