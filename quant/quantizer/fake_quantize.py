"""Fake quantization: float values go in, the nearest values of an integer grid come out, still as floats.

`fake_quantize` is the arithmetic, `FakeQuantize` the module with a grid. The only difference from
torch.fake_quantize_per_tensor_affine and ..._per_channel_affine is at rounding ties: ATen multiplies by 1 / scale, this
divides, as ONNX does. Working in place on its own temporaries makes it faster than they are on a CPU
(`tests/benchmarks/bench_quant.py`); on CUDA training uses theirs, which are one kernel each.
"""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from quantfair.quant.quantizer.observers import follow
from quantfair.quant.quantizer.qparams import SMALLEST_SCALE, QuantizerSpec, choose_qparams

Mode = Literal["follow", "learn", "fixed", "frozen"]
MODES: tuple[Mode, ...] = ("follow", "learn", "fixed", "frozen")


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int) -> Tensor:
    """Round `x` to the grid, with a straight-through gradient: 1 where the rounded value lies on the grid, else 0.

    `scale` and `zero_point` broadcast against `x`; a `zero_point` of None means 0 and saves two passes. The mask is
    taken on the rounded value, as torch's kernels do: on [-8, 7] with scale 1, 7.4 keeps its gradient and 7.6 does not;
    -8.5 rounds to -8 and keeps it, 7.5 rounds to 8 and does not.
    """
    if zero_point is not None and zero_point.numel() == 1 and not x.is_cuda:
        # clamp(n + z, low, high) - z is clamp(n, low - z, high - z), exactly: two passes less
        shift = int(zero_point)
        zero_point, quant_min, quant_max = None, quant_min - shift, quant_max - shift
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _to_real(_to_levels(x, scale, zero_point).clamp_(quant_min, quant_max), scale, zero_point)
    if x.is_cuda:
        return fused_fake_quantize(x, scale, zero_point, quant_min, quant_max)
    return _StraightThrough.apply(x, scale, zero_point, quant_min, quant_max)


def fused_fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int) -> Tensor:
    """Compute `fake_quantize` with ATen's kernels; values at rounding ties may land on the other side."""
    zero_point = torch.zeros_like(scale) if zero_point is None else zero_point
    if scale.numel() == 1:
        one, offset = scale.reshape(1), zero_point.reshape(1).int()
        return torch.fake_quantize_per_tensor_affine(x, one, offset, quant_min, quant_max)
    axis = next(dim for dim, n in enumerate(scale.shape) if n > 1)
    return torch.fake_quantize_per_channel_affine(
        x, scale.flatten(), zero_point.flatten().int(), axis, quant_min, quant_max
    )


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
        ctx.save_for_backward(levels)
        ctx.bounds = quant_min - 0.5, quant_max + 0.5
        return _to_real(levels.clamp(quant_min, quant_max), scale, zero_point)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (levels,) = ctx.saved_tensors
        # The gradient of a clamp, in one pass: between the bounds, which no integer touches, else 0.
        return torch.ops.aten.hardtanh_backward(grad_outputs[0], levels, *ctx.bounds), None, None, None, None


def learned_fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int, *, scale_gradient: float
) -> Tensor:
    """Compute `fake_quantize` with a gradient for `scale` too: that of LSQ (Esser et al. 2020, eq. 3) times a factor.

    A scale that a step pushed below the smallest normal number counts as that, and still gets its gradient.
    """
    return _LearnedScale.apply(x, scale, zero_point, quant_min, quant_max, scale_gradient)


class _LearnedScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor | None, low: int, high: int, factor: float):
        scale = scale.clamp(min=SMALLEST_SCALE)
        position = x / scale
        levels = position.round() if zero_point is None else position.round().add_(zero_point)
        clamped = levels.clamp(low, high)
        mask = levels.eq_(clamped)
        offset = clamped if zero_point is None else clamped.sub_(zero_point)
        position.clamp_(low - high - 1, high - low + 1)  # finite also where x / scale is not: inf * 0 would be nan
        # d x_hat / d scale: the rounding error where the value lies on the grid, the level that cuts it off elsewhere
        ctx.save_for_backward(mask, offset - position.mul_(mask))
        ctx.factor, ctx.shape = factor, scale.shape
        return offset * scale

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        mask, slope = ctx.saved_tensors
        grad_scale = slope.mul(grad_outputs[0]).sum_to_size(ctx.shape) * ctx.factor
        return grad_outputs[0] * mask, grad_scale, None, None, None, None


