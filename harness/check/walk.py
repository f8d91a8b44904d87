"""Bytes of tensors, found by walking objects instead of believing what they say."""

from __future__ import annotations

from typing import Any

import torch

from harness.attention.base import Backend, Scratch
from harness.layers.base import Context
from harness.models.rope import Rope

SHARED = (Context, Rope, Scratch, Backend)  # of the session, the same whatever history holds


def live_bytes(*roots: Any, leave_out: tuple[type, ...] = SHARED) -> int:
    """Bytes of the storages that objects reach, each counted once."""
    seen: dict[int, int] = {}
    walked: set[int] = set()
    stack: list[Any] = [*roots]
    while stack:
        thing = stack.pop()
        if id(thing) in walked or isinstance(thing, leave_out):
            continue
        walked.add(id(thing))
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, dict):
            stack += list(thing.values())
        elif isinstance(thing, (list, tuple, set)):
            stack += list(thing)
        elif hasattr(thing, "__dict__") and not isinstance(thing, type):
            stack += list(vars(thing).values())
    return sum(seen.values())
