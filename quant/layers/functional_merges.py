"""Which additions and concatenations stand in a model's code, where no class can be swapped for them."""

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from quantfair.quant.layers.modules import Add, Concat

_OPERATIONS = {"add": "add", "add_": "add", "__add__": "add", "__iadd__": "add"} | dict.fromkeys(
    ("cat", "concat", "concatenate"), "cat"
)


class FunctionalMergeRecorder(TorchFunctionMode):
    """Records in `found`, while it is active, (name of the module, operation) of every join of images or feature maps.

    Modules are to announce themselves with `enter` and `leave`. What happens inside `Add` and `Concat` is theirs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._inside: list[tuple[nn.Module, str]] = []

    def enter(self, module: nn.Module, name: str) -> None:
        """From here on `module` runs."""
        self._inside.append((module, name))

    def leave(self) -> None:
        """The module that runs ends."""
        self._inside.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = _OPERATIONS.get(getattr(func, "__name__", ""))
        parts = tree_leaves((args, kwargs)) if operation else ()
        if operation and sum(isinstance(part, Tensor) and part.ndim == 4 for part in parts) > 1:
            module, name = self._inside[-1] if self._inside else (None, "(model)")  # in a hook of the user's
            if not isinstance(module, Add | Concat):
                self.found.append((name, operation))
        return func(*args, **(kwargs or {}))
