"""Pages of a layer's history: allocated in slabs, never concatenated and never moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.api import Packed, Quantizer


@dataclass
class Slab:
    """One allocation of pages of keys and values [B, H, slots, ...], with its free slots."""

    key: Packed
    value: Packed
    free: list[int]


@dataclass(frozen=True)
class Pages:
    """Some pages of one slab, in the order in which attention reads them."""

    key: Packed
    value: Packed
    slots: tuple[int, ...]

    @cached_property
    def runs(self) -> list[tuple[slice, slice]]:
        """Runs of neighbouring slots: their places in the slab, and their places in `slots`."""
        cuts = [i + 1 for i, (a, b) in enumerate(pairwise(self.slots)) if b != a + 1]
        bounds = pairwise([0, *cuts, len(self.slots)]) if self.slots else ()
        return [(slice(self.slots[i], self.slots[i] + j - i), slice(i, j)) for i, j in bounds]

    @cached_property
    def table(self) -> Tensor:
        """The slots as a tensor for kernels [F] int32."""
        return torch.tensor(self.slots, dtype=torch.int32, device=self.key.device)

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """The slots as an array for compiled loops [F] int64."""
        return np.array(self.slots, np.int64)


# Decodes some heads of some pages (entries of `slots`) of keys or values: see `stage_by_torch`.
Stage = Callable[[Quantizer, Packed, Pages, slice, slice, Tensor], None]


@dataclass
class Arena:
    """Pages of one layer's frames in one tier: the frames that one pair of quantizers stores.

    A page stays in its slot until it is freed; then the next page may take the slot.

    capacity: the most frames that the arena will ever hold, allocated with the first frames; None
        allocates chunk by chunk.
    write, stage: encode frames into pages, and decode pages; an attention backend may use a kernel.
    span: frames that are encoded together as one page [span * T, D]. Dropping one of them frees
        the page.
    places: slab and slot of each frame.
    """

    key_quantizer: Quantizer
    value_quantizer: Quantizer
    capacity: int | None = None
    write: Callable[[Quantizer, Tensor, Packed, Pages], None] = field(
        default_factory=lambda: encode_into
    )
    stage: Stage = field(default_factory=lambda: stage_by_torch)
    span: int = 1
    places: dict[int, tuple[Slab, int]] = field(default_factory=dict)
    slabs: list[Slab] = field(default_factory=list)
    # Caches, because every pass of every layer reads both: None after a change of frames or slabs.
    _pages: list[tuple[tuple[int, ...], Pages]] | None = None
    _ledger: Counter[str] | None = None

    @property
    def frames(self) -> list[int]:
        """Indices of the stored frames, in the order in which they were stored."""
        return list(self.places)

    def store(self, frames: Sequence[int], k_BHFTD: Tensor, v_BHFTD: Tensor) -> None:
        """Encode new frames k, v [B, H, F, T, D] into free pages; allocate a slab if needed.

        Raises  ValueError: a number of frames that is no multiple of `span`.
        """
        if not frames:
            return
        if len(frames) % self.span:
            raise ValueError(f"{len(frames)} frames are no multiple of a page of {self.span}")
        self._pages = None
        k, v = k_BHFTD, v_BHFTD
        # From here on the third dimension counts pages: [B, H, F / span, span * T, D].
        if self.span > 1:
            k, v = (x.unflatten(2, (-1, self.span)).flatten(3, 4) for x in (k, v))
        groups = [frames[at : at + self.span] for at in range(0, len(frames), self.span)]
        if sum(len(slab.free) for slab in self.slabs) < len(groups):
            # Allocate the rest of the capacity, or room for these frames if that is more.
            allocated = sum(slab.key.shape[2] for slab in self.slabs)
            size = max(len(groups), (self.capacity or 0) // self.span - allocated)
            # Only the quantizer knows the shapes of its parts: encode one page and copy its shapes.
            key = _room(self.key_quantizer.encode(k[:, :, :1]), size)
            value = _room(self.value_quantizer.encode(v[:, :, :1]), size)
            self.slabs.append(Slab(key, value, list(range(size))))
            self._ledger = None
        stored = 0
        # A slab is one tensor, so frames that need several slabs are written in several calls.
        for slab in self.slabs:
            pages = Pages(slab.key, slab.value, tuple(slab.free[: len(groups) - stored]))
            if not pages.slots:
                continue
            new = slice(stored, stored + len(pages.slots))
            self.write(self.key_quantizer, k[:, :, new], slab.key, pages)
            self.write(self.value_quantizer, v[:, :, new], slab.value, pages)
            for group, slot in zip(groups[new], pages.slots, strict=True):
                self.places |= dict.fromkeys(group, (slab, slot))
            slab.free = slab.free[len(pages.slots) :]
            stored = new.stop

    def drop(self, frames: Sequence[int]) -> None:
        """Free the pages of these frames.

        Without a capacity, slabs that hold no frames are freed too.
        """
        if not frames:
            return
        self._pages = None
        leaving = [self.places[frame] for frame in frames]
        for slab in self.slabs:
            freed = {slot for of, slot in leaving if of is slab}
            # In ascending order, so that new pages take neighbouring slots and form one run.
            slab.free = sorted([*slab.free, *freed])
            # All frames of a freed page are gone, not only the given ones.
            gone = [f for f, (of, slot) in self.places.items() if of is slab and slot in freed]
            for frame in gone:
                del self.places[frame]
        # With a capacity the slab is kept: later frames reuse it.
        if self.capacity is None:
            held = [slab for slab, _ in self.places.values()]
            # By identity: dataclasses compare by value, and tensors have no single truth value.
            self.slabs = [slab for slab in self.slabs if any(slab is each for each in held)]
            self._ledger = None

    @property
    def pages(self) -> list[tuple[tuple[int, ...], Pages]]:
        """Frames and pages of each slab that holds frames, in the order in which they are read."""
        if self._pages is not None:
            return self._pages
        self._pages = []
        for slab in self.slabs:
            slots = {frame: slot for frame, (of, slot) in self.places.items() if of is slab}
            if not slots:
                continue
            # Frames of one page have the same slot: name each slot once.
            pages = Pages(slab.key, slab.value, tuple(dict.fromkeys(slots.values())))
            # Oldest first, as in a ring buffer, gives at most two runs. If frames have left in
            # between, read in the order of the slots: fewer runs are faster, and attention does not
            # depend on the order of its keys.
            if len(pages.runs) > 2:
                slots = dict(sorted(slots.items(), key=lambda place: place[1]))
                pages = Pages(slab.key, slab.value, tuple(dict.fromkeys(slots.values())))
            self._pages.append((tuple(slots), pages))
        return self._pages

    def read(self, frames: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return keys and values of some frames, decoded [B, H, F, T, D] fp32."""
        decoded: list[int] = []  # frames of the decoded pages, slab by slab
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for slab in self.slabs:
            slot_of = {f: slot for f, (of, slot) in self.places.items() if of is slab}
            # A page is decoded whole, and once, even if several of its frames are asked for.
            slots = tuple(dict.fromkeys(slot_of[f] for f in frames if f in slot_of))
            if not slots:
                continue
            pages = Pages(slab.key, slab.value, slots)
            for quantizer, packed, found in (
                (self.key_quantizer, slab.key, keys),
                (self.value_quantizer, slab.value, values),
            ):
                x = decode_pages(quantizer, packed, pages, self.stage)
                found.append(x.unflatten(2, (len(slots) * self.span, -1)))
            # `places` lists the frames of a page oldest first, so reversed the oldest one wins.
            oldest = {slot: f for f, slot in reversed(slot_of.items())}
            decoded += [oldest[slot] + i for slot in slots for i in range(self.span)]
        if decoded == list(frames) and len(keys) == 1:  # the usual case needs no copy
            return keys[0], values[0]
        back = [decoded.index(frame) for frame in frames]
        return torch.cat(keys, 2)[:, :, back], torch.cat(values, 2)[:, :, back]

    @property
    def packed(self) -> list[Packed]:
        """Keys and values of all slabs, free pages included."""
        return [packed for slab in self.slabs for packed in (slab.key, slab.value)]

    @property
    def ledger(self) -> Counter[str]:
        """Bytes of all slabs by part, free pages included."""
        if self._ledger is None:
            self._ledger = Counter()
            for packed in self.packed:
                self._ledger.update({name: part.nbytes for name, part in packed.parts.items()})
        return self._ledger

    @property
    def nominal_bytes(self) -> int:
        """Bytes of the stored frames without metadata, at the nominal bits per value."""
        total = 0
        for slab in self.slabs:
            num_pages = slab.key.shape[2] - len(slab.free)
            for packed in (slab.key, slab.value):
                batch, heads, _, tokens, width = packed.shape
                total += num_pages * batch * heads * tokens * width * packed.bits // 8
        return total


