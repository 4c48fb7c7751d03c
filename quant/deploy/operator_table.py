"""The table from torch's operators to ONNX, read once a process instead of once an export.

`torch.onnx.export` builds it anew each time, and for that onnxscript parses the source of 500 functions: a third of the
CPU time of an export of small_cnn (torch 2.14, onnxscript 0.7, 2 cores). It has no setting that keeps the table, so
`keep_operator_table` puts a copy of the first one in its place. Where torch has moved the table, exports are slower and
otherwise the same.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

try:
    from torch.onnx._internal.exporter._registration import ONNXRegistry as _Registry
except ImportError:  # private: it may move in any version
    _Registry: Any = None

_read = getattr(_Registry, "from_torchlib", None)


@contextmanager
def keep_operator_table() -> Iterator[None]:
    """Give exports inside the block a copy of the table."""
    if _read is None:
        yield
        return
    with patch.object(_Registry, "from_torchlib", staticmethod(_copy_table)):
        yield


def _copy_table(**settings: Any) -> Any:
    table = _read_once(**settings)
    own = copy.copy(table)
    own.functions = {target: list(found) for target, found in table.functions.items()}  # exports add operators of ours
    return own


@cache
def _read_once(**settings: Any) -> Any:
    assert _read is not None
    return _read(**settings)
