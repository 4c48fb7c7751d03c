"""TensorRT: builds ahead of time with tensorrt-rtx (trt_aot), engines on a GPU (gpu), and control flow with fakes.

`trt_aot` skips where tensorrt-rtx is not installed, and fails there if QUANTFAIR_REQUIRE names "trt_aot". `gpu` has
never run: nobody has claimed otherwise.
"""

import json
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from deployed_models import NARROW, SIDES, frozen, images_of
from onnx import TensorProto
from qdq_graphs import float_conv, quantized_conv, quantized_matmul
from quant_digits import EXAMPLE, trained_model
from typer.testing import CliRunner

import quant
from orchestrator.cli import app
from quant import PtqSpec, TensorRtError, check_ahead_of_time, export_onnx
from quant import runtime_tensorrt as runtime
from quant.engine_layers import EngineLayer, find_float_layers, read_build_log, read_inspector


@pytest.fixture
def rtx() -> Any:
    """The module tensorrt_rtx."""
    try:
        import tensorrt_rtx
    except ImportError as error:
        if "trt_aot" in os.environ.get("QUANTFAIR_REQUIRE", ""):
            pytest.fail(f"QUANTFAIR_REQUIRE asks for tensorrt-rtx, which cannot be imported: {error}")
        pytest.skip(f"tensorrt-rtx cannot be imported ({error}): pip install -e '.[trt-check]'")
    return tensorrt_rtx


# Ahead of time: real parses and builds, without a GPU.


@pytest.mark.trt_aot
@pytest.mark.parametrize(
    "name",
    [name if name in ("small_cnn", "resnet18") else pytest.param(name, marks=pytest.mark.slow) for name in NARROW],
)
def test_every_architecture_builds_in_int8_where_the_table_says_so(name: str, rtx: Any, tmp_path: Path) -> None:
    spec = PtqSpec(method="ptq", act_signed="always")
    assert quant.find_unsupported(spec, "tensorrt") is None
    model, images_NCHW = frozen(name, spec, NARROW[name])
    export_onnx(model, images_NCHW[:2], tmp_path / "model.onnx", metadata={})
    check = check_ahead_of_time(tmp_path / "model.onnx")
    assert check.refused is None
    assert {layer.precision for layer in check.computing} == {"Int8"}


@pytest.mark.trt_aot
@pytest.mark.parametrize(("half", "precision"), [(False, "Float"), (True, "Half")])
def test_float_models_build_in_their_own_type(half: bool, precision: str, rtx: Any, tmp_path: Path) -> None:
    export_onnx(trained_model(), EXAMPLE, tmp_path / "model.onnx", metadata={}, half=half)
    check = check_ahead_of_time(tmp_path / "model.onnx")
    assert check.refused is None
    assert {layer.precision for layer in check.computing} == {precision}


@pytest.mark.trt_aot
def test_int4_weights_build_beside_float_activations(rtx: Any, tmp_path: Path) -> None:
    model, images_NCHW = frozen("small_cnn", PtqSpec(method="ptq", weight_bits=4, act_bits=32))
    export_onnx(model, images_NCHW[:2], tmp_path / "model.onnx", metadata={})
    check = check_ahead_of_time(tmp_path / "model.onnx")
    assert check.refused is None
    assert {layer.precision for layer in check.computing} == {"Float"}  # 4 bits are stored, not multiplied


