"""An exported model in ONNX Runtime, without what changes numbers, answers as the same model does in torch.

The full matrix, of architectures at their original widths, is slow; some of it always runs, on narrow ones.
"""

import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deployed_models import NARROW, frozen, last_step
from torch import nn

from quantfair.quant import PtqSpec, QatSpec, export_onnx, predict
from quantfair.quant.deploy.onnxruntime import OnnxRuntime

BITS = {"W16A16": (16, 16), "W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}
MATRIX = list(product(NARROW, BITS, ("symmetric", "asymmetric"), ("ptq", "qat")))
ALWAYS = [
    ("small_cnn", "W16A16", "symmetric", "qat"),
    ("small_cnn", "W8A8", "symmetric", "ptq"),
    ("small_cnn", "W4A4", "asymmetric", "qat"),
    ("nin", "W8A8", "asymmetric", "qat"),
    ("resnet18", "W4A8", "symmetric", "qat"),
]


def spec_of(bits: str, scheme: str, method: str) -> PtqSpec | QatSpec:
    weight_bits, act_bits = BITS[bits]
    settings: dict[str, Any] = {"weight_bits": weight_bits, "act_bits": act_bits, "scheme": scheme}
    return (
        QatSpec(method="qat", epochs=1, lr=0.001, **settings) if method == "qat" else PtqSpec(method="ptq", **settings)
    )


def check_parity(name: str, bits: str, scheme: str, method: str, *, width: int | None, folder: Path) -> None:
    model, images_NCHW = frozen(name, spec_of(bits, scheme, method), width)
    export_onnx(model, images_NCHW[:2], folder / "model.onnx", metadata={})
    runtime = OnnxRuntime(folder / "model.onnx", session="exact", n_threads=1)
    batches = images_NCHW.split(256)
    expected_NK = predict(model, batches).numpy()
    found_NK = np.concatenate([runtime(batch.numpy()) for batch in batches])
    n_different = count_different(found_NK, expected_NK)
    difference = float(np.abs(found_NK - expected_NK).max())
    step = last_step(model)
    print(f"{name} {bits} {scheme} {method}: {n_different} answers differ, by {difference:.2g}, step {step:.2g}")
    n_few = (0.005 if "4" in bits else 0.001) * len(expected_NK)
    if n_different > n_few:
        # A sum that ends between two steps of a grid is rounded by its last bit. How many answers hang on that depends
        # on the model, and so on the CPU that trained it: torch with other convolutions changes as many.
        n_by_chance = count_different(predict_without_onednn(model, batches), expected_NK)
        print(f"torch with other convolutions: {n_by_chance} answers differ")
        assert n_different <= 2 * n_by_chance
    assert difference <= step + 1e-5 * np.abs(expected_NK).max()  # and float32's own


def count_different(logits_NK: np.ndarray, others_NK: np.ndarray) -> int:
    return int((logits_NK.argmax(1) != others_NK.argmax(1)).sum())


def predict_without_onednn(model: nn.Module, batches: Sequence[torch.Tensor]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a GPU that is not there
        with torch.backends.mkldnn.flags(enabled=False):
            return predict(model, batches).numpy()


@pytest.mark.parametrize(("name", "bits", "scheme", "method"), ALWAYS)
def test_an_exact_session_answers_as_torch_does(name: str, bits: str, scheme: str, method: str, tmp_path: Path) -> None:
    check_parity(name, bits, scheme, method, width=NARROW[name], folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bits", "scheme", "method"), MATRIX)
def test_every_architecture_at_its_original_width_answers_as_in_torch(
    name: str, bits: str, scheme: str, method: str, tmp_path: Path
) -> None:
    check_parity(name, bits, scheme, method, width=None, folder=tmp_path)
