"""Cost of fake quantization, as ratios: against ATen's kernels, and against the float model.

Both sides run in this process, on one thread, in turn; the median of the repeats counts. CPU time, which other work on
the machine disturbs least. One JSON document comes last.
Ratios above 1 say how many times slower than the other side we are.
"""

import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from quantfair.quant import ModelSpec, PtqSpec, QatSpec, build_model, calibrate, collect, freeze, prepare
from quantfair.quant.quantizer.fake_quantize import fake_quantize

REPEATS = 21


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
    """fake_quantize against ATen's, forward and backward, 8 bits; per channel symmetric."""
    activation = torch.randn(64, 64, 32, 32).requires_grad_()
    scale = activation.detach().abs().max() / 127
    weight = (torch.randn(256, 256, 3, 3) * 0.05).requires_grad_()
    scales = weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    zero_points = torch.zeros(256, dtype=torch.int32)
    offset = torch.tensor(117.0)

    def per_tensor(zero_point: int, quant_min: int, quant_max: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: torch.fake_quantize_per_tensor_affine(x, float(scale), zero_point, quant_min, quant_max)

    def per_channel(x: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_channel_affine(x, scales.flatten(), zero_points, 0, -127, 127)

    sides = {
        "per_tensor_symmetric": (
            activation, lambda x: fake_quantize(x, scale, None, -128, 127), per_tensor(0, -128, 127)),
        "per_tensor_asymmetric": (
            activation, lambda x: fake_quantize(x, scale, offset, 0, 255), per_tensor(117, 0, 255)),
        "per_channel": (weight, lambda x: fake_quantize(x, scales, None, -127, 127), per_channel),
    }  # fmt: skip
    return {
        f"fake_quantize_fwd_bwd_{name}_vs_aten": compare(forward_and_backward(x, ours), forward_and_backward(x, theirs))
        for name, (x, ours, theirs) in sides.items()
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


def compare_models(name: str, *, batch: int, side: int) -> dict[str, dict[str, float]]:
    """QAT step, plain and folded, against the float step, and frozen against float evaluation; 8 bits, 3 channels."""
    images_NCHW, labels_N = torch.randn(batch, 3, side, side), torch.randint(10, (batch,))
    model = build_model(ModelSpec(name=name), in_channels=3, n_classes=10, seed=0)
    recipe = {"method": "qat", "epochs": 1, "lr": 1e-3}
    specs: dict[str, PtqSpec | QatSpec] = {
        "frozen_evaluation": PtqSpec(method="ptq"),
        "qat_step": QatSpec.model_validate(recipe),
        "qat_step_folded": QatSpec.model_validate({**recipe, "bn_fold": "fold"}),
        "qat_step_folded_per_tensor": QatSpec.model_validate(
            {**recipe, "bn_fold": "fold_calibrated", "granularity": "per_tensor"}
        ),
        "qat_step_learned_scales": QatSpec.model_validate({**recipe, "scales": "learned"}),
    }
    ratios = {}
    for label, spec in specs.items():
        prepared = prepare(model, spec, images_NCHW[:2]).model
        calibrate(prepared, [images_NCHW])
        if isinstance(spec, PtqSpec):
            freeze(prepared)
            sides = evaluation(prepared, images_NCHW), evaluation(model, images_NCHW)
        else:
            sides = training_step(prepared, images_NCHW, labels_N), training_step(model, images_NCHW, labels_N)
        ratios[f"{name}_{side}x{side}_{label}_vs_fp32"] = compare(*sides)
    return ratios


def compare_calibrations() -> dict[str, dict[str, float]]:
    """Nine PTQ configurations of nin (3 bit widths x 3 observers) from one pass, against one configuration."""
    images = torch.randn(64, 3, 32, 32).split(32)
    model = build_model(ModelSpec(name="nin"), in_channels=3, n_classes=10, seed=0)
    specs = [
        PtqSpec.model_validate({"method": "ptq", "weight_bits": bits, "act_bits": bits, "act_observer": observer})
        for bits in (16, 8, 4)
        for observer in ("minmax", "ema", "percentile")
    ]

    def calibrate_all(chosen: list[PtqSpec]) -> Callable[[], None]:
        models = [prepare(model, spec, images[0][:2]).model for spec in chosen]

        def run() -> None:
            calibration = collect(model, images)
            for prepared in models:
                calibrate(prepared, calibration)

        return run

    return {"calibrating_9_configurations_vs_1": compare(calibrate_all(specs), calibrate_all(specs[:1]))}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = {
        **compare_kernels(),
        **compare_models("nin", batch=16, side=32),
        **compare_models("small_cnn", batch=64, side=32),
        **compare_models("small_cnn", batch=64, side=8),
        **compare_calibrations(),
    }
    print(json.dumps({"benchmark": "quant", "torch": torch.__version__, "repeats": REPEATS, **result}, indent=2))


if __name__ == "__main__":
    main()
