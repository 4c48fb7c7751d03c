"""Copies of images such as people make: of another size or brightness. `near_duplicates.py` asks whether it finds them.

Copies encoded as JPEG are missing here: where those of another size are found, they were found, too (`README.md`).

Legend: B images, C channels, H height, W width; all images are uint8.
"""

from collections.abc import Callable

import numpy as np


def reduce_images(pixels_BCHW: np.ndarray) -> np.ndarray:
    """Average whole pixels until the shorter side has 32 to 63 of them. Smaller images stay as they are."""
    n_images, n_channels, height, width = pixels_BCHW.shape
    step = max(1, min(height, width) // 32)
    tiles = pixels_BCHW[:, :, : height // step * step, : width // step * step]
    tiles = tiles.reshape(n_images, n_channels, height // step, step, width // step, step)
    return _to_pixels(tiles.mean((3, 5)))


def _resize_and_back(pixels_BCHW: np.ndarray) -> np.ndarray:
    """Make images 10 % smaller and large again, both bilinear and antialiased, as most programs do."""
    height, width = pixels_BCHW.shape[2:]
    down_H, down_W = (_interpolate(n, round(0.9 * n)) for n in (height, width))
    up_H, up_W = (_interpolate(round(0.9 * n), n) for n in (height, width))
    return _to_pixels(up_H @ _to_pixels(down_H @ pixels_BCHW @ down_W.T) @ up_W.T)


def _interpolate(n_from: int, n_to: int) -> np.ndarray:
    """Return the weights of the pixels of a line in each pixel of a line of another length."""
    ratio = n_from / n_to
    centres = (np.arange(n_to) + 0.5) * ratio
    distances = np.abs(np.arange(n_from) + 0.5 - centres[:, None]) / max(1, ratio)
    weights = np.maximum(0, 1 - distances)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _brighten(pixels_BCHW: np.ndarray) -> np.ndarray:
    return _to_pixels(pixels_BCHW * np.float32(1.05))


def _to_pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "resized by 10 %": _resize_and_back,
    "brightened by 5 %": _brighten,
}
