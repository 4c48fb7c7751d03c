"""The quantization engine. The door: specs at once, `prepare` ... `predict` when first used."""

from typing import TYPE_CHECKING, Any

from quantfair.quant.fingerprint import fingerprint_weights
from quantfair.quant.model_spec import MODELS, MULTI_HEAD, ModelSpec
from quantfair.quant.spec import ENGINE_VERSION, Fp32FtSpec, Fp32Spec, LayerOverride, MethodSpec, PtqSpec, QatSpec
from quantfair.quant.targets import find_unsupported, find_unsupported_layers
from quantfair.quant.training_spec import TrainSpec

if TYPE_CHECKING:
    from quantfair.quant.analysis import describe_noise, float_twin, predict_each_layer
    from quantfair.quant.api import Prepared, calibrate, freeze, prepare
    from quantfair.quant.calibration import Calibration, collect
    from quantfair.quant.curvature import Curvature, measure_curvature
    from quantfair.quant.describe import LayerReport, count_bytes, describe_layers
    from quantfair.quant.engine_file import EngineFacts, EngineMismatch
    from quantfair.quant.engine_layers import LayerPrecision
    from quantfair.quant.export import ExportError, export_onnx
    from quantfair.quant.gpu_buffers import TensorRTMissing
    from quantfair.quant.models import build_model
    from quantfair.quant.modules import Add, Concat
    from quantfair.quant.non_finite import DivergedError, NonFiniteError
    from quantfair.quant.onnx_graph import OnnxFileError
    from quantfair.quant.prediction import predict
    from quantfair.quant.runtime_ort import OnnxRuntime, RuntimeFailure, Session, measure_latency
    from quantfair.quant.runtime_tensorrt import (
        TensorRTFailed,
        TensorRTRunner,
        build_engine,
        find_missing_tensorrt,
        open_engine,
    )
    from quantfair.quant.states import (
        frozen_to_bytes,
        load_frozen,
        load_quantizer_state,
        load_weights,
        quantizer_state_to_bytes,
        weights_to_bytes,
    )
    from quantfair.quant.tensorrt_build import BuildRefused
    from quantfair.quant.tensorrt_rules import lint_for_tensorrt
    from quantfair.quant.train import Batches, FitResult, fit
    from quantfair.quant.trt_check import AheadReport, check_ahead_of_time

__all__ = [
    "ENGINE_VERSION",
    "MODELS",
    "MULTI_HEAD",
    "Add",
    "AheadReport",
    "Batches",
    "BuildRefused",
    "Calibration",
    "Concat",
    "Curvature",
    "DivergedError",
    "EngineFacts",
    "EngineMismatch",
    "ExportError",
    "FitResult",
    "Fp32FtSpec",
    "Fp32Spec",
    "LayerOverride",
    "LayerPrecision",
    "LayerReport",
    "MethodSpec",
    "ModelSpec",
    "NonFiniteError",
    "OnnxFileError",
    "OnnxRuntime",
    "Prepared",
    "PtqSpec",
    "QatSpec",
    "RuntimeFailure",
    "Session",
    "TensorRTFailed",
    "TensorRTMissing",
    "TensorRTRunner",
    "TrainSpec",
    "build_engine",
    "build_model",
    "calibrate",
    "check_ahead_of_time",
    "collect",
    "count_bytes",
    "describe_layers",
    "describe_noise",
    "export_onnx",
    "find_missing_tensorrt",
    "find_unsupported",
    "find_unsupported_layers",
    "fingerprint_weights",
    "fit",
    "float_twin",
    "freeze",
    "frozen_to_bytes",
    "lint_for_tensorrt",
    "load_frozen",
    "load_quantizer_state",
    "load_weights",
    "measure_curvature",
    "measure_latency",
    "open_engine",
    "predict",
    "predict_each_layer",
    "prepare",
    "quantizer_state_to_bytes",
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
    "engine_file": ("EngineFacts", "EngineMismatch"),
    "engine_layers": ("LayerPrecision",),
    "gpu_buffers": ("TensorRTMissing",),
    "onnx_graph": ("OnnxFileError",),
    "runtime_tensorrt": (
        *("TensorRTFailed", "TensorRTRunner"),
        *("build_engine", "find_missing_tensorrt", "open_engine"),
    ),
    "tensorrt_build": ("BuildRefused",),
    "tensorrt_rules": ("lint_for_tensorrt",),
    "trt_check": ("AheadReport", "check_ahead_of_time"),
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
            return getattr(importlib.import_module(f"quantfair.quant.{home}"), name)
    raise AttributeError(f"module 'quant' has no attribute {name!r}")
