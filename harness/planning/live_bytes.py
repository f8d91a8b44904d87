"""Counts the bytes of live tensors while code runs, on the meta device too."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ALIGNMENT = 512  # bytes; PyTorch's CUDA allocator rounds allocations up to a multiple of this


def allocated(size: int) -> int:
    """Return the bytes that the CUDA allocator uses for an allocation of `size` bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class LiveBytes(TorchDispatchMode):
    """Counts storages created inside the `with` block: live bytes (`now`) and their `peak`.

    Storages that existed before (weights, inputs) and their views are not counted. Workspaces that
    kernels allocate internally are not visible.
    """

    def __init__(self) -> None:
        """Start at zero bytes."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: dict[int, weakref.finalize[..., Any]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count the storages that it creates."""
        # Inputs are noted first: an output may share its storage with one of them.
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._note(leaf, new=False)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf, new=True)
        return result

    def restart(self) -> None:
        """Reset the peak to the bytes that are live now."""
        self.peak = self.now

    def _note(self, tensor: Tensor, new: bool) -> None:
        # By storage, not by tensor: views share the memory of the tensor that they were taken of.
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        # Storages from outside are noted with no bytes, so that a view of them that an operation
        # returns is not taken for a new one. Freed storages are forgotten, since their addresses
        # are used again.
        size = allocated(storage.nbytes()) if new else 0
        self.now += size
        self.peak = max(self.peak, self.now)
        # Runs when the last tensor with this storage is gone, which is when memory becomes free.
        self._known[key] = weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.now -= size
        self._known.pop(key, None)


def on_meta(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a tensor on the meta device, which has a shape and no values."""
    return torch.empty(tuple(shape), dtype=dtype, device="meta")
