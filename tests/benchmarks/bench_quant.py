"""Cost of fake quantization, as ratios: against ATen's kernels, and against the float model.

Both sides run in this process, on one thread, in turn; the median of the repeats counts. CPU time, which other work on
the machine disturbs least. Run from the repository root with PYTHONPATH=. ; one JSON document comes last.
Ratios above 1 say how many times slower than the other side we are.
"""

import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from quant import ModelSpec, PtqSpec, QatSpec, build_model, calibrate, freeze, prepare
from quant.fake_quant import fake_quantize

REPEATS = 41


def compare(ours: Callable[[], object], theirs: Callable[[], object], *, inner: int = 1) -> dict[str, float]:
    """Run both in turn; return their median milliseconds of CPU time and the ratio."""
    times_s: tuple[list[float], list[float]] = ([], [])
    for repeat in range(REPEATS + 2):
        for side, function in zip(times_s, (ours, theirs), strict=True):
            started = time.process_time()
            for _ in range(inner):
                function()
            if repeat >= 2:
                side.append(time.process_time() - started)
    ours_ms, theirs_ms = (statistics.median(side) / inner * 1e3 for side in times_s)
    return {"ours_ms": round(ours_ms, 4), "theirs_ms": round(theirs_ms, 4), "ratio": round(ours_ms / theirs_ms, 3)}


def forward_and_backward(x: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
    ones = torch.ones_like(x)

    def step() -> None:
        x.grad = None
        function(x).backward(ones)

    return step


def compare_kernels() -> dict[str, dict[str, float]]:
    """fake_quantize against ATen's, forward and backward, 8 bits symmetric."""
    activation = torch.randn(64, 64, 32, 32).requires_grad_()
    scale = activation.detach().abs().max() / 127
    weight = (torch.randn(256, 256, 3, 3) * 0.05).requires_grad_()
    scales = weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    zero_points = torch.zeros(256, dtype=torch.int32)

    def aten_per_tensor(x: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(x, float(scale), 0, -128, 127)

    def aten_per_channel(x: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_channel_affine(x, scales.flatten(), zero_points, 0, -128, 127)

    return {
        "fake_quantize_per_tensor_fwd_bwd_vs_aten": compare(
            forward_and_backward(activation, lambda x: fake_quantize(x, scale, None, -128, 127)),
            forward_and_backward(activation, aten_per_tensor),
        ),
        "fake_quantize_per_channel_fwd_bwd_vs_aten": compare(
            forward_and_backward(weight, lambda x: fake_quantize(x, scales, None, -128, 127)),
            forward_and_backward(weight, aten_per_channel),
        ),
    }


def training_step(model: torch.nn.Module, images_NCHW: torch.Tensor, labels_N: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images_NCHW), labels_N).backward()
        optimizer.step()

    return step


def evaluation(model: torch.nn.Module, images_NCHW: torch.Tensor) -> Callable[[], object]:
    model.eval()

    @torch.no_grad()
    def evaluate() -> torch.Tensor:
        return model(images_NCHW)

    return evaluate


def compare_models(side: int) -> dict[str, dict[str, float]]:
    """QAT step against float step (batch 64), frozen against float evaluation (batch 256), small_cnn, 8 bits."""
    images_NCHW, labels_N = torch.randn(256, 3, side, side), torch.randint(10, (64,))
    model = build_model(ModelSpec(name="small_cnn"), in_channels=3, n_classes=10, seed=0)
    ptq, qat = PtqSpec(method="ptq"), QatSpec(method="qat", epochs=1, lr=1e-3)
    frozen, trained = (prepare(model, spec, images_NCHW[:2]).model for spec in (ptq, qat))
    for prepared in (frozen, trained):
        calibrate(prepared, [images_NCHW])
    freeze(frozen)
    batch = images_NCHW[:64], labels_N
    return {
        f"frozen_evaluation_vs_fp32_{side}x{side}": compare(
            evaluation(frozen, images_NCHW), evaluation(model, images_NCHW), inner=3
        ),
        f"qat_step_vs_fp32_step_{side}x{side}": compare(
            training_step(trained, *batch), training_step(model, *batch), inner=3
        ),
    }


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = {**compare_kernels(), **compare_models(8), **compare_models(32)}
    print(json.dumps({"benchmark": "quant", "torch": torch.__version__, "repeats": REPEATS, **result}, indent=2))


if __name__ == "__main__":
    main()
