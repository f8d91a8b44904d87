"""Where a layer's history lies: slabs of frame pages, never concatenated, never moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from harness.api import Packed, Quantizer


@dataclass
class Slab:
    """Pages of keys and values of so many frames [B, H, slots, ...], and which slots are free."""

    key: Packed
    value: Packed
    free: list[int]


@dataclass(frozen=True)
class Pages:
    """Frames of one slab in the order in which they are read."""

    key: Packed
    value: Packed
    slots: tuple[int, ...]

    @cached_property
    def runs(self) -> list[tuple[slice, slice]]:
        """Neighbouring slots: where they lie in the slab, and where among the frames read."""
        cuts = [i + 1 for i, (a, b) in enumerate(pairwise(self.slots)) if b != a + 1]
        bounds = pairwise([0, *cuts, len(self.slots)]) if self.slots else ()
        return [(slice(self.slots[i], self.slots[i] + j - i), slice(i, j)) for i, j in bounds]

    @cached_property
    def table(self) -> Tensor:
        """The slots, for kernels [F] int32."""
        return torch.tensor(self.slots, dtype=torch.int32, device=self.key.device)


@dataclass
class Arena:
    """Frames of one layer that are stored in the same form.

    capacity: the most frames there will ever be, taken at once with the first; None takes room for
    as many as come, chunk by chunk. write: how frames are encoded into pages. A frame's page stays
    where it is until the frame leaves; the next frames take its place.
    """

    key_quantizer: Quantizer
    value_quantizer: Quantizer
    capacity: int | None = None
    write: Callable[[Quantizer, Tensor, Packed, Pages], None] = field(
        default_factory=lambda: encode_into
    )
    places: dict[int, tuple[Slab, int]] = field(default_factory=dict)
    slabs: list[Slab] = field(default_factory=list)
    _pages: list[tuple[tuple[int, ...], Pages]] | None = None  # until frames come or go
    _ledger: Counter[str] | None = None  # until slabs come or go

    @property
    def frames(self) -> list[int]:
        """Indices of the frames that are here, in the order in which they came."""
        return list(self.places)

    def store(self, frames: Sequence[int], k_BHFTD: Tensor, v_BHFTD: Tensor) -> None:
        """Encode new frames into free pages."""
        if not frames:
            return
        self._pages = None
        if sum(len(slab.free) for slab in self.slabs) < len(frames):
            self._grow(k_BHFTD, v_BHFTD)
        stored = 0
        for slab in self.slabs:
            pages = Pages(slab.key, slab.value, tuple(slab.free[: len(frames) - stored]))
            if not pages.slots:
                continue
            new = slice(stored, stored + len(pages.slots))
            self.write(self.key_quantizer, k_BHFTD[:, :, new], slab.key, pages)
            self.write(self.value_quantizer, v_BHFTD[:, :, new], slab.value, pages)
            self.places |= {f: (slab, at) for f, at in zip(frames[new], pages.slots, strict=True)}
            slab.free = slab.free[len(pages.slots) :]
            stored = new.stop

    def drop(self, frames: Sequence[int]) -> None:
        """Free the pages of these frames; a slab without frames goes, unless its size is known."""
        if not frames:
            return
        self._pages = None
        for frame in frames:
            slab, slot = self.places.pop(frame)
            slab.free = sorted([*slab.free, slot])
        if self.capacity is None:
            held = [slab for slab, _ in self.places.values()]
            self.slabs = [slab for slab in self.slabs if any(slab is each for each in held)]
            self._ledger = None

    @property
    def pages(self) -> list[tuple[tuple[int, ...], Pages]]:
        """The frames of each slab that holds any, in the order in which they are read.

        Oldest first while that is a ring; where frames have left between others, in the order in
        which they lie, which is faster and means nothing to attention.
        """
        if self._pages is None:
            self._pages = [pages for slab in self.slabs if (pages := self._pages_of(slab))]
        return self._pages

    def _pages_of(self, slab: Slab) -> tuple[tuple[int, ...], Pages] | None:
        own = {frame: slot for frame, (at, slot) in self.places.items() if at is slab}
        if not own:
            return None
        pages = Pages(slab.key, slab.value, tuple(own.values()))
        if len(pages.runs) > 2:
            own = dict(sorted(own.items(), key=lambda place: place[1]))
            pages = Pages(slab.key, slab.value, tuple(own.values()))
        return tuple(own), pages

    def read(self, frames: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Keys and values of some frames, decoded [B, H, F, T, D] fp32."""
        order, keys, values = [], [], []
        for slab in self.slabs:
            own = [frame for frame in frames if self.places[frame][0] is slab]
            if own:
                slots = [self.places[frame][1] for frame in own]
                key, value = (_chosen(packed, slots) for packed in (slab.key, slab.value))
                keys.append(self.key_quantizer.decode(key, torch.float32))
                values.append(self.value_quantizer.decode(value, torch.float32))
                order += own
        back = [order.index(frame) for frame in frames]
        return torch.cat(keys, 2)[:, :, back], torch.cat(values, 2)[:, :, back]

    @property
    def packed(self) -> list[Packed]:
        """All that is held."""
        return [packed for slab in self.slabs for packed in (slab.key, slab.value)]

    @property
    def ledger(self) -> Counter[str]:
        """Bytes of the tensors held, by part."""
        if self._ledger is None:
            self._ledger = Counter()
            for packed in self.packed:
                self._ledger.update({name: part.nbytes for name, part in packed.parts.items()})
        return self._ledger

    @property
    def nominal_bytes(self) -> int:
        """Bytes of the codes alone of the frames that are here."""
        total = 0
        for slab, _ in self.places.values():
            for packed in (slab.key, slab.value):
                batch, heads, _, tokens, width = packed.shape
                total += batch * heads * tokens * width * packed.bits // 8
        return total

    def _grow(self, k_BHFTD: Tensor, v_BHFTD: Tensor) -> None:
        """Take a slab for what is still to come, or for these frames."""
        here = sum(slab.key.shape[2] for slab in self.slabs)
        size = max(k_BHFTD.shape[2], (self.capacity or 0) - here)
        key = _room(self.key_quantizer.encode(k_BHFTD[:, :, :1]), size)
        value = _room(self.value_quantizer.encode(v_BHFTD[:, :, :1]), size)
        self.slabs.append(Slab(key, value, list(range(size))))
        self._ledger = None


def encode_into(quantizer: Quantizer, x_BHFTD: Tensor, room: Packed, pages: Pages) -> None:
    """Encode frames and copy them into their pages; how `Arena.write` does it in plain torch."""
    packed = quantizer.encode(x_BHFTD)
    for at, of in pages.runs:
        for name, part in room.parts.items():
            part[:, :, at] = packed.parts[name][:, :, of]


def _chosen(packed: Packed, slots: list[int]) -> Packed:
    """Some pages, copied together."""
    return replace(packed, parts={name: x[:, :, slots] for name, x in packed.parts.items()})


def _room(like: Packed, num_frames: int) -> Packed:
    """Pages as those of `like`, for so many frames."""
    parts = {
        name: part.new_empty(*part.shape[:2], num_frames, *part.shape[3:])
        for name, part in like.parts.items()
    }
    return replace(like, parts=parts)
