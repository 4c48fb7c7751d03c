"""Build an engine from an ONNX file: one path for `tensorrt` 10.13 and later, 11, and `tensorrt_rtx`.

The module comes in as `trt`, from `load_trt`. Networks are strongly typed: every precision comes from the types of the
ONNX graph, there are no calibrators and no flags for precisions. TF32 is switched off, so that float layers are float32
as in torch. With `tensorrt_rtx` this has run on a CPU; with `tensorrt` it has never been executed, and uses only what
the references of both (TensorRT 10.13 and 11) list.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from quantfair.quant.deploy.runtimes import DeploymentError
from quantfair.quant.deploy.tensorrt.engine_file import write_aside
from quantfair.quant.deploy.tensorrt.inspection import EngineLayer, parse_build_log

Trt = Any  # the module tensorrt or tensorrt_rtx: no stubs, and installed on few machines
MAX_BATCH: Final = 256
_ERRORS_TOLD: Final = 5


class BuildRefusedError(DeploymentError):
    """TensorRT parsed or built no engine of a model; the message is what it logged."""


class Build(NamedTuple):
    """What came out of a build: the serialized engine, its layers by the log, its input, min/opt/max shape of that."""

    plan: bytes
    layers: list[EngineLayer]
    input_name: str
    profile: tuple[tuple[int, ...], ...]


def build_plan(trt: Trt, onnx_path: Path, *, max_batch: int = MAX_BATCH, timing_cache: Path | None = None) -> Build:
    """Build for batches of 1 to `max_batch`, fastest at `max_batch`; a model with a fixed batch is built for that one.

    `timing_cache` is a file that speeds the next build up: read if it is there, written afterwards; one cache for each
    kind of GPU and version, as TensorRT drops the content of any other. Raises BuildRefusedError with the captured log.
    """
    with captured_log(trt) as log:
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(onnx_path)):
            raise BuildRefusedError(f"the parser refused it: {_parser_errors(parser) or log.tell_errors()}")
        if network.num_inputs != 1:
            raise BuildRefusedError(f"it has {network.num_inputs} inputs; export a model that takes images alone")
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.clear_flag(trt.BuilderFlag.TF32)
        shapes = _add_profile(builder, network, config, max_batch)
        with _timing_cache(config, timing_cache):
            plan = builder.build_serialized_network(network, config)
            if plan is None:  # a failed build raises nothing
                raise BuildRefusedError(f"the builder refused it: {log.tell_errors()}")
        return Build(bytes(plan), parse_build_log(log.texts()), network.get_input(0).name, shapes)


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    texts = [f"{error.node_name() or error.node_operator() or 'the file'}: {error.desc()}" for error in errors]
    return "; ".join(dict.fromkeys(texts[:_ERRORS_TOLD]))


def _add_profile(builder: Any, network: Any, config: Any, max_batch: int) -> tuple[tuple[int, ...], ...]:
    """Return the min, opt and max shape of the input."""
    tensor = network.get_input(0)
    batch, *rest = tuple(tensor.shape)
    if any(size < 0 for size in rest):
        raise BuildRefusedError(f"its input has shape {tuple(tensor.shape)}; only the batch may be left open")
    if batch >= 0:
        return ((batch, *rest),) * 3
    shapes = (1, *rest), (max_batch, *rest), (max_batch, *rest)
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    return shapes


@contextmanager
def _timing_cache(config: Any, path: Path | None) -> Iterator[None]:
    """Lend the cache in `path` to a build, and keep what the build added."""
    if path is None:
        yield
        return
    with warnings.catch_warnings():  # tensorrt_rtx has the calls, says that they do nothing, and is only a check
        warnings.simplefilter("ignore", DeprecationWarning)
        cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
        if not config.set_timing_cache(cache, False):  # of another GPU or version: start a new one
            config.set_timing_cache(config.create_timing_cache(b""), False)
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        write_aside(path, bytes(config.get_timing_cache().serialize()))


@contextmanager
def captured_log(trt: Trt) -> Iterator[Any]:
    """The logger of this process, emptied: TensorRT gives every builder and runtime the first logger that it saw."""
    log = _logger(trt)
    log.messages.clear()
    yield log


@cache
def _logger(trt: Trt) -> Any:
    class CapturingLogger(trt.ILogger):
        """Keeps every message, so that a failure can say why."""

        def __init__(self) -> None:
            super().__init__()
            self.messages: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append((severity, message))

        def texts(self) -> list[str]:
            return [text for _, text in self.messages]

        def tell_errors(self) -> str:
            # That there is no GPU is no reason: tensorrt_rtx logs it, and builds all the same.
            worst = [text for severity, text in self.messages if severity <= trt.ILogger.Severity.ERROR]
            told = [text.strip() for text in worst if "cudaError 35" not in text] or [text.strip() for text in worst]
            return "; ".join(dict.fromkeys(told[:_ERRORS_TOLD])) or "it logged no error"

    return CapturingLogger()
