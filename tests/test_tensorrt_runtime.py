"""TensorRT's runtime without a GPU: engine files, what the inspector says, the runner against fakes; and with one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from qdq_graphs import INT4, make_convnet, make_matmul

from quantfair.quant import (
    EngineFacts,
    EngineMismatchError,
    TensorRTFailedError,
    TensorRTMissingError,
    TensorRTRunner,
    build_engine,
    open_engine,
)
from quantfair.quant.deploy.onnx_graph import Graph, weighted_layers
from quantfair.quant.deploy.tensorrt import runtime
from quantfair.quant.deploy.tensorrt.buffers import PycudaBuffers
from quantfair.quant.deploy.tensorrt.engine_file import Machine, facts_path, read_engine, sha256_of, write_engine
from quantfair.quant.deploy.tensorrt.inspection import compare_precisions, find_faults, parse_inspector

HERE = Machine("10.13.0", "8.6", "RTX 3090")
PROFILE = ((1, 3, 16, 16), (8, 3, 16, 16), (8, 3, 16, 16))


def facts(plan: bytes = b"plan", model: bytes = b"model", machine: Machine = HERE) -> EngineFacts:
    layers = tuple(compare_precisions(weighted_layers(Graph(make_convnet(None, None))), []))
    return EngineFacts(machine, sha256_of(model), sha256_of(plan), "input", PROFILE, layers)


def test_an_engine_comes_back_with_its_facts(tmp_path: Path) -> None:
    path, model = tmp_path / "m.engine", tmp_path / "m.onnx"
    model.write_bytes(b"model")
    write_engine(path, b"plan", facts())
    assert read_engine(path, HERE, model) == (b"plan", facts())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.engine", "m.engine.json", "m.onnx"]


@pytest.mark.parametrize(
    ("machine", "pattern"),
    [
        (HERE._replace(version="11.4.0"), r"was built by TensorRT 10\.13\.0, this is 11\.4\.0; build it again"),
        (
            Machine("10.13.0", "9.0", "H100"),
            r"was built on RTX 3090 \(compute capability 8\.6\), this is H100 \(9\.0\)",
        ),
    ],
)
def test_an_engine_of_another_gpu_or_version_is_refused(tmp_path: Path, machine: Machine, pattern: str) -> None:
    write_engine(tmp_path / "m.engine", b"plan", facts())
    with pytest.raises(EngineMismatchError, match=pattern):
        read_engine(tmp_path / "m.engine", machine)


def test_a_damaged_or_foreign_engine_is_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "m.engine", tmp_path / "m.onnx"
    with pytest.raises(EngineMismatchError, match=r"m\.engine is missing: an engine is two files; build it again"):
        read_engine(path, HERE)
    write_engine(path, b"plan", facts())
    model.write_bytes(b"another model")
    with pytest.raises(EngineMismatchError, match=r"was built from another model than .*m\.onnx"):
        read_engine(path, HERE, model)
    path.write_bytes(b"pla")
    with pytest.raises(EngineMismatchError, match=r"is damaged: it is not what m\.engine\.json describes"):
        read_engine(path, HERE)
    facts_path(path).write_text('{"machine": 1}')
    with pytest.raises(EngineMismatchError, match=r"m\.engine\.json is damaged \(.*\); build it again"):
        read_engine(path, HERE)
    facts_path(path).unlink()
    with pytest.raises(EngineMismatchError, match=r"m\.engine\.json is missing"):
        read_engine(path, HERE)


def test_a_writer_that_fails_leaves_nothing_under_the_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("quantfair.quant.deploy.tensorrt.engine_file.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_engine(tmp_path / "m.engine", b"plan", facts())
    assert list(tmp_path.iterdir()) == []


def record(kind: str, of: str, act: str, weights: str | None, **others: Any) -> dict[str, Any]:
    tensor = {"Name": "t", "Dimensions": [8, 3, 16, 16], "Format/Datatype": act}
    layer = {"Name": f"{of} + relu", "LayerType": kind, "Inputs": [tensor], "Outputs": [tensor], **others}
    return layer if weights is None else {**layer, "Weights": {"Type": weights, "Count": 9}}


INT8_FORMAT = "Thirty-two wide channel vectorized row major Int8 format."


def test_the_inspectors_words_become_the_same_schema_as_those_of_the_log() -> None:
    fc = record("gemm", "other", "Row major linear FP32", None, Metadata="[ONNX Layer: fc][ONNX Layer: relu]")
    fc["Inputs"] = [{"Name": "t", "Dimensions": [-1, 64], "Datatype": "Int8"}]
    fc["Constants"] = [
        {"Name": "w", "Dimensions": [64, 10], "Datatype": "Int8"},
        {"Name": "s", "Dimensions": [1], "Datatype": "Float"},
    ]
    conv1 = record("CaskConvolution", "conv1", INT8_FORMAT, "Int8")
    conv2 = record("CaskConvolution", "conv2", "Row major linear FP32 format", "Float")
    engine = parse_inspector(json.dumps({"Layers": [conv1, conv2, fc], "I/O Tensors": []}))
    layers = compare_precisions(weighted_layers(Graph(make_convnet())), engine)
    types = [(one.input_type, one.weight_type) for one in layers]
    assert types == [("Int8", "Int8"), ("Float", "Float"), ("Int8", "Int8")]
    assert find_faults(layers) == [
        "conv2: int8 is asked for, but the engine computes it in Float x Float (CaskConvolution)"
    ]


def test_layers_that_nothing_shows_are_faults_too() -> None:
    asked = list(weighted_layers(Graph(make_matmul(INT4, None, axis=1))))
    assert "int4 weights is asked for, but no layer" in find_faults(compare_precisions(asked, []))[0]
    engine = parse_inspector(json.dumps({"Layers": [record("gemm", "layer", "Float", "Half")]}))
    assert "the engine stores Half" in find_faults(compare_precisions(asked, engine))[0]


def test_an_engine_without_details_says_how_to_build_it() -> None:
    with pytest.raises(ValueError, match=r"names alone: build it with ProfilingVerbosity\.DETAILED"):
        parse_inspector('{"Layers": ["conv1"]}')


def test_what_is_missing_is_named_with_its_remedy_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runtime.why_unavailable.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    missing = runtime.why_unavailable()
    assert missing is not None
    assert missing.startswith("tensorrt cannot be imported")
    assert "pip install 'tensorrt>=10.13,<12'" in missing
    assert runtime.why_unavailable() is missing
    for ask in (lambda: build_engine(tmp_path / "m.onnx", tmp_path / "m.engine"), lambda: open_engine(tmp_path / "m")):
        with pytest.raises(TensorRTMissingError, match="tensorrt cannot be imported"):
            ask()
    runtime.why_unavailable.cache_clear()


@pytest.mark.parametrize(
    ("version", "pattern"),
    [("8.6.1", "tensorrt is 8.6.1, and must be at least 10.13 and below 12"), ("10.13.3", "needs an NVIDIA GPU")],
)
def test_fake_versions_and_machines_that_cannot_run_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, version: str, pattern: str
) -> None:
    runtime.why_unavailable.cache_clear()
    monkeypatch.setattr(runtime, "load_trt", lambda _: type("trt", (), {"__version__": version}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pattern in str(runtime.why_unavailable())
    runtime.why_unavailable.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and perhaps pycuda")
def test_without_pycuda_torchs_buffers_are_the_remedy() -> None:
    with pytest.raises(TensorRTMissingError, match=r"pycuda cannot be imported .* or take torch's buffers"):
        PycudaBuffers()


class FakeBuffers:
    """Numpy arrays that stand for memory of a GPU; an address is an index."""

    stream = 7

    def __init__(self) -> None:
        self.memory: list[np.ndarray] = []
        self.is_active = False

    @contextmanager
    def active(self) -> Iterator[None]:
        self.is_active = True
        yield
        self.is_active = False

    def upload(self, images: Any, dtype: np.dtype) -> int:
        self.memory.append(np.ascontiguousarray(images, dtype))
        return len(self.memory) - 1

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> int:
        self.memory.append(np.zeros(shape, dtype))
        return len(self.memory) - 1

    def address(self, memory: int) -> int:
        return memory

    def download(self, memory: int) -> np.ndarray:
        assert self.is_active
        return self.memory[memory]


class FakeContext:
    """Sums every image, into two outputs; `refuses` is the call that says no."""

    def __init__(self, buffers: FakeBuffers, log: Any, refuses: str = ""):
        self._buffers, self._log, self._refuses = buffers, log, refuses
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def _answer(self, call: str) -> bool:
        if call == self._refuses:
            self._log().log(FakeTrt.ILogger.Severity.ERROR, f"{call} went wrong")
        return call != self._refuses

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return self._answer("set_input_shape")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._shape[0], 1)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return self._answer("set_tensor_address")

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == FakeBuffers.stream
        memory = self._buffers.memory
        sums = memory[self._addresses["input"]].sum(axis=(1, 2, 3))[:, None]
        for i, name in enumerate(("logits", "second")):
            memory[self._addresses[name]][:] = sums + i
        return self._answer("execute_async_v3")


class FakeEngine:
    """What the runner asks of an ICudaEngine."""

    num_io_tensors = 3

    def __init__(self, context: FakeContext):
        self._context = context

    def create_execution_context(self) -> FakeContext:
        return self._context

    def get_tensor_name(self, index: int) -> str:
        return ("input", "logits", "second")[index]

    def get_tensor_dtype(self, name: str) -> str:
        return "FLOAT"

    def get_tensor_mode(self, name: str) -> "FakeTrt.TensorIOMode":
        return FakeTrt.TensorIOMode.INPUT if name == "input" else FakeTrt.TensorIOMode.OUTPUT


class FakeTrt:
    """What the runner asks of the module."""

    class TensorIOMode(Enum):
        INPUT, OUTPUT = 1, 2

    class ILogger:
        class Severity:
            ERROR = 1

    @staticmethod
    def nptype(_: str) -> type:
        return np.float32


def fake_runner(refuses: str = "") -> TensorRTRunner:
    from quantfair.quant.deploy.tensorrt.build import _logger

    buffers = FakeBuffers()
    context = FakeContext(buffers, lambda: _logger(FakeTrt), refuses)
    return TensorRTRunner(FakeTrt, FakeEngine(context), facts(), buffers)


def test_a_fake_engine_gets_its_images_and_gives_all_its_outputs() -> None:
    images_NCHW = np.random.default_rng(0).normal(size=(5, 3, 16, 16))
    outputs = fake_runner()(images_NCHW)
    assert list(outputs) == ["logits", "second"]
    np.testing.assert_allclose(outputs["logits"][:, 0], images_NCHW.sum(axis=(1, 2, 3)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs["second"], outputs["logits"] + 1, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3, 16, 16), (9, 3, 16, 16), (1, 1, 16, 16), (1, 3, 16)])
def test_a_fake_engine_is_never_run_outside_its_profile(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"do not fit the engine, which takes \(1, 3, 16, 16\) to \(8, 3, 16, 16\)"):
        fake_runner()(np.zeros(shape))


@pytest.mark.parametrize("call", ["set_input_shape", "set_tensor_address", "execute_async_v3"])
def test_a_fake_engine_that_says_no_is_an_error_with_its_log(call: str) -> None:
    with pytest.raises(TensorRTFailedError, match=f"TensorRT refused .*: {call} went wrong"):
        fake_runner(call)(np.zeros((1, 3, 16, 16)))


@pytest.mark.trt_aot
def test_fakes_have_no_attribute_that_the_real_classes_lack() -> None:
    real = pytest.importorskip(
        "tensorrt_rtx", reason="tensorrt_rtx is not installed: nothing to compare the fakes with"
    )
    pairs = ((FakeTrt, real), (FakeEngine, real.ICudaEngine), (FakeContext, real.IExecutionContext))
    for fake, genuine in (*pairs, (FakeTrt.TensorIOMode, real.TensorIOMode), (FakeTrt.ILogger, real.ILogger)):
        public = {name for name in vars(fake) if not name.startswith("_")}
        assert public
        assert public <= set(dir(genuine)), fake


@pytest.mark.gpu
@pytest.mark.parametrize("buffers", ["torch", "pycuda"])
def test_an_engine_on_a_gpu_agrees_with_onnxruntime(tmp_path: Path, buffers: Any) -> None:
    runtime.why_unavailable.cache_clear()
    if (missing := runtime.why_unavailable()) is not None:
        pytest.skip(missing)
    if buffers == "pycuda":
        pytest.importorskip("pycuda", reason="pycuda is not installed")
    onnxruntime = pytest.importorskip("onnxruntime")
    images_NCHW = np.random.default_rng(0).normal(size=(64, 3, 16, 16)).astype(np.float32)
    for name, model in (
        ("fp32", make_convnet(None, None)),
        ("int8", make_convnet()),
        ("int4", make_convnet(INT4, None)),
    ):
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path)
        built = build_engine(path, tmp_path / f"{name}.engine", timing_cache=tmp_path / "cache")
        logits_NK = open_engine(tmp_path / f"{name}.engine", onnx_path=path, buffers=buffers)(images_NCHW)["logits"]
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (expected_NK,) = session.run(None, {"input": images_NCHW})
        assert np.abs(logits_NK - expected_NK).max() <= 0.02 * np.abs(expected_NK).max()
        assert built.profile[2][0] == 256
