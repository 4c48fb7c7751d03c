"""The quantization engine. The door: specs at once, `prepare` ... `predict` when first used."""

from typing import TYPE_CHECKING, Any

from quantfair.quant.deploy.capabilities import find_unsupported, find_unsupported_layers
from quantfair.quant.deploy.runtimes import RUNTIMES, DeploymentError, Predictor
from quantfair.quant.specs.methods import (
    ENGINE_VERSION,
    Fp32FtSpec,
    Fp32Spec,
    LayerOverride,
    MethodSpec,
    PtqSpec,
    QatSpec,
)
from quantfair.quant.specs.model import MODELS, MULTI_HEAD, ModelSpec, fingerprint_weights
from quantfair.quant.specs.training import TrainSpec

if TYPE_CHECKING:
    from quantfair.quant.analysis.curvature import Curvature, measure_curvature
    from quantfair.quant.analysis.layer_noise import measure_sqnr, predict_each_layer, without_quantizers
    from quantfair.quant.deploy.latency import measure_latency
    from quantfair.quant.deploy.onnx_export import ExportError, export_onnx
    from quantfair.quant.deploy.onnx_graph import OnnxFileError
    from quantfair.quant.deploy.onnxruntime import OnnxRuntime, RuntimeFailureError, Session
    from quantfair.quant.deploy.tensorrt.buffers import TensorRTMissingError
    from quantfair.quant.deploy.tensorrt.build import BuildRefusedError
    from quantfair.quant.deploy.tensorrt.check import AheadReport, check_ahead_of_time
    from quantfair.quant.deploy.tensorrt.engine_file import EngineFacts, EngineMismatchError
    from quantfair.quant.deploy.tensorrt.inspection import LayerPrecision
    from quantfair.quant.deploy.tensorrt.rules import lint_for_tensorrt
    from quantfair.quant.deploy.tensorrt.runtime import (
        TensorRTFailedError,
        TensorRTRunner,
        build_engine,
        open_engine,
    )
    from quantfair.quant.layers.modules import Add, Concat
    from quantfair.quant.layers.non_finite import DivergedError, NonFiniteError
    from quantfair.quant.layers.report import LayerReport, count_bytes, describe_layers
    from quantfair.quant.layers.serialization import (
        frozen_to_bytes,
        load_frozen,
        load_quantizer_state,
        load_weights,
        quantizer_state_to_bytes,
        weights_to_bytes,
    )
    from quantfair.quant.lifecycle import Prepared, calibrate, freeze, prepare
    from quantfair.quant.models import build_model
    from quantfair.quant.prediction import predict
    from quantfair.quant.ptq.calibration import Calibration, collect
    from quantfair.quant.training.fit import Batches, FitResult, fit

__all__ = [
    "ENGINE_VERSION",
    "MODELS",
    "MULTI_HEAD",
    "RUNTIMES",
    "Add",
    "AheadReport",
    "Batches",
    "BuildRefusedError",
    "Calibration",
    "Concat",
    "Curvature",
    "DeploymentError",
    "DivergedError",
    "EngineFacts",
    "EngineMismatchError",
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
    "Predictor",
    "Prepared",
    "PtqSpec",
    "QatSpec",
    "RuntimeFailureError",
    "Session",
    "TensorRTFailedError",
    "TensorRTMissingError",
    "TensorRTRunner",
    "TrainSpec",
    "build_engine",
    "build_model",
    "calibrate",
    "check_ahead_of_time",
    "collect",
    "count_bytes",
    "describe_layers",
    "export_onnx",
    "find_unsupported",
    "find_unsupported_layers",
    "fingerprint_weights",
    "fit",
    "freeze",
    "frozen_to_bytes",
    "lint_for_tensorrt",
    "load_frozen",
    "load_quantizer_state",
    "load_weights",
    "measure_curvature",
    "measure_latency",
    "measure_sqnr",
    "open_engine",
    "predict",
    "predict_each_layer",
    "prepare",
    "quantizer_state_to_bytes",
    "weights_to_bytes",
    "without_quantizers",
]

_HOMES = {
    "analysis.curvature": (
        "Curvature",
        "measure_curvature",
    ),
    "analysis.layer_noise": (
        "measure_sqnr",
        "without_quantizers",
        "predict_each_layer",
    ),
    "deploy.latency": ("measure_latency",),
    "deploy.onnx_export": (
        "ExportError",
        "export_onnx",
    ),
    "deploy.onnx_graph": ("OnnxFileError",),
    "deploy.onnxruntime": (
        "OnnxRuntime",
        "RuntimeFailureError",
        "Session",
    ),
    "deploy.tensorrt.buffers": ("TensorRTMissingError",),
    "deploy.tensorrt.build": ("BuildRefusedError",),
    "deploy.tensorrt.check": (
        "AheadReport",
        "check_ahead_of_time",
    ),
    "deploy.tensorrt.engine_file": (
        "EngineFacts",
        "EngineMismatchError",
    ),
    "deploy.tensorrt.inspection": ("LayerPrecision",),
    "deploy.tensorrt.rules": ("lint_for_tensorrt",),
    "deploy.tensorrt.runtime": (
        "TensorRTFailedError",
        "TensorRTRunner",
        "build_engine",
        "open_engine",
    ),
    "layers.modules": (
        "Add",
        "Concat",
    ),
    "layers.non_finite": (
        "DivergedError",
        "NonFiniteError",
    ),
    "layers.report": (
        "LayerReport",
        "count_bytes",
        "describe_layers",
    ),
    "layers.serialization": (
        "frozen_to_bytes",
        "load_frozen",
        "load_quantizer_state",
        "load_weights",
        "quantizer_state_to_bytes",
        "weights_to_bytes",
    ),
    "lifecycle": (
        "Prepared",
        "calibrate",
        "freeze",
        "prepare",
    ),
    "models": ("build_model",),
    "prediction": ("predict",),
    "ptq.calibration": (
        "Calibration",
        "collect",
    ),
    "training.fit": (
        "Batches",
        "FitResult",
        "fit",
    ),
}


def __getattr__(name: str) -> Any:
    """Load a name from its file when it is first used, so that reading a sweep file needs no torch."""
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"quantfair.quant.{home}"), name)
    raise AttributeError(f"module 'quant' has no attribute {name!r}")
