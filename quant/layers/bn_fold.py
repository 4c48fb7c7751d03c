"""Which batch norm can be folded into the convolution or linear layer before it, and the fold itself.

Pairs are found by running the model once: hooks say which layer made which tensor, a batch norm is paired with the
maker of its input by tensor identity, and a TorchFunctionMode counts every use of that tensor. Symbolic tracing would
fail on asserts on shapes and on control flow; this does not. When in doubt a pair is left alone.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from quantfair.quant.layers.modes import evaluating
from quantfair.quant.layers.modules import QuantLayer, QuantLinear

_READS_NO_VALUES = {"shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_cuda", "dim", "size", "numel"}
_FOLDABLE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)  # not subclasses: theirs may do more


class _Recorder(TorchFunctionMode):
    """Who made which tensor, and how often each was used, in one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[QuantLayer, Tensor]] = {}  # by id; the tensor is kept so that its id is not reused
        self.n_uses: Counter[int] = Counter()
        self.n_calls: Counter[nn.Module] = Counter()
        self.candidates: list[tuple[QuantLayer, BatchNorm, int]] = []

    def count(self, values: object) -> None:
        """Count one use of each tensor in `values` that a layer made."""
        self.n_uses.update(id(leaf) for leaf in tree_leaves(values) if id(leaf) in self.made)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _name_of(func) not in _READS_NO_VALUES:
            self.count((args, kwargs))
        return func(*args, **(kwargs or {}))

    def after_layer(self, layer: QuantLayer, _inputs: object, output: Tensor) -> None:
        """Hook: remember who made `output`. A linear layer's channels are batch norm's only in a matrix."""
        self.n_calls[layer] += 1
        if not isinstance(layer, QuantLinear) or output.ndim == 2:
            self.made[id(output)] = (layer, output)

    def before_batchnorm(self, batchnorm: BatchNorm, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        """Hook: pair `batchnorm` with the maker of its input."""
        self.n_calls[batchnorm] += 1
        key = id(args[0] if args else kwargs["input"])
        if key in self.made:
            self.candidates.append((self.made[key][0], batchnorm, key))


def _name_of(func: Any) -> str:
    """Return the name of a torch function, or of the attribute that `func` reads."""
    name = getattr(func, "__name__", "")
    return func.__self__.__name__ if name == "__get__" else name


@torch.no_grad()
def find_bn_pairs(model: nn.Module, example_NCHW: Tensor) -> list[tuple[str, str]]:
    """Return (layer name, batch norm name) for every pair of a swapped `model` that is safe to fold.

    Safe: each ran exactly once, the batch norm is the only use of the layer's output (being returned is a use), it has
    running statistics, and no other module shares the layer's weight.
    """
    recorder = _Recorder()
    hooks = []
    for module in model.modules():
        if isinstance(module, QuantLayer):
            hooks.append(module.register_forward_hook(recorder.after_layer))
        elif type(module) in _FOLDABLE:
            hooks.append(module.register_forward_pre_hook(recorder.before_batchnorm, with_kwargs=True))
    try:
        with evaluating(model), recorder:
            outputs = model(example_NCHW)
        recorder.count(outputs)
    finally:
        for hook in hooks:
            hook.remove()
    return _safe_pairs(model, recorder)


def _safe_pairs(model: nn.Module, recorder: _Recorder) -> list[tuple[str, str]]:
    names = {module: name for name, module in model.named_modules()}
    n_owners = Counter(parameter for module in names for parameter in module.parameters(recurse=False))
    return [
        (names[layer], names[batchnorm])
        for layer, batchnorm, key in recorder.candidates
        if recorder.n_uses[key] == recorder.n_calls[layer] == recorder.n_calls[batchnorm] == n_owners[layer.weight] == 1
        and batchnorm.running_mean is not None
    ]


@torch.no_grad()
def fold_batchnorm(model: nn.Module, example_NCHW: Tensor) -> None:
    """Fold every safe pair of a swapped `model`, in place, for good; the batch norms become identities."""
    for layer, batchnorm in _take_out(model, example_NCHW):
        layer.batchnorm = batchnorm
        finish_fold(layer)


def attach_batchnorm(
    model: nn.Module, example_NCHW: Tensor, *, folds_batch: bool, kind: type[QuantLayer] = QuantLayer
) -> None:
    """Move every batch norm of a safe pair of a swapped `model` into its layer, of `kind`, to be trained folded."""
    for layer, batchnorm in _take_out(model, example_NCHW, kind):
        layer.batchnorm, layer.folds_batch = batchnorm, folds_batch


@torch.no_grad()
def finish_fold(layer: QuantLayer) -> None:
    """Give `layer` the weight and bias of itself and its batch norm in one; without a batch norm nothing happens."""
    if layer.batchnorm is None:
        return
    weight, bias = layer.folded()
    needs_grad = layer.weight.requires_grad
    layer.weight, layer.bias = nn.Parameter(weight, needs_grad), nn.Parameter(bias, needs_grad)
    layer.batchnorm = None  # pyright: ignore[reportArgumentType]


def _take_out(
    model: nn.Module, example_NCHW: Tensor, kind: type[QuantLayer] = QuantLayer
) -> list[tuple[QuantLayer, BatchNorm]]:
    """Replace the batch norm of every safe pair with a layer of `kind` by an identity; return the pairs."""
    pairs = []
    for layer_name, batchnorm_name in find_bn_pairs(model, example_NCHW):
        layer, batchnorm = model.get_submodule(layer_name), model.get_submodule(batchnorm_name)
        assert isinstance(batchnorm, BatchNorm)
        if not isinstance(layer, kind):
            continue
        layer.folded_batchnorm = batchnorm_name
        all_names = [name for name, module in model.named_modules(remove_duplicate=False) if module is batchnorm]
        for name in all_names:
            model.set_submodule(name, nn.Identity())
        pairs.append((layer, batchnorm))
    return pairs
