"""The one door to TensorRT: load it, say why it cannot run here, build an engine for this GPU, run it.

An engine is built on the GPU that runs it. Buffers are torch's by default, on torch's own context; pycuda's on request.
What has run: `load_trt("tensorrt_rtx")` and its builds, on a CPU. What never has: everything behind a GPU, that is
`build_engine`, `open_engine` and `TensorRTRunner`, except against fakes; it keeps to what the references of TensorRT
10.13 and 11 have in common.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from quantfair.quant.deploy.onnx_graph import Graph, read_onnx, weighted_layers
from quantfair.quant.deploy.runtimes import DeploymentError, Predictor
from quantfair.quant.deploy.tensorrt.buffers import Buffers, PycudaBuffers, TensorRTMissingError, TorchBuffers
from quantfair.quant.deploy.tensorrt.build import MAX_BATCH, BuildRefusedError, Trt, build_plan, captured_log
from quantfair.quant.deploy.tensorrt.engine_file import (
    EngineFacts,
    Machine,
    facts_path,
    read_engine,
    sha256_of,
    write_engine,
)
from quantfair.quant.deploy.tensorrt.inspection import compare_precisions, find_faults, parse_inspector
from quantfair.quant.deploy.tensorrt.rules import lint_for_tensorrt

if TYPE_CHECKING:
    from torch import Tensor

REMEDIES: Final = {
    "tensorrt": "install it on the GPU worker: pip install 'tensorrt>=10.13,<12'",
    "tensorrt_rtx": "install it (Linux or Windows, x86-64; it needs no GPU): pip install tensorrt-rtx",
}


class TensorRTFailedError(DeploymentError):
    """TensorRT said no while an engine was loaded or run; the message is what it logged."""


def load_trt(package: Literal["tensorrt", "tensorrt_rtx"]) -> Trt:
    """Import TensorRT, or TensorRT for RTX, which builds without a GPU. Raises TensorRTMissingError."""
    try:
        if package == "tensorrt":
            import tensorrt as trt  # pyright: ignore[reportMissingImports]
        else:
            import tensorrt_rtx as trt  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError) as error:  # OSError: a library of the package is missing
        raise TensorRTMissingError(f"{package} cannot be imported ({error}); {REMEDIES[package]}") from error
    return trt


@cache
def why_unavailable() -> str | None:
    """Return why TensorRT cannot run here, with the remedy; None if it can. Decided once for each process."""
    import torch

    try:
        trt = load_trt("tensorrt")
    except TensorRTMissingError as error:
        return str(error)
    major, minor = (int(part) for part in trt.__version__.split(".")[:2])
    if not (10, 13) <= (major, minor) < (12, 0):
        return f"tensorrt is {trt.__version__}, and must be at least 10.13 and below 12; {REMEDIES['tensorrt']}"
    if not torch.cuda.is_available():
        return "TensorRT needs an NVIDIA GPU, and torch sees none; give the trial one: [resources.ptq] gpu = 1"
    return None


def open_predictors(path: Path, *, n_threads: int) -> Iterator[Predictor]:
    """Build an engine next to the ONNX file, and yield it. Never run yet, as all that needs a GPU here."""
    import torch

    # One cache for each kind of GPU: TensorRT drops the content of any other.
    timings = Path(tempfile.gettempdir(), f"quantfair-{torch.cuda.get_device_name().replace(' ', '-')}.timings")
    engine_path = path.with_suffix(".engine")
    facts = build_engine(path, engine_path, timing_cache=timings)
    runner = open_engine(engine_path, onnx_path=path)

    def predict(images_NCHW: np.ndarray) -> np.ndarray:
        return runner(images_NCHW)["logits"]

    precisions = Counter(f"{layer.operator} {layer.asked}" for layer in facts.layers)
    columns = {
        "session": "engine",
        "kernels": ", ".join(f"{name} {n}" for name, n in precisions.most_common()),
        "version": f"tensorrt {facts.machine.version}",
        "file_bytes": engine_path.stat().st_size,
        "device": facts.machine.device,
    }
    yield Predictor(name="tensorrt", predict=predict, columns=columns)


def ship(path: Path, about: Mapping[str, str]) -> list[Path]:
    """Build the engine next to its ONNX file, for this machine's GPU, and write what its images go through."""
    engine_path = path.with_suffix(".engine")
    build_engine(path, engine_path)
    about_path = path.with_suffix(".json")
    about_path.write_text(json.dumps(about, indent=2))
    return [engine_path, facts_path(engine_path), about_path]


