"""Measures bytes of tensors by walking object graphs, independent of the cache's own counts."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import torch

from harness.cache.attention.base import Backend, Scratch
from harness.cache.layer import Context
from harness.cache.positions import Rope

LEAST_BYTES = 1024  # shorter byte strings are code, not history
SHARED = (Context, Rope, Scratch, Backend)  # parts of a session that do not depend on history


def live_bytes(*roots: Any, leave_out: tuple[type, ...] = SHARED) -> int:
    """Return the bytes of all tensor storages reachable from objects, each counted once."""
    return sum(reached(*roots, leave_out=leave_out).values())


def reached(*roots: Any, leave_out: tuple[type, ...] = ()) -> dict[int, int]:
    """Return the bytes of all tensor storages reachable from objects, by address.

    leave_out: types that are not followed.
    """
    # By id, because equal objects may hold different storages, and not all can be hashed.
    seen: dict[int, int] = {}
    walked: set[int] = set()
    stack: list[Any] = [*roots]
    while stack:
        thing = stack.pop()
        if id(thing) in walked or isinstance(thing, leave_out):
            continue
        walked.add(id(thing))
        if isinstance(thing, torch.Tensor):
            # The storage, not the tensor: a small view keeps its whole storage alive.
            storage = thing.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, dict):
            stack += list(thing.values())
        elif isinstance(thing, (list, tuple, set)):
            stack += list(thing)
        # Classes are not followed: what they hold belongs to the process, see `held_by_process`.
        elif hasattr(thing, "__dict__") and not isinstance(thing, type):
            stack += list(vars(thing).values())
    return seen


def held_by_process() -> dict[int, tuple[Any, int]]:
    """Return all objects of this process that hold bulk data, with their bytes, by address.

    Covers tensors, their storages, NumPy arrays and long byte strings, in globals, class
    attributes, closures and caches. The result keeps them alive, so that no address is reused.
    """
    gc.collect()  # objects in cycles that nobody reaches are no history
    found: dict[int, tuple[Any, int]] = {}
    tracked = gc.get_objects()
    # Referents too, because the collector does not track arrays and byte strings.
    things = [*tracked, *gc.get_referents(*tracked)]
    bulk = (torch.Tensor, torch.UntypedStorage, np.ndarray, bytes, bytearray)
    # There are millions of objects, so each type is tested once, not each object.
    kinds = {kind for kind in set(map(type, things)) if issubclass(kind, bulk)}
    for thing in [thing for thing in things if type(thing) in kinds]:
        kind = type(thing)  # isinstance would ask proxies for the class of their target
        # By storage, as in `reached`. Sparse tensors have none, meta tensors have no memory.
        if issubclass(kind, torch.Tensor):
            if thing.layout != torch.strided or thing.device.type == "meta":
                continue
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = thing, storage.nbytes()
        elif issubclass(kind, torch.UntypedStorage):
            found[thing.data_ptr()] = thing, thing.nbytes()
        elif issubclass(kind, np.ndarray):
            if thing.flags.owndata:  # a view is counted by the array that owns its data
                found[thing.ctypes.data] = thing, thing.nbytes
        elif len(thing) >= LEAST_BYTES:
            found[id(thing)] = thing, len(thing)
    return found
