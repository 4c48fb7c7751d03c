"""Classify images with model.onnx, which lies beside this file.

    pip install numpy onnxruntime pillow
    python predict.py IMAGE [IMAGE ...]

The file says itself what its images go through and what its classes are called. The session is ONNX Runtime's default,
in which this model was measured.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

MODEL = Path(__file__).parent / "model.onnx"


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
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    images, names = json.loads(facts["quantfair.images"]), json.loads(facts["quantfair.class_names"])
    batch_NCHW = np.stack([read_image(path, **images) for path in paths])
    logits_NK = np.asarray(session.run(["logits"], {"images": batch_NCHW})[0])
    exp_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    for path, p_K in zip(paths, exp_NK / exp_NK.sum(axis=1, keepdims=True), strict=True):
        print(f"{path}: {names[p_K.argmax()]} ({p_K.max():.3f})")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("Usage: python predict.py IMAGE [IMAGE ...]")
    main(sys.argv[1:])