def build_engine(
    onnx_path: Path, engine_path: Path, *, max_batch: int = MAX_BATCH, timing_cache: Path | None = None
) -> EngineFacts:
    """Build a model for the GPU of this process, and write the engine with its facts beside it.

    Writes nothing unless every layer is computed as the graph asks.

    Raises:
        TensorRTMissingError: TensorRT cannot run here.
        OnnxFileError: the file is bad.
        BuildRefusedError: the rules, the parser, the builder or the precision of a layer speak against it.
    """
    if (missing := why_unavailable()) is not None:
        raise TensorRTMissingError(missing)
    trt = load_trt("tensorrt")
    model = read_onnx(onnx_path)
    if violations := lint_for_tensorrt(model):
        raise BuildRefusedError(f"the rules refuse it: {'; '.join(violations)}")
    build = build_plan(trt, onnx_path, max_batch=max_batch, timing_cache=timing_cache)
    text = inspect_engine(trt, load_plan(trt, build.plan), build.input_name, build.profile[1])
    layers = compare_precisions(weighted_layers(Graph(model)), parse_inspector(text))
    if faults := find_faults(layers):
        raise BuildRefusedError(f"the engine is not what was asked for: {'; '.join(faults)}")
    facts = EngineFacts(
        machine=describe_machine(trt),
        onnx_sha256=sha256_of(onnx_path.read_bytes()),
        engine_sha256=sha256_of(build.plan),
        input_name=build.input_name,
        profile=build.profile,
        layers=tuple(layers),
    )
    write_engine(engine_path, build.plan, facts)
    return facts


def describe_machine(trt: Trt) -> Machine:
    """Return what an engine that is built here is bound to."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    return Machine(str(trt.__version__), f"{major}.{minor}", torch.cuda.get_device_name())


def load_plan(trt: Trt, plan: bytes) -> Any:
    """Return the engine (ICudaEngine) in a plan.

    Raises:
        TensorRTFailedError: TensorRT only gave None, as it does without a GPU.
    """
    with captured_log(trt) as log:
        engine = _runtime(trt).deserialize_cuda_engine(plan)
        if engine is None:
            raise TensorRTFailedError(f"the engine cannot be loaded: {log.tell_errors()}")
        return engine


@cache
def _runtime(trt: Trt) -> Any:
    """Return the runtime of this process, which must live as long as its engines."""
    with captured_log(trt) as log:
        return trt.Runtime(log)


def inspect_engine(trt: Trt, engine: Any, input_name: str, shape: tuple[int, ...]) -> str:
    """Return what the inspector tells, as JSON. With open shapes it tells no types before a context has a shape."""
    context = engine.create_execution_context()
    inspector = engine.create_engine_inspector()
    context.set_input_shape(input_name, shape)
    inspector.execution_context = context
    return inspector.get_engine_information(trt.LayerInformationFormat.JSON)


class TensorRTRunner:
    """An engine that runs: images_NCHW in, every output by its name out, from host to host."""

    def __init__(self, trt: Trt, engine: Any, facts: EngineFacts, buffers: Buffers):
        self.facts = facts
        self._trt, self._buffers = trt, buffers
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._dtypes = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self._outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        self._context = engine.create_execution_context()

    def __call__(self, images_NCHW: "np.ndarray | Tensor") -> dict[str, np.ndarray]:
        """Run a batch. Raises ValueError for a shape outside the profile, TensorRTFailedError if TensorRT says no."""
        shape = tuple(images_NCHW.shape)
        self._check(shape)
        context, buffers, name = self._context, self._buffers, self.facts.input_name
        with captured_log(self._trt) as log, buffers.active():
            inputs = {name: buffers.upload(images_NCHW, self._dtypes[name])}
            _require(context.set_input_shape(name, shape), f"set_input_shape {shape}", log)
            outputs = {
                output: buffers.allocate(tuple(context.get_tensor_shape(output)), self._dtypes[output])
                for output in self._outputs
            }
            for tensor, memory in {**inputs, **outputs}.items():
                _require(context.set_tensor_address(tensor, buffers.address(memory)), f"the address of {tensor}", log)
            _require(context.execute_async_v3(buffers.stream), "execute_async_v3", log)
            return {output: buffers.download(memory) for output, memory in outputs.items()}

    def _check(self, shape: tuple[int, ...]) -> None:
        smallest, _, largest = self.facts.profile
        fits = len(shape) == len(smallest) and all(
            low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
        )
        if not fits:
            raise ValueError(
                f"images of shape {shape} do not fit the engine, which takes {smallest} to {largest}; "
                "split the batch, or build with a larger max_batch"
            )


def _require(is_done: bool, what: str, log: Any) -> None:
    if not is_done:
        raise TensorRTFailedError(f"TensorRT refused {what}: {log.tell_errors()}")


def open_engine(
    engine_path: Path, *, onnx_path: Path | None = None, buffers: Literal["torch", "pycuda"] = "torch"
) -> TensorRTRunner:
    """Load an engine that was built for this GPU.

    Raises:
        TensorRTMissingError: TensorRT cannot run here.
        EngineMismatchError: the engine is damaged, or of another GPU, version or ONNX file.
        TensorRTFailedError: TensorRT cannot load it.
    """
    if (missing := why_unavailable()) is not None:
        raise TensorRTMissingError(missing)
    trt = load_trt("tensorrt")
    plan, facts = read_engine(engine_path, describe_machine(trt), onnx_path)
    place = TorchBuffers() if buffers == "torch" else PycudaBuffers()
    return TensorRTRunner(trt, load_plan(trt, plan), facts, place)
