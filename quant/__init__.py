"""The quantization engine. The door: specs at once, `prepare` ... `predict` when first used."""

from typing import TYPE_CHECKING, Any

from quant.fingerprint import fingerprint_weights
from quant.model_spec import MODELS, MULTI_HEAD, ModelSpec
from quant.spec import (
    ENGINE_VERSION,
    Fp32FtSpec,
    Fp32Spec,
    LayerOverride,
    MethodSpec,
    PtqSpec,
    QatSpec,
)
from quant.targets import find_unsupported
from quant.training_spec import TrainSpec

if TYPE_CHECKING:
    from quant.analysis import describe_noise, float_twin, predict_each_layer
    from quant.api import Prepared, calibrate, freeze, prepare
    from quant.calibration import Calibration, collect
    from quant.curvature import Curvature, measure_curvature
    from quant.describe import LayerReport, count_bytes, describe_layers
    from quant.export import ExportError, export_onnx
    from quant.models import build_model
    from quant.modules import Add, Concat
    from quant.non_finite import DivergedError, NonFiniteError
    from quant.prediction import predict
    from quant.runtime_ort import OnnxRuntime, RuntimeFailure, Session, measure_latency
    from quant.runtime_tensorrt import (
        Engine,
        TensorRtError,
        build_engine,
        check_precision,
        describe_machine,
        find_missing_tensorrt,
        load_trt,
        save_engine,
    )
    from quant.states import (
        frozen_to_bytes,
        load_frozen,
        load_quantizer_state,
        load_weights,
        quantizer_state_to_bytes,
        weights_to_bytes,
    )
    from quant.train import Batches, FitResult, fit
    from quant.trt_check import Check, check_ahead_of_time

__all__ = [
    "ENGINE_VERSION",
    "MODELS",
    "MULTI_HEAD",
    "Add",
    "Batches",
    "Calibration",
    "Check",
    "Concat",
    "Curvature",
    "DivergedError",
    "Engine",
    "ExportError",
    "FitResult",
    "Fp32FtSpec",
    "Fp32Spec",
    "LayerOverride",
    "LayerReport",
    "MethodSpec",
    "ModelSpec",
    "NonFiniteError",
    "OnnxRuntime",
    "Prepared",
    "PtqSpec",
    "QatSpec",
    "RuntimeFailure",
    "Session",
    "TensorRtError",
    "TrainSpec",
    "build_engine",
    "build_model",
    "calibrate",
    "check_ahead_of_time",
    "check_precision",
    "collect",
    "count_bytes",
    "describe_layers",
    "describe_machine",
    "describe_noise",
    "export_onnx",
    "find_missing_tensorrt",
    "find_unsupported",
    "fingerprint_weights",
    "fit",
    "float_twin",
    "freeze",
    "frozen_to_bytes",
    "load_frozen",
    "load_quantizer_state",
    "load_trt",
    "load_weights",
    "measure_curvature",
    "measure_latency",
    "predict",
    "predict_each_layer",
    "prepare",
    "quantizer_state_to_bytes",
    "save_engine",
    "weights_to_bytes",
]

_HOMES = {
    "analysis": ("describe_noise", "float_twin", "predict_each_layer"),
    "api": ("Prepared", "calibrate", "freeze", "prepare"),
    "calibration": ("Calibration", "collect"),
    "curvature": ("Curvature", "measure_curvature"),
    "describe": ("LayerReport", "count_bytes", "describe_layers"),
    "export": ("ExportError", "export_onnx"),
    "models": ("build_model",),
    "modules": ("Add", "Concat"),
    "non_finite": ("DivergedError", "NonFiniteError"),
    "runtime_tensorrt": (
        *("Engine", "TensorRtError", "build_engine", "check_precision", "describe_machine"),
        *("find_missing_tensorrt", "load_trt", "save_engine"),
    ),
    "trt_check": ("Check", "check_ahead_of_time"),
    "states": (
        *("frozen_to_bytes", "load_frozen"),
        *("load_quantizer_state", "load_weights", "quantizer_state_to_bytes", "weights_to_bytes"),
    ),
    "prediction": ("predict",),
    "runtime_ort": ("OnnxRuntime", "RuntimeFailure", "Session", "measure_latency"),
    "train": ("Batches", "FitResult", "fit"),
}


def __getattr__(name: str) -> Any:
    """Load a name from its file when it is first used, so that reading a sweep file needs no torch."""
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"quant.{home}"), name)
    raise AttributeError(f"module 'quant' has no attribute {name!r}")