@pytest.mark.trt_aot
@pytest.mark.parametrize(
    ("settings", "build_refuses"),
    [
        ({"offset": -10}, True),
        ({"weight": TensorProto.INT16, "act": TensorProto.INT16}, True),
        ({"weight": TensorProto.INT4}, True),
        ({"act": TensorProto.UINT8}, False),  # read as INT8, with a warning: values above 127 steps would be cut off
    ],
)
def test_the_rules_refuse_what_the_build_refuses_and_what_it_misreads(
    settings: dict[str, Any], build_refuses: bool, rtx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = quantized_conv(tmp_path, **settings)
    assert "TensorRT cannot represent graph.onnx" in str(check_ahead_of_time(path).refused)
    monkeypatch.setattr(runtime, "refuse_by_rules", lambda path: None)
    if build_refuses:
        with pytest.raises(TensorRtError, match=r"TensorRT's (parser|builder) refused graph"):
            runtime.build_engine(path, package="tensorrt_rtx")
    else:
        assert runtime.build_engine(path, package="tensorrt_rtx").data


@pytest.mark.trt_aot
@pytest.mark.parametrize("weight", [TensorProto.INT4, TensorProto.INT8])
def test_blocks_beside_a_quantized_input_build_and_are_refused_all_the_same(
    weight: int, rtx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = quantized_matmul(tmp_path, weight=weight, act=TensorProto.INT8, block=32)
    assert "TensorRT cannot represent" in str(check_ahead_of_time(path).refused)
    monkeypatch.setattr(runtime, "refuse_by_rules", lambda path: None)
    assert runtime.build_engine(path, package="tensorrt_rtx").data  # so that the rule is needed


@pytest.mark.trt_aot
def test_a_layer_that_comes_out_in_float_is_an_error_that_names_it(
    rtx: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = quantized_conv(tmp_path, by_channel=True)
    monkeypatch.setattr(runtime, "refuse_by_rules", lambda path: None)
    built = runtime.build_engine(path, package="tensorrt_rtx")
    with pytest.raises(TensorRtError, match="are to run in INT8 came out in float: conv"):
        runtime.check_precision(path, built.layers)


@pytest.mark.trt_aot
def test_an_engine_of_another_product_is_not_loaded_without_a_gpu(rtx: Any, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    built = runtime.build_engine(float_conv(tmp_path), package="tensorrt_rtx")
    with pytest.raises(TensorRtError, match=r"the engine cannot be loaded here .*: build it again"):
        runtime.Engine(built.data, trt=rtx)


@pytest.mark.trt_aot
def test_the_command_prints_a_verdict_for_every_file(rtx: Any, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    good, bad = quantized_conv(tmp_path / "good"), quantized_conv(tmp_path, act=TensorProto.UINT8)
    result = CliRunner().invoke(app, ["trt-check", str(good), str(bad)])
    assert result.exit_code == 1
    assert f"{good}: builds; layers: 1 in Int8" in result.output
    assert (
        f"{bad}: refused: TensorRT cannot represent graph.onnx: QuantizeLinear 'quantize_x' holds UINT8"
        in result.output
    )
    result = CliRunner().invoke(app, ["trt-check", str(good), "--json"])
    assert (result.exit_code, json.loads(result.output)[str(good)]["refused"]) == (0, None)


# Without any of it.


def test_a_file_that_is_damaged_or_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x0a not a model")
    assert "model.onnx is no sound ONNX file" in str(check_ahead_of_time(path).refused)
    result = CliRunner().invoke(app, ["trt-check", str(tmp_path / "none.onnx")])
    assert (result.exit_code, "names no file" in result.output) == (2, True)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = runtime.importlib.import_module

    def refuse(name: str) -> Any:
        if name.startswith("tensorrt"):
            raise ImportError(f"No module named '{name}'")
        return real(name)

    monkeypatch.setattr(runtime.importlib, "import_module", refuse)
    runtime.load_trt.cache_clear()
    with pytest.raises(TensorRtError, match=r"tensorrt_rtx is not installed: pip install -e '\.\[trt-check\]'"):
        runtime.load_trt("tensorrt_rtx")
    result = CliRunner().invoke(app, ["trt-check", str(float_conv(tmp_path))])
    assert (result.exit_code, "pip install -e '.[trt-check]'" in result.output) == (2, True)
    runtime.load_trt.cache_clear()


def test_what_tensorrt_lacks_here_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.find_missing_tensorrt.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "run the sweep with `gpu` above 0 in [resources]" in str(runtime.find_missing_tensorrt())
    runtime.find_missing_tensorrt.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if not quant_has_tensorrt():
        assert "pip install 'tensorrt>=10.13,<12' on this worker" in str(runtime.find_missing_tensorrt())
    runtime.find_missing_tensorrt.cache_clear()


def quant_has_tensorrt() -> bool:
    try:
        import tensorrt  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    return True


LOG = (
    "Layers:\nName: conv_myl0_2, LayerType: correlation, Inputs: [ { Name: a, Dimensions: [1,8,8,8], "
    "Datatype: Int8 }], Constants: [ { Name: c, Dimensions: [16,8,3,3], Datatype: Int8 }], Outputs: [ { Name: b, "
    "Dimensions: [1,16,8,8], Datatype: Float }], TacticName: t\nName: k, LayerType: kgen, Inputs: , Constants: , "
    "Outputs: , TacticName: u"
)


def test_layers_are_read_from_a_build_log() -> None:
    layers = read_build_log(["other", LOG])
    assert layers == [
        EngineLayer("conv_myl0_2", "correlation", ("Int8",), ("Int8",), ("Float",)),
        EngineLayer("k", "kgen", (), (), ()),
    ]
    assert [layer.computes for layer in layers] == [True, False]


def test_layers_are_read_from_an_inspector() -> None:
    layer = {
        "Name": "conv + relu", "LayerType": "CaskConvolution", "Metadata": "[ONNX Layer: conv]",
        "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
        "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32"}],
        "Weights": {"Type": "Int8", "Count": 9},
    }  # fmt: skip
    (found,) = read_inspector(json.dumps({"Layers": [layer]}))
    assert (found.precision, found.outputs, found.constants, found.computes) == ("Int8", ("Float",), ("Int8",), True)
    assert find_float_layers([found], ["conv"]) == []
    for text in ("not JSON", json.dumps({"Layers": ["conv + relu"]})):
        with pytest.raises(ValueError, match="build with profiling_verbosity DETAILED"):
            read_inspector(text)


def test_nodes_in_float_are_found_by_name_and_by_number() -> None:
    int8, in_float = (EngineLayer(f"node_conv_{i}_myl0", "gemm", (t,), (), ()) for i, t in ((1, "Int8"), (12, "Float")))
    assert find_float_layers([int8, in_float], ["node_conv_1"]) == []  # and not node_conv_12
    assert find_float_layers([int8, in_float], ["node_conv_1", "node_conv_12"]) == ["node_conv_12"]
    fused = EngineLayer("fused", "runtime_fusion", ("Half",), (), ())
    assert find_float_layers([int8, fused], ["node_conv_1", "node_conv_2"]) == ["fused (Half)"]
    assert find_float_layers([], ["conv"]) == ["no layer that computes was found"]


MACHINE = {"tensorrt": "11.4", "sm": "90", "device": "GPU"}


def saved(folder: Path) -> tuple[Path, Path]:
    source = float_conv(folder)
    runtime.save_engine(folder / "model.engine", runtime.Build(b"plan", []), source, machine=MACHINE)
    return folder / "model.engine", source


def test_an_engine_is_read_where_it_was_built_and_of_what(tmp_path: Path) -> None:
    engine, source = saved(tmp_path)
    assert runtime.read_engine(engine, machine=MACHINE, onnx_path=source) == b"plan"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.onnx", "model.engine", "model.json"]


@pytest.mark.parametrize(("name", "value"), [("tensorrt", "10.13"), ("sm", "86")])
def test_an_engine_of_another_gpu_or_version_is_refused(name: str, value: str, tmp_path: Path) -> None:
    engine, source = saved(tmp_path)
    with pytest.raises(
        TensorRtError, match=f"was built for {name} {MACHINE[name]}, here it is {value}: build it again"
    ):
        runtime.read_engine(engine, machine={**MACHINE, name: value}, onnx_path=source)


def test_an_engine_of_another_file_or_without_its_description_is_refused(tmp_path: Path) -> None:
    engine, source = saved(tmp_path)
    source.write_bytes(source.read_bytes() + b"\x00")
    with pytest.raises(TensorRtError, match="was built for onnx_sha256"):
        runtime.read_engine(engine, machine=MACHINE, onnx_path=source)
    engine.with_suffix(".json").write_text("{")
    with pytest.raises(TensorRtError, match=r"has no sound description beside it .*: build it again"):
        runtime.read_engine(engine, machine=MACHINE)


# Control flow with fakes. Their attributes are checked against tensorrt_rtx's real classes.


class FakeEngine:
    """Two features of every image, added up by hand."""

    num_io_tensors = 2

    def get_tensor_name(self, index: int) -> str:
        return ("images", "logits")[index]

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if name == "images" else "OUTPUT"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 1, 2, 2), (256, 1, 2, 2), (256, 1, 2, 2)]

    def create_execution_context(self) -> "FakeContext":
        return FakeContext()


class FakeContext:
    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.places: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], 2)

    def set_tensor_address(self, name: str, place: int) -> bool:
        self.places[name] = place
        return True

    def execute_async_v3(self, stream: int) -> bool:
        import ctypes

        n = self.shape[0]
        x = np.ctypeslib.as_array(ctypes.cast(self.places["images"], ctypes.POINTER(ctypes.c_float)), (n, 1, 2, 2))
        y = np.ctypeslib.as_array(ctypes.cast(self.places["logits"], ctypes.POINTER(ctypes.c_float)), (n, 2))
        y[:] = x.sum((1, 2))
        return True