def encode_into(quantizer: Quantizer, x_BHFTD: Tensor, room: Packed, pages: Pages) -> None:
    """Encode frames x [B, H, F, T, D] and copy them into their pages of `room`, in plain torch."""
    put(quantizer.encode(x_BHFTD).parts, room, pages)


def put(parts: Mapping[str, Tensor], room: Packed, pages: Pages) -> None:
    """Copy parts of frames [B, H, F, ...] into their pages of `room`."""
    # By runs, since a slice of neighbouring slots is one copy.
    for at, of in pages.runs:
        for name, part in parts.items():
            room.parts[name][:, :, at] = part[:, :, of]


def decode_pages(quantizer: Quantizer, packed: Packed, pages: Pages, stage: Stage) -> Tensor:
    """Decode pages of `packed`, with the quantizer's rotation undone: [B, H, F * T, D] fp32."""
    batch, num_heads, _, num_tokens, width = packed.shape
    shape = batch, num_heads, len(pages.slots) * num_tokens, width
    x = torch.empty(shape, dtype=torch.float32, device=packed.device)
    stage(quantizer, packed, pages, slice(0, num_heads), slice(0, len(pages.slots)), x)
    return quantizer.turned_back(x)


def stage_by_torch(
    quantizer: Quantizer, packed: Packed, pages: Pages, heads: slice, frames: slice, out: Tensor
) -> None:
    """Decode pages of `packed`, the keys or values of `pages`, into out [B, h, F * T, D]."""
    apart = out.unflatten(2, (-1, packed.page[0]))
    for slots, places in pages.runs:
        first, last = max(places.start, frames.start), min(places.stop, frames.stop)
        if first < last:
            # Places and slots of a run advance together, so they differ by a constant.
            lag = slots.start - places.start
            chosen = packed.view(heads, slice(first + lag, last + lag))
            quantizer.stage(chosen, apart[:, :, first - frames.start : last - frames.start])


def _room(like: Packed, num_frames: int) -> Packed:
    """Allocate pages with the shapes and dtypes of those of `like`."""
    # Not zeroed: a page is read only after it was written.
    parts = {
        name: part.new_empty(*part.shape[:2], num_frames, *part.shape[3:])
        for name, part in like.parts.items()
    }
    return replace(like, parts=parts)
