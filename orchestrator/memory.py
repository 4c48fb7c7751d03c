"""What a worker keeps from one trial to the next: the few values that its last trials asked for, by content.

A key must name all that decides a value, so that a trial ends the same whatever its worker ran before.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Memory(Generic[Value]):
    """The `size` values that were used last."""

    def __init__(self, size: int):
        self.size = size
        self._values: dict[Hashable, Value] = {}

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of `key`, made now if it is not kept."""
        value = self._values.pop(key) if key in self._values else make()
        self._values[key] = value  # last in the order: used last
        if len(self._values) > self.size:
            del self._values[next(iter(self._values))]
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
