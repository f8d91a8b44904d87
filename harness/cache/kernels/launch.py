"""Kernel arguments: stored frames and rotations as named tuples, and the launch of a kernel.

Triton accepts named tuples of tensors and numbers, so argument lists stay short for any number of
planes. None stands for a missing part; the compiler knows it and removes the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from harness.api import KernelLayout, Packed
from harness.cache.positions import Turns


class Part(NamedTuple):
    """One part of stored frames [B, H, S, ...], contiguous within a frame; strides in elements."""

    start: Tensor
    of_batch: int
    of_head: int
    of_slot: int


class PlaneParts(NamedTuple):
    """Parts of one `CodePlane`; a table that all frames share is a part with strides of 0.

    byte_scales: numbers by byte of the scale.
    """

    codes: Part
    scale: Part | None
    zero: Part | None
    table: Part | None
    byte_scales: Part | None
    unit: Part | None


class Rows(NamedTuple):
    """Parts of `Centroids`."""

    rows: Part
    nearest: Part


class Stored(NamedTuple):
    """Stored frames for kernels: either `exact` or planes; the rest is optional."""

    planes: tuple[PlaneParts, ...] | None
    exact: Part | None
    token_scale: Part | None
    channel_scale: Part | None
    channel_mean: Part | None
    centroids: tuple[Rows, ...] | None


class Spec(NamedTuple):
    """Compile-time constants of a plane: `harness.api.CodePlane` without the names of parts."""

    # Constants, since the shapes of tiles follow from them and branches on them must vanish.
    bits: int
    group: int
    by_tokens: bool
    offset: float


class Tables(NamedTuple):
    """Rotations as alternating real and imaginary parts, fp32.

    time: [F, TIME], TIME being the channels that rotate with the frame. space: [T, D - TIME].
    """

    time: Tensor
    space: Tensor | None


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: grid, arguments, compile-time constants and compiler options."""

    # Apart from `run`, so that `ahead` can compile the same launch where there is no GPU.
    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    options: Mapping[str, int]

    def run(self) -> None:
        """Launch the kernel on the current stream."""
        self.kernel[self.grid](**self.arguments, **self.constants, **self.options)


class Room(NamedTuple):
    """Properties of a device: compute capability (90 is sm_90) and number of multiprocessors."""

    capability: int
    num_sms: int


def room_of(device: torch.device) -> Room:
    """Return the properties of a device; those of the interpreter if it is no GPU."""
    if device.type != "cuda":
        return Room(0, 1)
    major, minor = torch.cuda.get_device_capability(device)
    num_sms = torch.cuda.get_device_properties(device).multi_processor_count
    return Room(10 * major + minor, num_sms)


def tile_of(dot: tl.dtype, room: Room, heavy: bool) -> tuple[int, int, dict[str, int]]:
    """Return queries and keys of a tile of attention, and compiler options.

    heavy: prefetching the next tile needs shared memory for more than one plane of keys.
    """
    if dot == tl.float32:  # for tests only, without tensor cores
        return 32, 32, {"num_warps": 4, "num_stages": 1}
    if room.capability // 10 in (9, 10):  # 227 KiB of shared memory per block, 99 KiB elsewhere
        return 128, 64, {"num_warps": 8, "num_stages": 2}
    return 128, 32, {"num_warps": 8, "num_stages": 1 if heavy else 2}


def describe(form: KernelLayout, packed: Packed) -> tuple[Stored, tuple[Spec, ...]]:
    """Return stored frames as kernel arguments, and the compile-time constants of their planes."""

    def part(name: str | tuple[float, ...]) -> Part:
        # Numbers that belong to the format are the same for all frames: strides of 0.
        if isinstance(name, tuple):
            return Part(_numbers(name, packed.device), 0, 0, 0)
        tensor = packed.parts[name]
        # Kernels step through a frame as one piece of memory; only slots and heads have strides.
        assert tensor[0, 0, 0].is_contiguous(), f"{name} is not contiguous within a frame"
        return Part(tensor, tensor.stride(0), tensor.stride(1), tensor.stride(2))

    def maybe(name: str | tuple[float, ...] | None) -> Part | None:
        return None if name is None else part(name)

    planes = tuple(
        PlaneParts(part(p.codes), *map(maybe, (p.scale, p.zero, p.table, p.scale_table, p.unit)))
        for p in form.planes
    )
    specs = tuple(
        Spec(p.bits, p.group_in(packed.page), p.axis == "tokens", p.offset) for p in form.planes
    )
    exact = None if planes else part("exact")
    outer = maybe(form.token_scale), maybe(form.channel_scale), maybe(form.channel_mean)
    centroids = tuple(Rows(part(x.rows), part(x.nearest)) for x in form.centroids)
    return Stored(planes or None, exact, *outer, centroids or None), specs


# Cached, since a copy to a GPU waits for it, and there would be one in every launch.
@cache
def _numbers(table: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(table, device=device)


def describe_turns(turns: Turns | None) -> tuple[Tables | None, int]:
    """Return complex rotations as real tables, and the number of channels that time rotates."""
    if turns is None:
        return None, 0
    space = None if turns.space is None else _alternating(turns.space)
    # A complex number rotates a pair, so time rotates twice as many channels.
    return Tables(_alternating(turns.time), space), 2 * turns.time.shape[1]


def _alternating(turns: Tensor) -> Tensor:
    # Triton has no complex numbers.
    return torch.view_as_real(turns.contiguous()).flatten(1)
