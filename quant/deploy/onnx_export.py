"""A frozen model -> an ONNX file, opset 21, of any batch size. What the numbers on a grid become: `qdq.py`.

The file holds the model's own operators, Q/DQ pairs, and integer weights; its metadata say what it is. It is written
aside and renamed, so that what stands under its name is whole.
"""

import copy
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes
import torch
from onnxscript import opset21
from torch import Tensor, nn

from quantfair.quant.deploy.operator_table import keep_operator_table
from quantfair.quant.deploy.qdq import Storage, install_qdq
from quantfair.quant.layers.modes import require_calibrated
from quantfair.quant.layers.modules import quantizers

op: Any = opset21  # its types know no attribute but literals
INPUT: Final = "images"
LOGITS: Final = "logits"
OPSET: Final = 21
MOST_BYTES: Final = 2**31 - 1  # of a protobuf message
_STORAGES: Final = {s.name: s for s in (Storage(bits, signed) for bits in (4, 8, 16) for signed in (False, True))}


class ExportError(ValueError):
    """A model that has no ONNX file; the text says why, and what to change."""


def export_onnx(
    model: nn.Module, example_NCHW: Tensor, path: str | Path, *, metadata: Mapping[str, str], half: bool = False
) -> None:
    """Write `model`, which is float or frozen, as an ONNX file that takes `images` and gives `logits`, both float32.

    Further heads are outputs logits_1, logits_2 ... `half` computes in float16, which only a float model can.

    Raises:
        ExportError: the model is not frozen, is of preset iao, branches on values of its input, fixes its batch size,
            uses an operator that ONNX has not, or has weights of 2 GB and more.
    """
    path = Path(path)
    _check(model, half=half)
    exported = copy.deepcopy(model).cpu().eval()
    example_NCHW = example_NCHW.cpu()
    if len(example_NCHW) == 1:  # torch.export takes a size of 1 for a constant
        example_NCHW = example_NCHW.repeat(2, 1, 1, 1)
    install_qdq(exported, example_NCHW)
    if half:
        exported = _Half(exported.half())
    with torch.no_grad():
        outputs = exported(example_NCHW)
        n_heads = len(outputs) if isinstance(outputs, tuple) else 1
        program = _export(exported, example_NCHW, [LOGITS, *(f"{LOGITS}_{i}" for i in range(1, n_heads))])
    for graph_pass in (
        _PackIntegers(),
        ir_passes.RemoveUnusedNodesPass(),
        ir_passes.RemoveUnusedOpsetsPass(),
        ir_passes.ClearMetadataAndDocStringPass(),  # of nodes: where in the code each stood, 500 bytes apiece
    ):
        graph_pass(program)
    program.metadata_props.update(metadata)
    program.producer_name = "quantfair"
    _save(program, path)


class _Half(nn.Module):
    """A model of float16 that takes and gives float32."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images_NCHW: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = self.model(images_NCHW.half())
        return tuple(part.float() for part in outputs) if isinstance(outputs, tuple) else outputs.float()


def _check(model: nn.Module, *, half: bool) -> None:
    found = list(quantizers(model))
    if not all(quantizer.has_onnx_form for quantizer in found):
        raise ExportError("preset 'iao' rounds half away from zero, which no runtime does: set preset = 'none'")
    if half and found:
        raise ExportError("a quantized model computes in float32 between its integers: export it without `half`")
    require_calibrated(model)
    if any(quantizer.mode != ("frozen" if quantizer.spec.role == "weight" else "fixed") for quantizer in found):
        raise ExportError("the model is not frozen: call `freeze` first")
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    if n_bytes > MOST_BYTES:
        raise ExportError(f"the model has {n_bytes / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB: shrink it")


def _export(model: nn.Module, example_NCHW: Tensor, names: list[str]) -> ir.Model:
    settings: dict[str, Any] = {
        "input_names": [INPUT],
        "output_names": names,
        "opset_version": OPSET,
        "dynamic_shapes": ({0: torch.export.Dim("batch", min=1, max=65535)},),
        "custom_translation_table": {
            torch.ops.quantfair.quantize_dequantize.default: _quantize_dequantize,
            torch.ops.quantfair.dequantize.default: _dequantize,
        },
    }
    try:
        with warnings.catch_warnings(), keep_operator_table():
            warnings.simplefilter("ignore")  # the exporter's, of its own dependencies
            program = torch.onnx.export(model, (example_NCHW,), dynamo=True, verbose=False, **settings)
    except Exception as error:
        raise ExportError(f"{type(model).__name__} cannot be exported: {_find_cause(error)}") from error
    assert program is not None
    batch = {
        str(value.shape[0]) for value in (*program.model.graph.inputs, *program.model.graph.outputs) if value.shape
    }
    if len(batch) != 1 or batch.pop().isdigit():  # a digit: a loop over the images, unrolled
        raise ExportError(
            f"{type(model).__name__} cannot be exported: it gives {names[0]} for a fixed number of images"
        )
    return program.model


def _find_cause(error: BaseException) -> str:
    """Return the first line of what was wrong at the bottom of a chain of errors, and what to do about it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _quantize_dequantize(x, scale, zero_point: int, quant_min: int, quant_max: int, storage: str):
    kind = _STORAGES[storage]
    if (quant_min, quant_max) != kind.bounds:
        step = op.CastLike(scale, x)
        low, high = (op.Mul(step, op.CastLike(float(end - zero_point), x)) for end in (quant_min, quant_max))
        x = op.Clip(x, low, high)
    dtype = ir.DataType[storage]
    if kind.bits == 4 and zero_point == 0:
        return op.DequantizeLinear(op.QuantizeLinear(x, scale, output_dtype=dtype.value), scale)
    offset = op.Constant(value=onnx.helper.make_tensor("zero_point", dtype.value, [], [zero_point]))
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, offset), scale, offset)


def _dequantize(levels, scale, zero_point, axis: int, storage: str):
    dtype, where = ir.DataType[storage].value, {"axis": axis} if axis >= 0 else {}
    return op.DequantizeLinear(op.Cast(levels, to=dtype), scale, op.Cast(zero_point, to=dtype), **where)


class _PackIntegers(ir.passes.InPlacePass):
    """Turns every int32 initializer that is cast to a smaller integer into an initializer of that type."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change `model` in place."""
        casts = [node for node in model.graph if node.op_type == "Cast" and _is_int32(node.inputs[0])]
        for node in casts:
            (before,), (after,) = node.inputs, node.outputs
            assert before is not None
            assert before.const_value is not None
            dtype = ir.DataType(node.attributes["to"].as_int())
            packed = ir.tensor(before.const_value.numpy().astype(dtype.numpy()), dtype=dtype, name=after.name)
            value = ir.val(str(before.name) + f".{dtype.name.lower()}", const_value=packed)
            model.graph.register_initializer(value)
            ir.convenience.replace_all_uses_with(after, value)
            model.graph.remove(node, safe=True)
        return ir.passes.PassResult(model, bool(casts))


def _is_int32(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and value.dtype == ir.DataType.INT32


def _save(program: ir.Model, path: Path) -> None:
    """Write a whole file, or none."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        ir.save(program, aside)
        onnx.checker.check_model(str(aside), full_check=True)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
