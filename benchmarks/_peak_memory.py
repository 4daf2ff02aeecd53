"""Peak memory of tensors, counted operation by operation on any device."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all storages that are alive while it is active.

    Tensors that exist before it starts are not counted. Python's own memory and what
    an operation needs inside do not show, so the numbers are the same on every machine.

    Attributes:
        peak: The most bytes that were alive together.

    Example:
        >>> with PeakMemory() as memory:
        ...     values = torch.zeros(256) + torch.ones(256)
        >>> memory.peak  # three tensors of 1 KiB
        3072
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count what it made."""
        del types
        result = func(*args, **(kwargs or {}))
        given = {_key(value) for value in tree_leaves((args, kwargs))} - {None}
        for value in tree_leaves(result):
            key = _key(value)
            if key is None or key in given or key in self._known:
                continue  # a view, or written in place
            storage = value.untyped_storage()
            self._known.add(key)
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._freed, key, storage.nbytes())
        return result

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _key(value: object) -> int | None:
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else None
