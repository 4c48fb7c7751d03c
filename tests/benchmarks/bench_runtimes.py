"""How fast and how large exported models are in ONNX Runtime, against the FP32 file of the same network.

Random weights and images of 3 x 32 x 32 (which decide neither); PTQ with BN folded; one thread; batches of 1 and 256.
All files of a network take turns, and the ratio to FP32 is taken in each round: its median and 10th to 90th percentile.
CPU time, which other work on the machine disturbs least. One JSON document comes last.
Ratios above 1 say how many times faster than FP32 a file is.
"""

import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from quantfair.quant import ModelSpec, OnnxRuntime, PtqSpec, build_model, calibrate, export_onnx, freeze, prepare

ROUNDS = {1: 51, 256: 11}
MODELS = ("small_cnn", "nin", "resnet18")
SETTINGS: dict[str, dict[str, Any]] = {
    "W8A8": {},
    "W8A8 asymmetric": {"scheme": "asymmetric"},
    "W8A8 act_signed=always": {"act_signed": "always"},
    "W16A16": {"weight_bits": 16, "act_bits": 16},
    "W4A8": {"weight_bits": 4},
    "W4A4": {"weight_bits": 4, "act_bits": 4},
    "W8A8 quantize_adds": {"quantize_adds": True},
}


def export_all(name: str, folder: Path) -> dict[str, Path]:
    """Return the files of a network: fp32, and one for each of SETTINGS."""
    images_NCHW = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = build_model(ModelSpec(name=name), in_channels=3, n_classes=10, seed=0, task=None)
    models: dict[str, nn.Module] = {"fp32": model}
    for label, settings in SETTINGS.items():
        models[label] = prepare(model, PtqSpec(method="ptq", **settings), images_NCHW[:2]).model
        calibrate(models[label], [images_NCHW])
        freeze(models[label])
    paths = {label: folder / f"{name} {label}.onnx" for label in models}
    for label, path in paths.items():
        export_onnx(models[label], images_NCHW[:2], path, metadata={})
    return paths


def time_rounds(networks: dict[str, OnnxRuntime], batch: int) -> dict[str, np.ndarray]:
    """Return seconds of CPU time of each network in every round."""
    images_NCHW = np.random.default_rng(0).standard_normal((batch, 3, 32, 32)).astype(np.float32)
    taken_s: dict[str, list[float]] = {label: [] for label in networks}
    for _ in range(ROUNDS[batch] + 2):
        for label, network in networks.items():
            started = time.process_time()
            network(images_NCHW)
            taken_s[label].append(time.process_time() - started)
    return {label: np.array(values[2:]) for label, values in taken_s.items()}


def measure(name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Return for each file of a network its size, its kernels, milliseconds, and how many times faster than FP32."""
    paths = export_all(name, folder)
    networks = {label: OnnxRuntime(path, session="fast", n_threads=1) for label, path in paths.items()}
    sizes = {label: path.stat().st_size for label, path in paths.items()}
    rows: dict[str, dict[str, Any]] = {
        label: {"kilobytes": round(sizes[label] / 1e3, 1), "kernels": network.kernels}
        for label, network in networks.items()
    }
    for batch in ROUNDS:
        taken_s = time_rounds(networks, batch)
        for label, values in taken_s.items():
            low, middle, high = np.percentile(taken_s["fp32"] / values, [10, 50, 90]).round(2)
            rows[label] |= {f"ms_{batch}": round(1e3 * float(np.median(values)), 3)}
            rows[label] |= {f"speed_{batch}": float(middle), f"speed_{batch}_p10_p90": [float(low), float(high)]}
    return rows


def main() -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = {"machine": platform.platform(), "onnxruntime": OnnxRuntime.version}
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            results[name] = measure(name, Path(folder))
            for label, row in results[name].items():
                print(
                    f"{name:10s} {label:24s} {row['kilobytes']:9.1f} kB  {row['ms_256']:8.2f} ms  x{row['speed_256']}"
                )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
