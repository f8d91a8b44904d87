"""Ways to attend that no backend has yet: timed beside those to learn whether one should."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from harness.benchmarks.cases import Chunk, num_rows
from harness.cache import kernels
from harness.cache.attention.base import Scratch, Segment
from harness.cache.attention.by_kernel import form_of
from harness.cache.attention.dense import Merge, attend_dense, attend_plain


def by_tokens(chunk: Chunk, history: Sequence[Segment], tile: int, scratch: Scratch) -> Tensor:
    """All heads of `tile` tokens at a time, in whole frames, merged by log-sum-exp.

    For formats that neither rotate nor turn.
    """
    merged = Merge(*attend_dense(chunk.q, chunk.k, chunk.v))
    for segment in history:
        a_frame, num_frames = segment.pages.key.page[0], len(segment.pages.slots)
        step = max(1, tile // a_frame)
        for start in range(0, num_frames, step):
            frames = slice(start, min(start + step, num_frames))
            num_tokens = (frames.stop - frames.start) * a_frame
            room = scratch.take(chunk.k, chunk.k.shape[1], num_tokens)
            fill(segment, slice(0, chunk.k.shape[1]), frames, room)
            merged.add(*attend_dense(chunk.q, *room))
    return merged.out.to(chunk.q.dtype)


def overlapped(
    chunk: Chunk, history: Sequence[Segment], group: int, rooms: Sequence[Scratch], lane: Lane
) -> Tensor:
    """The next group of heads is staged while this one attends: two scratches, two streams."""
    out, num_stored = torch.empty_like(chunk.q), num_rows(history)
    lane.follow()
    for i, start in enumerate(range(0, chunk.q.shape[1], group)):
        heads = slice(start, min(start + group, chunk.q.shape[1]))
        size = num_stored + chunk.k.shape[2]
        room = rooms[i % 2].take(chunk.k, heads.stop - heads.start, size)
        with lane.staging(i % 2):
            filled = 0
            for segment in history:
                end, frames = filled + segment.num_tokens, slice(0, len(segment.pages.slots))
                part = (room[0][:, :, filled:end], room[1][:, :, filled:end])
                fill(segment, heads, frames, part)
                filled = end
            for each, current in zip(room, (chunk.k, chunk.v), strict=True):
                each[:, :, num_stored:] = current[:, heads]
        with lane.attending(i % 2):
            out[:, heads] = attend_plain(chunk.q[:, heads], *room)
    return out


def fill(segment: Segment, heads: slice, frames: slice, room: tuple[Tensor, Tensor]) -> None:
    """Write some heads and frames into keys and values [B, h, F * T, D]."""
    pages = segment.pages
    if kernels.missing(room[0].device):
        segment.load_keys(heads, frames, room[0], None)
        segment.load_values(heads, frames, room[1], None)
        return
    from harness.cache.kernels.stage import stage

    span, slots = (heads.start, heads.stop), pages.table[frames]
    stage(form_of(segment.key_quantizer), pages.key, slots, span, room[0])
    stage(form_of(segment.value_quantizer), pages.value, slots, span, room[1])


class Lane:
    """A second stream for staging; on a CPU everything simply happens in order."""

    def __init__(self, device: torch.device) -> None:
        """One event a scratch for `it is filled`, one for `it is free`."""
        self._cuda = device.type == "cuda"
        if self._cuda:
            self._side = torch.cuda.Stream(device)
            self._filled = [torch.cuda.Event() for _ in range(2)]
            self._free = [torch.cuda.Event() for _ in range(2)]

    def follow(self) -> None:
        """Begin after what has been asked for so far."""
        if self._cuda:
            self._side.wait_stream(torch.cuda.current_stream())

    @contextmanager
    def staging(self, room: int) -> Iterator[None]:
        """Fill a scratch once the last call that reads it is done."""
        if not self._cuda:
            yield
            return
        with torch.cuda.stream(self._side):
            self._side.wait_event(self._free[room])
            yield
            self._filled[room].record(self._side)

    @contextmanager
    def attending(self, room: int) -> Iterator[None]:
        """Read a scratch once it is filled."""
        if not self._cuda:
            yield
            return
        main = torch.cuda.current_stream()
        main.wait_event(self._filled[room])
        yield
        self._free[room].record(main)
