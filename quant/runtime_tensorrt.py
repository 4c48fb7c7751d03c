"""TensorRT: builds an engine of an ONNX file, and runs it. The one door to tensorrt, tensorrt_rtx and pycuda.

Written for what tensorrt 10.13 and 11 have in common: strongly typed networks, whose precision comes from the types in
the file; no calibrators, no precision flags. tensorrt_rtx has the same calls and builds without a GPU: that is a check
of the graph (`trt_check.py`), never an engine to deploy.

Executed so far: parsing and building with tensorrt_rtx 1.7.1 on a CPU. Nothing here has run with the package tensorrt,
or on a GPU: neither `Engine` nor the inspector.
"""

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import onnx
import torch

from quant.engine_layers import EngineLayer, find_float_layers, read_build_log, read_inspector
from quant.tensorrt_rules import find_int8_nodes, lint_for_tensorrt

Package = Literal["tensorrt", "tensorrt_rtx"]
Buffers = Literal["torch", "pycuda"]
LARGEST_BATCH: Final = 256


class TensorRtError(RuntimeError):
    """TensorRT refused a graph, an engine or images; the text says why, and what to do."""


class Build(NamedTuple):
    """A serialized engine, and its layers as the build log lists them."""

    data: bytes
    layers: list[EngineLayer]


@cache
def find_missing_tensorrt() -> str | None:
    """Return what TensorRT lacks in this process, with the remedy; None where it can run."""
    if not torch.cuda.is_available():
        return "TensorRT needs an NVIDIA GPU, and torch sees none here: run the sweep with `gpu` above 0 in [resources]"
    try:
        importlib.import_module("tensorrt")
    except ImportError as error:
        return f"the package tensorrt cannot be loaded ({error}): pip install 'tensorrt>=10.13,<12' on this worker"
    return None


@cache
def load_trt(package: Package) -> Any:
    """Return the module. Raises TensorRtError where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = "trt-check" if package == "tensorrt_rtx" else "tensorrt"
        raise TensorRtError(f"{package} is not installed: pip install -e '.[{extra}]'") from error


@cache
def _logger(trt: Any) -> Any:
    """Return the logger of this process: the first one that a builder is given serves all."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            self.messages.append(msg)
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(msg)

    return Logger()


def build_engine(path: Path, *, package: Package = "tensorrt", timing_cache: Path | None = None) -> Build:
    """Build an engine of an ONNX file for batches of 1 to LARGEST_BATCH.

    `timing_cache` is a file that is read where it exists, and written.

    Raises:
        TensorRtError: the file is damaged, breaks a rule of TensorRT's, or is refused by its parser or builder.
    """
    refuse_by_rules(path)
    trt = load_trt(package)
    logger = _logger(trt)
    logger.messages.clear()
    logger.errors.clear()
    builder = trt.Builder(logger)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise TensorRtError(f"TensorRT's parser refused {path.name}: {parser.get_error(0).desc()}")
    config = _configure(trt, builder, network)
    if timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(known), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:  # it raises nothing
        raise TensorRtError(f"TensorRT's builder refused {path.name}: {' '.join(logger.errors[-1:]) or 'no message'}")
    if timing_cache is not None:
        _write_whole(timing_cache, bytes(config.get_timing_cache().serialize()))
    return Build(bytes(plan), read_build_log(logger.messages))


def _configure(trt: Any, builder: Any, network: Any) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *rest), (LARGEST_BATCH, *rest), (LARGEST_BATCH, *rest))
    config.add_optimization_profile(profile)
    return config


def refuse_by_rules(path: Path) -> None:
    """Raise TensorRtError for a file that is damaged, or that breaks a rule of `tensorrt_rules.py`."""
    faults = lint_for_tensorrt(_load(path))
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise TensorRtError(f"TensorRT cannot represent {path.name}: {faults[0]}{more}")


def check_precision(path: Path, layers: list[EngineLayer]) -> None:
    """Raise TensorRtError where a layer that the file has in INT8 came out in float."""
    missing = find_float_layers(layers, find_int8_nodes(_load(path)))
    if missing:
        raise TensorRtError(f"layers of {path.name} that are to run in INT8 came out in float: {', '.join(missing)}")


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's, onnx's and the system's own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TensorRtError(f"{path.name} is no sound ONNX file ({reason}): export it again") from error
    return model


def describe_machine(trt: Any) -> dict[str, str]:
    """Return what an engine is bound to: TensorRT's version and the GPU's compute capability."""
    major, minor = torch.cuda.get_device_capability()
    return {"tensorrt": trt.__version__, "sm": f"{major}{minor}", "device": torch.cuda.get_device_name()}