class FakeQuantize(nn.Module):
    """Quantizes what passes through it. `mode` says how:

    follow      in training mode the range follows the values, then they are quantized; in eval mode as `fixed`
    learn       the scale is a parameter, trained with the weights (LSQ)
    fixed       values are quantized on the grid as it is
    frozen      nothing happens: the weight has been put on its grid for good

    `enabled = False` lets everything pass, for a while, in any mode. The arithmetic is float32, also under autocast.
    All else is in the state dict, `mode` included. The scale is nan until it is calibrated.

        >>> quantizer = FakeQuantize(QuantizerSpec.of_activation(settings), layer="conv1")
        >>> quantizer.set_range(x.amin(), x.amax())
        >>> quantizer(x)
    """

    copies_first_batch: ClassVar[bool] = False  # whether training can start without a range
    has_onnx_form: ClassVar[bool] = True  # whether QuantizeLinear and DequantizeLinear compute the same
    scale: Tensor
    zero_point: Tensor
    unsigned: Tensor
    min_val: Tensor
    max_val: Tensor

    def __init__(self, spec: QuantizerSpec, *, layer: str, shape: tuple[int, ...] = ()):
        super().__init__()
        self.spec, self.layer, self.enabled = spec, layer, True
        self.mode: Mode = "learn" if spec.has_learned_scale else "follow" if spec.follows else "fixed"
        scale = torch.full(shape, torch.nan)
        if spec.has_learned_scale:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(shape))
        self.register_buffer("unsigned", torch.tensor(False))
        self.register_buffer("min_val", torch.full(shape, torch.nan))
        self.register_buffer("max_val", torch.full(shape, torch.nan))
        self._set_bounds()

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` on the grid, or unchanged where `mode` or `enabled` say so."""
        if not self.enabled or self.mode == "frozen":
            return x
        x = x.float()  # under autocast activations arrive in bfloat16, which would round the grid itself
        if self.mode == "follow" and self.training and x.numel() > 0:
            self.follow(x)
        return self.quantize(x)

    def quantize(self, x: Tensor) -> Tensor:
        """Return `x` on the grid."""
        grid = None if self.spec.symmetric else self.zero_point, self.quant_min, self.quant_max
        if self.mode == "learn" and torch.is_grad_enabled():
            return learned_fake_quantize(x, self.scale, *grid, scale_gradient=self._scale_gradient(x))
        scale = self.scale.detach().clamp(min=SMALLEST_SCALE) if self.spec.has_learned_scale else self.scale
        return fake_quantize(x, scale, *grid)

    def around(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the grid values below and above `x`; both are the end of the grid where `x` lies beyond it."""
        below = (x / self.scale).floor_() + (self.zero_point - self.quant_min)
        return self.from_levels(below), self.from_levels(below + 1)

    def to_levels(self, x: Tensor) -> Tensor:
        """Return the place of values `x` of the grid, from 0 for its lowest."""
        return _to_levels(x, self.scale, self.zero_point - self.quant_min)

    def from_levels(self, levels: Tensor) -> Tensor:
        """Return the values at places of the grid: what `quantize` gives there, bit for bit."""
        levels = levels.clamp(0, self.quant_max - self.quant_min) + self.quant_min
        return _to_real(levels, self.scale, None if self.spec.symmetric else self.zero_point)

    @torch.no_grad()
    def follow(self, x: Tensor) -> None:
        """Let the range follow `x`."""
        self.set_range(*follow((self.min_val, self.max_val), x.detach(), self.spec))

    @torch.no_grad()
    def set_range(self, low: Tensor, high: Tensor, *, unsigned: bool | None = None) -> None:
        """Set the range, and scale and zero_point from it; `unsigned` says which grid, None keeps it."""
        if unsigned is not None:
            self.unsigned.fill_(unsigned)
            self._set_bounds()
        self.min_val.copy_(low)
        self.max_val.copy_(high)
        scale, zero_point = self._choose_qparams()
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def _choose_qparams(self) -> tuple[Tensor, Tensor]:
        grid = {"quant_min": self.quant_min, "quant_max": self.quant_max, "symmetric": self.spec.symmetric}
        return choose_qparams(self.min_val, self.max_val, **grid)

    def is_calibrated(self) -> bool:
        """Whether the grid has been set."""
        return not bool(self.scale.isnan().any())

    def _scale_gradient(self, x: Tensor) -> float:
        """LSQ's 1 / sqrt(N qmax), section 2.2: N weights share a scale, or N features of one image."""
        n = x.shape[1:].numel() if self.spec.role == "activation" else x.numel() // self.scale.numel()
        return 1 / math.sqrt(n * self.quant_max)

    def _set_bounds(self) -> None:
        """Keep the bounds as numbers: clamp is 3 to 7 times faster with them than with tensors, on a CPU."""
        self.quant_min, self.quant_max = self.spec.grid(unsigned=bool(self.unsigned))

    def get_extra_state(self) -> Tensor:
        """The mode: what else decides how training goes on."""
        return torch.tensor(MODES.index(self.mode))

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the mode of a state dict."""
        self.mode = MODES[int(state)]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._set_bounds()
