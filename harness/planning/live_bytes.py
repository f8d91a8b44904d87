"""Bytes of live tensors while code runs; on the meta device too, where nothing is real."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ALIGNMENT = 512  # bytes; what PyTorch's CUDA allocator rounds an allocation up to


def allocated(size: int) -> int:
    """Bytes that the CUDA allocator hands out for so many."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class LiveBytes(TorchDispatchMode):
    """Storages made while the mode is on, until they are freed: bytes now and at the peak.

    Storages that were there before (weights, inputs) count nothing, nor do their views. What a
    kernel takes inside itself (workspaces) is not seen.
    """

    def __init__(self) -> None:
        """Nothing lives yet."""
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
        """Run an operation; what goes in is known already, what comes out may be new."""
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._note(leaf, new=False)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf, new=True)
        return result

    def restart(self) -> None:
        """Begin a new peak at what lives now."""
        self.peak = self.now

    def _note(self, tensor: Tensor, new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = allocated(storage.nbytes()) if new else 0
        self.now += size
        self.peak = max(self.peak, self.now)
        self._known[key] = weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.now -= size
        self._known.pop(key, None)


def on_meta(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of a size and without values."""
    return torch.empty(tuple(shape), dtype=dtype, device="meta")
