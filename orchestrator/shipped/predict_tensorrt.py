"""Classify images with model.engine, which lies beside this file, on the kind of GPU that it was built on.

    pip install numpy pillow torch 'tensorrt>=10.13,<12'
    python predict.py IMAGE [IMAGE ...]

model.json says what the engine is bound to, and what its images go through.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorrt as trt  # pyright: ignore[reportMissingImports]
import torch
from PIL import Image

FOLDER = Path(__file__).parent


def read_image(path: str, shape: list[int], mean: list[float], std: list[float]) -> np.ndarray:
    """Return one image as the network takes it, CHW."""
    n_channels, height, width = shape
    image = (
        Image.open(path).convert("L" if n_channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    )
    pixels_CHW = np.asarray(image, np.float32).reshape(height, width, n_channels).transpose(2, 0, 1) / 255
    values = (pixels_CHW - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    return values.astype(np.float32)


def main(paths: list[str]) -> None:
    """Print the likeliest class of every image, with its probability."""
    facts = json.loads((FOLDER / "model.json").read_text())
    images, names = json.loads(facts["quantfair.images"]), json.loads(facts["quantfair.class_names"])
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine((FOLDER / "model.engine").read_bytes())
    if engine is None:
        sys.exit(
            f"The engine was built for TensorRT {facts['tensorrt']} and SM {facts['sm']}; here it cannot be loaded."
        )
    context = engine.create_execution_context()
    batch_NCHW = torch.from_numpy(np.stack([read_image(path, **images) for path in paths])).cuda()
    context.set_input_shape("images", tuple(batch_NCHW.shape))
    logits_NK = torch.empty(tuple(context.get_tensor_shape("logits")), device="cuda")
    for name, tensor in (("images", batch_NCHW), ("logits", logits_NK)):
        context.set_tensor_address(name, tensor.data_ptr())
    context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
    for path, p_K in zip(paths, logits_NK.softmax(dim=1).cpu().numpy(), strict=True):
        print(f"{path}: {names[p_K.argmax()]} ({p_K.max():.3f})")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("Usage: python predict.py IMAGE [IMAGE ...]")
    main(sys.argv[1:])
