"""Bytes of tensors, found by walking objects instead of believing what they say."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import torch

from harness.cache.attention.base import Backend, Scratch
from harness.cache.layer import Context
from harness.cache.positions import Rope

LEAST_BYTES = 1024  # of a byte string that could hold a history: code is made of shorter ones
SHARED = (Context, Rope, Scratch, Backend)  # of the session, the same whatever history holds


def live_bytes(*roots: Any, leave_out: tuple[type, ...] = SHARED) -> int:
    """Bytes of the storages that objects reach, each counted once."""
    return sum(reached(*roots, leave_out=leave_out).values())


def reached(*roots: Any, leave_out: tuple[type, ...] = ()) -> dict[int, int]:
    """Bytes of the storages that objects reach, by address."""
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
    return seen


def held_by_process() -> dict[int, tuple[Any, int]]:
    """Everything in this process that holds numbers in bulk, and its bytes, by address.

    Tensors and their storages, arrays of NumPy and byte strings, wherever they lie: in globals,
    class attributes, closures, caches. Whoever keeps the answer keeps them alive, so that no
    address is given out twice.
    """
    gc.collect()
    found: dict[int, tuple[Any, int]] = {}
    tracked = gc.get_objects()
    things = [*tracked, *gc.get_referents(*tracked)]  # arrays and bytes are not tracked
    bulk = (torch.Tensor, torch.UntypedStorage, np.ndarray, bytes, bytearray)
    kinds = {
        kind for kind in set(map(type, things)) if issubclass(kind, bulk)
    }  # there are millions
    for thing in [thing for thing in things if type(thing) in kinds]:
        kind = type(thing)  # isinstance would ask proxies for the class that they stand for
        if issubclass(kind, torch.Tensor):
            if thing.layout != torch.strided or thing.device.type == "meta":
                continue
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = thing, storage.nbytes()
        elif issubclass(kind, torch.UntypedStorage):
            found[thing.data_ptr()] = thing, thing.nbytes()
        elif issubclass(kind, np.ndarray):
            if thing.flags.owndata:  # else what it is a view of counts
                found[thing.ctypes.data] = thing, thing.nbytes
        elif len(thing) >= LEAST_BYTES:
            found[id(thing)] = thing, len(thing)
    return found