def fake_trt(engine: FakeEngine | None) -> Any:
    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    trt: Any = ModuleType("fake_trt")
    trt.__version__, trt.ILogger, trt.TensorIOMode = "11.4", ILogger, SimpleNamespace(INPUT="INPUT")
    trt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: engine)
    return trt


@pytest.fixture
def _cuda_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch, "empty", lambda *shape, device=None: real(*shape))
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)


@pytest.mark.usefixtures("_cuda_is_the_cpu")
def test_a_fake_engine_runs_batches_within_its_profile_and_refuses_others() -> None:
    engine = runtime.Engine(b"", trt=fake_trt(FakeEngine()))
    images_NCHW = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)
    assert np.array_equal(engine(images_NCHW), images_NCHW.sum((1, 2)))
    for shape in ((257, 1, 2, 2), (1, 1, 3, 3), (1, 4)):
        with pytest.raises(
            TensorRtError, match=r"do not fit the engine, which takes \(1, 1, 2, 2\) to \(256, 1, 2, 2\)"
        ):
            engine(np.zeros(shape, np.float32))


def test_a_fake_engine_that_cannot_be_loaded_is_an_error() -> None:
    with pytest.raises(TensorRtError, match="the engine cannot be loaded here"):
        runtime.Engine(b"", trt=fake_trt(None))