def save_engine(path: Path, built: Build, onnx_path: Path, *, machine: Mapping[str, str]) -> None:
    """Write an engine, and beside it what it is bound to (`.json`), which comes last."""
    facts = {**machine, "onnx_sha256": _hash(onnx_path), "largest_batch": LARGEST_BATCH}
    facts["precision"] = {layer.name: layer.precision for layer in built.layers if layer.computes}
    _write_whole(path, built.data)
    _write_whole(path.with_suffix(".json"), json.dumps(facts, indent=2).encode())


def read_engine(path: Path, *, machine: Mapping[str, str], onnx_path: Path | None = None) -> bytes:
    """Return an engine that fits here. Raises TensorRtError for one of another GPU, version or ONNX file."""
    try:
        facts, data = json.loads(path.with_suffix(".json").read_text()), path.read_bytes()
    except (OSError, ValueError) as error:
        raise TensorRtError(f"{path.name} has no sound description beside it ({error}): build it again") from error
    expected = {name: machine[name] for name in ("tensorrt", "sm")}
    expected |= {"onnx_sha256": _hash(onnx_path)} if onnx_path else {}
    for name, value in expected.items():
        if facts.get(name) != value:
            raise TensorRtError(
                f"{path.name} was built for {name} {facts.get(name)}, here it is {value}: build it again"
            )
    return data


class Engine:
    """A built engine on this GPU. Calling it takes images_NCHW of 1 to LARGEST_BATCH, gives logits_NK; float32.

    Buffers are torch's CUDA tensors, which share its context, allocator and stream, or pycuda's.

    Raises:
        TensorRtError: the engine is damaged or of another version, or a batch does not fit its profile.
    """

    name = "tensorrt"

    def __init__(self, data: bytes, *, buffers: Buffers = "torch", trt: Any = None):
        self._trt = load_trt("tensorrt") if trt is None else trt
        self.version = f"tensorrt {self._trt.__version__}"
        logger = _logger(self._trt)
        self._runtime = self._trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:  # it raises nothing
            raise TensorRtError(f"the engine cannot be loaded here ({' '.join(logger.errors[-1:])}): build it again")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == self._trt.TensorIOMode.INPUT]
        self._input, self._outputs = inputs[0], [name for name in names if name not in inputs]
        self._run = {"torch": self._run_with_torch, "pycuda": self._run_with_pycuda}[buffers]

    def __call__(self, images_NCHW: np.ndarray) -> np.ndarray:
        """Return the logits_NK of the first output."""
        low, _, high = self._engine.get_tensor_profile_shape(self._input, 0)
        shape = images_NCHW.shape
        fits = len(shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        if not fits or not self._context.set_input_shape(self._input, shape):
            raise TensorRtError(
                f"images of shape {shape} do not fit the engine, which takes {tuple(low)} to {tuple(high)}"
            )
        return self._run(np.ascontiguousarray(images_NCHW, dtype=np.float32))

    def layers(self) -> list[EngineLayer]:
        """Return the engine's layers with their precision."""
        inspector = self._engine.create_engine_inspector()
        return read_inspector(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def _run_with_torch(self, images_NCHW: np.ndarray) -> np.ndarray:
        held = {self._input: torch.from_numpy(images_NCHW).cuda()}
        for name in self._outputs:
            held[name] = torch.empty(tuple(self._context.get_tensor_shape(name)), device="cuda")
        stream = torch.cuda.current_stream()
        self._execute({name: tensor.data_ptr() for name, tensor in held.items()}, stream.cuda_stream)
        stream.synchronize()
        return held[self._outputs[0]].cpu().numpy()

    def _run_with_pycuda(self, images_NCHW: np.ndarray) -> np.ndarray:
        """The same in pycuda's words; it shares the primary context with torch, and never makes one of its own."""
        driver = importlib.import_module("pycuda.driver")
        driver.init()
        context = driver.Device(torch.cuda.current_device()).retain_primary_context()
        context.push()
        try:
            stream = driver.Stream()
            shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs}
            results = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
            held = {name: driver.mem_alloc(values.nbytes) for name, values in results.items()}
            held[self._input] = driver.mem_alloc(images_NCHW.nbytes)
            driver.memcpy_htod_async(held[self._input], images_NCHW, stream)
            self._execute({name: int(place) for name, place in held.items()}, stream.handle)
            driver.memcpy_dtoh_async(results[self._outputs[0]], held[self._outputs[0]], stream)
            stream.synchronize()
            return results[self._outputs[0]]
        finally:
            context.pop()

    def _execute(self, places: Mapping[str, int], stream: int) -> None:
        for name, place in places.items():
            self._context.set_tensor_address(name, place)
        if not self._context.execute_async_v3(stream):
            raise TensorRtError(f"the engine did not run: {' '.join(_logger(self._trt).errors[-1:]) or 'no message'}")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_whole(path: Path, data: bytes) -> None:
    """Write a whole file, or none."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
