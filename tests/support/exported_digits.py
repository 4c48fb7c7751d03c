"""Quantized digits as ONNX files: each setting is calibrated and exported once a process, for all tests of files."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from quant_digits import EXAMPLE, TRAIN, trained_model
from torch import nn

from quantfair.quant import PtqSpec, calibrate, export_onnx, freeze, prepare


@dataclass(frozen=True)
class ExportedModel:
    """A frozen model and its ONNX file. The model is shared: do not change it."""

    model: nn.Module
    data: bytes

    @property
    def proto(self) -> onnx.ModelProto:
        return onnx.load_from_string(self.data)

    def write(self, folder: Path) -> Path:
        """Write the file `model.onnx` and return its path."""
        path = folder / "model.onnx"
        path.write_bytes(self.data)
        return path


def quantize_digits(spec: PtqSpec) -> nn.Module:
    """Return a small_cnn of its own: trained, quantized and frozen."""
    model = prepare(trained_model(), spec, EXAMPLE).model
    calibrate(model, [TRAIN.images_NCHW])
    freeze(model)
    return model


@cache
def export_digits(spec: PtqSpec) -> ExportedModel:
    """Return the shared model of these settings with its file."""
    model = quantize_digits(spec)
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_onnx(model, EXAMPLE, path, metadata={"quantfair.trial_id": "abc"})
        return ExportedModel(model, path.read_bytes())