class FakeConfig:
    def __init__(self) -> None:
        self.profiling_verbosity: object = None
        self.profiles: list[Any] = []
        self.cache = b""

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile)

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> None:
        self.cache = cache

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.cache + b"timed ")


class FakeBuilder:
    def __init__(self, logger: Any):
        self.logger = logger

    def create_network(self, flags: int) -> Any:
        tensor = SimpleNamespace(name="images", shape=(-1, 8, 8, 8))
        return SimpleNamespace(num_inputs=1, get_input=lambda index: tensor, flags=flags)

    def create_builder_config(self) -> FakeConfig:
        return FakeConfig()

    def create_optimization_profile(self) -> Any:
        profile = SimpleNamespace(shapes=None)
        profile.set_shape = lambda name, *shapes: setattr(profile, "shapes", (name, shapes))
        return profile

    def build_serialized_network(self, network: Any, config: FakeConfig) -> bytes | None:
        assert network.flags == 1 << 3  # strongly typed
        assert config.profiles[0].shapes == ("images", ((1, 8, 8, 8), (256, 8, 8, 8), (256, 8, 8, 8)))
        self.logger.log(2, LOG)
        return b"plan"


def fake_builder(monkeypatch: pytest.MonkeyPatch, builder: type[FakeBuilder]) -> None:
    trt = fake_trt(None)
    trt.Builder, trt.ProfilingVerbosity = builder, SimpleNamespace(DETAILED=2)
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=3)
    trt.OnnxParser = lambda network, logger: SimpleNamespace(parse_from_file=lambda path: True)
    monkeypatch.setattr(runtime, "load_trt", lambda package: trt)


