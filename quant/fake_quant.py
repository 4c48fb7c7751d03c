"""Fake quantization: float values go in, the nearest values of an integer grid come out, still as floats.

`fake_quantize` is the arithmetic, `FakeQuantize` the module with a grid and an observer. The only difference from
torch.fake_quantize_per_tensor_affine and ..._per_channel_affine is at rounding ties: ATen multiplies by 1 / scale, this
divides, as ONNX does. Working in place on its own temporaries makes it faster than they are on a CPU
(`tests/benchmarks/bench_quant.py`).
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from quant.non_finite import NonFiniteError, is_finite
from quant.observers import OBSERVERS, extremes
from quant.qparams import TensorSpec, choose_qparams

Mode = Literal["bypass", "calibrate", "follow", "fixed", "frozen"]


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int) -> Tensor:
    """Round `x` to the grid, with a straight-through gradient: 1 where the rounded value lies on the grid, else 0.

    `scale` and `zero_point` broadcast against `x`; a `zero_point` of None means 0 and saves two passes. The mask is
    taken on the rounded value, as torch's kernels do: on [-8, 7] with scale 1, 7.4 keeps its gradient and 7.6 does not.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _StraightThrough.apply(x, scale, zero_point, quant_min, quant_max)
    return _to_real(_to_levels(x, scale, zero_point).clamp_(quant_min, quant_max), scale, zero_point)


def _to_levels(x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    levels = (x / scale).round_()
    return levels if zero_point is None else levels.add_(zero_point)


def _to_real(levels: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    return levels.mul_(scale) if zero_point is None else levels.sub_(zero_point).mul_(scale)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int
    ) -> Tensor:
        levels = _to_levels(x, scale, zero_point)
        clamped = levels.clamp(quant_min, quant_max)
        # A float mask in the memory of `levels`: multiplying by a bool mask costs three times as much on a CPU.
        ctx.save_for_backward(levels.eq_(clamped))
        return _to_real(clamped, scale, zero_point)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        return grad_outputs[0] * mask, None, None, None, None


class FakeQuantize(nn.Module):
    """Quantizes what passes through it. `mode` says how:

    bypass      nothing happens
    calibrate   values are observed and pass unchanged
    follow      in training mode the range follows the values, then they are quantized; in eval mode as `fixed`
    fixed       values are quantized on the grid as it is
    frozen      nothing happens: the weight has been put on its grid for good

    The arithmetic is float32, also under autocast. All that `fixed` needs is in buffers, so a state dict restores it.
    The scale is nan until it is calibrated.

        >>> quantizer = FakeQuantize(TensorSpec.of_activation(settings), layer="conv1")
        >>> quantizer.observe(x), quantizer.decide_sign(), quantizer.update_grid()
        >>> quantizer(x)
    """

    scale: Tensor
    zero_point: Tensor
    unsigned: Tensor

    def __init__(self, spec: TensorSpec, *, layer: str, mode: Mode = "fixed", shape: tuple[int, ...] = ()):
        super().__init__()
        self.spec, self.layer = spec, layer
        self.mode: Mode = mode
        self.observer = OBSERVERS[spec.role, spec.observer](spec, shape)
        self.register_buffer("scale", torch.full(shape, torch.nan))
        self.register_buffer("zero_point", torch.zeros(shape))
        self.register_buffer("unsigned", torch.tensor(False))
        self._set_grid()

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` on the grid, or unchanged, as `mode` says."""
        if self.mode in ("bypass", "frozen"):
            return x
        x = x.float()  # under autocast activations arrive in bfloat16, which would round the grid itself
        if self.mode == "calibrate":
            self.observe(x)
            return x
        if self.mode == "follow" and self.training:
            self.observe(x)
            self.update_grid()
        return self.quantize(x)

    def quantize(self, x: Tensor) -> Tensor:
        """Return `x` on the grid."""
        zero_point = None if self.spec.symmetric else self.zero_point
        return fake_quantize(x, self.scale, zero_point, self.quant_min, self.quant_max)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Show `x` to the observer; the grid stays. Raises NonFiniteError, except in training, where the loss tells."""
        low, high = extremes(x.detach(), self.spec.axis)
        if not self.training and not is_finite((low, high)):
            raise NonFiniteError(
                f"layer '{self.layer}' met a non-finite {self.spec.role} while calibrating; "
                "check the weights of the float model and the normalization of the images"
            )
        self.observer.observe(x, low, high)

    @torch.no_grad()
    def update_grid(self) -> None:
        """Set scale and zero_point from the observed range."""
        scale, zero_point = choose_qparams(
            *self.observer.range(),
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            symmetric=self.spec.symmetric,
        )
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def decide_sign(self) -> None:
        """Choose the unsigned grid if the spec allows it and the observed minimum is >= 0. Kept from then on."""
        if self.spec.may_be_unsigned:
            self.unsigned.copy_(self.observer.range()[0] >= 0)
            self._set_grid()

    def is_calibrated(self) -> bool:
        """Whether the grid has been set."""
        return not bool(self.scale.isnan().any())

    def _set_grid(self) -> None:
        """Keep the bounds as numbers: clamp is 3 to 7 times faster with them than with tensors, on a CPU."""
        self.quant_min, self.quant_max = self.spec.grid(unsigned=bool(self.unsigned))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._set_grid()