def test_a_fake_builder_gets_a_typed_network_a_profile_and_a_timing_cache_that_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_builder(monkeypatch, FakeBuilder)
    path, timings = quantized_conv(tmp_path), tmp_path / "timings"
    runtime.build_engine(path, timing_cache=timings)
    built = runtime.build_engine(path, timing_cache=timings)
    assert (built.data, [layer.precision for layer in built.layers if layer.computes]) == (b"plan", ["Int8"])
    assert timings.read_bytes() == b"timed timed "


def test_a_fake_builder_that_fails_without_a_word_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(FakeBuilder):
        def build_serialized_network(self, network: Any, config: FakeConfig) -> None:
            self.logger.log(1, "out of memory")

    fake_builder(monkeypatch, Failing)
    with pytest.raises(TensorRtError, match=r"TensorRT's builder refused graph\.onnx: out of memory"):
        runtime.build_engine(quantized_conv(tmp_path), timing_cache=tmp_path / "timings")
    assert not (tmp_path / "timings").exists()


@pytest.mark.trt_aot
def test_fakes_have_only_what_the_real_classes_have(rtx: Any) -> None:
    fakes = (FakeEngine, FakeContext, FakeConfig, FakeBuilder)
    for fake, real in zip(
        fakes, (rtx.ICudaEngine, rtx.IExecutionContext, rtx.IBuilderConfig, rtx.Builder), strict=True
    ):
        names = {name for name in vars(fake) if not name.startswith("_")}
        assert names <= set(dir(real))
    assert {"INPUT", "OUTPUT"} <= set(dir(rtx.TensorIOMode))
    assert {"ERROR", "INTERNAL_ERROR"} <= set(dir(rtx.ILogger.Severity))
    assert hasattr(rtx.Runtime, "deserialize_cuda_engine")
    assert hasattr(rtx.IOptimizationProfile, "set_shape")
    assert {"STRONGLY_TYPED"} <= set(dir(rtx.NetworkDefinitionCreationFlag))


# On a GPU, with the real package: never run so far.


@pytest.mark.gpu
@pytest.mark.parametrize("buffers", ["torch", "pycuda"])
@pytest.mark.parametrize("name", NARROW)
def test_an_engine_answers_as_onnx_runtime_does(name: str, buffers: Any, tmp_path: Path) -> None:
    if (missing := runtime.find_missing_tensorrt()) is not None:
        pytest.skip(missing)
    if buffers == "pycuda":
        pytest.importorskip("pycuda.driver", exc_type=ImportError)
    model, images_NCHW = frozen(name, PtqSpec(method="ptq", act_signed="always"), NARROW[name])
    path = tmp_path / "model.onnx"
    export_onnx(model, images_of(SIDES[name])[:2], path, metadata={})
    engine = runtime.Engine(runtime.build_engine(path).data, buffers=buffers)
    runtime.check_precision(path, engine.layers())
    batch = images_NCHW[:256].numpy()
    exact = quant.OnnxRuntime(path, session="exact", n_threads=1)(batch)
    assert (engine(batch).argmax(1) == exact.argmax(1)).mean() >= 0.99
    assert onnx.load(path).graph.output[0].name == "logits"
