"""The order of a video's passes, as a model's preset describes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.api import Method, Stores
from harness.cache.integration import Integration
from harness.sampling.decoding import Codec, Decoder
from harness.sampling.guidance import Guided
from harness.sampling.passes import Pass, chunks, most_active_frames, step_rows
from harness.sampling.schedule import NoiseSchedule


@dataclass(frozen=True)
class Loop:
    """Order of passes: `model.loop` of a preset. Stateless.

    offset: rows between the starts of two chunks; null starts a chunk when the previous one is
        finished. A row is one step of every unfinished chunk. With an offset, later chunks attend
        to the noisy keys and values of earlier chunks.
    joint: all unfinished chunks share one pass of the network and attend to each other in it.
    frames: length of a history, after which a new one starts; null keeps one history per video.
    overlap: newest frames of a history from which the next one starts.

    Sources  Self-Forcing (arXiv 2506.08009): the defaults. Rolling Forcing (arXiv 2509.25161):
             offset=1, joint=true. CausVid (arXiv 2412.07772): frames=21, overlap=3.
    Raises   ValueError: an offset below 1, joint without offset, an overlap that is not shorter
             than a history.
    """

    # Whether a new history starts from decoded pictures. This needs a decoder that also encodes.
    decodes_between: ClassVar[bool] = True

    offset: int | None = None
    joint: bool = False
    frames: int | None = None
    overlap: int = 0

    def __post_init__(self) -> None:
        # By type, since True is an int in Python.
        if self.offset is not None and (type(self.offset) is not int or self.offset < 1):
            raise ValueError(f"model.loop.offset={self.offset}: give 1 row or more, or null")
        if self.joint and self.offset is None:
            raise ValueError(
                "model.loop.joint=true shares a pass between chunks, but without an offset only "
                "one chunk is under way: give model.loop.offset=1"
            )
        self.check_lengths()

    def check_lengths(self) -> None:
        """Raise ValueError unless `frames` exceeds an overlap of at least 1, or neither is set."""
        lengths = [n for n in (self.frames, self.overlap) if n is not None]
        whole = all(type(n) is int for n in lengths)
        if self.frames is None and whole and self.overlap == 0:
            return
        if self.frames is None or not whole or not 0 < self.overlap < self.frames:
            raise ValueError(
                f"model.loop.frames={self.frames}, overlap={self.overlap}: give whole numbers, "
                "more frames than overlap and at least 1 of it"
            )

    def check_model(self, schedule: NoiseSchedule, window: int | None, chunk_frames: int) -> None:
        """Raise ValueError if the other settings of a preset do not fit this order."""

    def check(
        self,
        integration: Integration,
        method: Method,
        decoder: Decoder,
        guidance: Guided | None = None,
    ) -> None:
        """Raise ValueError, before anything is generated, if a part cannot serve this order."""
        reuse = method.reuse
        if self.offset is not None and reuse is not None and reuse.scope == "window":
            raise ValueError(
                f"{type(reuse).__name__}.scope=window decides once for all chunks of a window, but "
                "model.loop.offset starts chunk after chunk without windows: choose "
                "method.reuse.scope=chunk"
            )
        if self.joint and method.reuse is not None:
            raise ValueError(
                f"{type(method.reuse).__name__} skips passes of one chunk, but model.loop.joint "
                "denoises several chunks in one pass: choose a method without reuse"
            )
        if self.offset is not None and not self.joint and not integration.shows_active:
            raise ValueError(
                f"integration={integration.name} keeps finished chunks only, but model.loop.offset "
                "shows chunks that are still being denoised: choose integration=packed"
            )
        if self.frames is None:
            return
        if not integration.restarts:
            raise ValueError(
                f"integration={integration.name} keeps one history per video, but "
                f"model.loop.frames={self.frames} starts new ones: choose integration=packed"
            )
        if not isinstance(decoder, Codec):
            raise ValueError(
                f"{type(decoder).__name__} does not encode, but model.loop.frames starts a history "
                "with a picture: choose model.decoder._target_=harness.models.WanCodec"
            )

    def demand_active(self, integration: Integration) -> None:
        """Raise ValueError if an integration cannot show chunks that are still being denoised."""
        if not integration.shows_active:
            raise ValueError(
                f"integration={integration.name} keeps finished chunks only, but harness.sampling."
                f"{type(self).__name__} shows chunks that are still being denoised: choose "
                "integration=packed"
            )

    def histories(self, num_frames: int) -> Sequence[int]:
        """Return the frames of each history of a video, overlaps included; the first is longest."""
        if self.frames is None:
            return (num_frames,)
        # Each later history repeats the overlap, so it adds only the rest of its frames.
        found, left = [min(num_frames, self.frames)], num_frames - self.frames
        while left > 0:
            found.append(min(self.frames, self.overlap + left))
            left -= self.frames - self.overlap
        return found

    def pass_frames(self, schedule: NoiseSchedule, chunk_frames: int) -> int:
        """Return the most frames of one pass."""
        return (self.under_way(schedule, chunk_frames) if self.joint else 1) * chunk_frames

    def under_way(self, schedule: NoiseSchedule, chunk_frames: int) -> int:
        """Return the most chunks that are unfinished at a time."""
        if self.offset is None:
            return 1
        # Rounded up: a chunk that is in its last step still counts.
        return -(-len(schedule.times(first_chunk=False)) // self.offset)

    def active_frames(self, schedule: NoiseSchedule, num_frames: int, chunk_frames: int) -> int:
        """Return the most frames that the cache holds as active chunks."""
        if self.while_noisy != "active" or self.offset is None:
            return 0
        # The first chunk may have steps of its own.
        most_steps = max(len(schedule.times(first)) for first in (True, False))
        # Once the most chunks are unfinished, the rows of passes repeat: a short video is enough.
        enough = (2 * -(-most_steps // self.offset) + 1) * chunk_frames
        return most_active_frames(self.passes(schedule, min(num_frames, enough), chunk_frames))

    def num_passes(self, schedule: NoiseSchedule, num_frames: int, chunk_frames: int) -> int:
        """Return the number of passes, commits included."""
        # Counted, not computed: every order of passes then needs one description only.
        return sum(1 for _ in self.passes(schedule, num_frames, chunk_frames))

    def passes(
        self, schedule: NoiseSchedule, num_frames: int, chunk_frames: int, given: int = 0
    ) -> Iterator[Pass]:
        """Yield the passes of a video in order; a reuse policy may skip some of them.

        given: chunks that a prefix gives.
        Raises  ValueError: chunks are given; see `harness.sampling.Pipeline`.
        """
        self.refuse_prefix(given)
        for number, length in enumerate(self.histories(num_frames)):
            # Frames are counted from the start of the history, as its positions are.
            parts, given = self.parts(number, length, chunk_frames)
            # The overlap is finished already: a commit pass is enough to store it.
            for part in parts[:given]:
                yield Pass(number, part, stores="history")
            num_steps = [
                len(schedule.times(first_chunk=number == 0 and part.start == 0))
                for part in parts[given:]
            ]
            for row in step_rows(num_steps, self.offset):
                if self.joint:
                    (oldest, step), (newest, _) = row[0], row[-1]
                    part = parts[given + oldest]
                    joint = range(part.start, parts[given + newest].stop)
                    is_last = step + 1 == num_steps[oldest]
                    # A chunk starts in this row, behind chunks that are unfinished.
                    new = row[-1][1] == 0
                    yield Pass(number, joint, step, needs_room=new, precedes_commit=is_last)
                    # Rolling Forcing runs a commit pass in every row. Only the oldest chunk can
                    # finish; until then its commit pass stores nothing.
                    if is_last:
                        yield Pass(number, part, stores="history", completes=part)
                    else:
                        yield Pass(number, part, precedes_commit=False)
                    continue
                for chunk, step in row:
                    part = parts[given + chunk]
                    first = chunk == row[0][0]
                    is_last = step + 1 == num_steps[chunk]
                    yield Pass(
                        number,
                        part,
                        step,
                        self.while_noisy,
                        is_oldest=first,
                        needs_room=first and row[-1][1] == 0,
                        precedes_commit=is_last,
                    )
                    if is_last:
                        yield Pass(number, part, stores="history", completes=part)

    def refuse_prefix(self, given: int) -> None:
        """Raise ValueError if chunks are given."""
        if given:
            raise ValueError(
                f"model.loop={type(self).__name__} starts from noise, found a prefix of {given} "
                "chunks: choose a model with harness.sampling.Pipeline, or give no prefix"
            )

    def parts(self, number: int, length: int, chunk_frames: int) -> tuple[list[range], int]:
        """Return the chunks of a history, and how many of them come from the previous history.

        Raises  ValueError: frames or overlap that are no multiple of a chunk.
        """
        if self.frames is not None and (self.frames % chunk_frames or self.overlap % chunk_frames):
            raise ValueError(
                f"model.loop.frames={self.frames}, overlap={self.overlap}: give multiples of the "
                f"model's chunk of {chunk_frames}"
            )
        # The first history has none before it.
        return chunks(length, chunk_frames), self.overlap // chunk_frames if number else 0

    @property
    def keeps_history(self) -> bool:
        """Whether finished chunks are stored in a cache."""
        return True

    @property
    def while_noisy(self) -> Stores:
        """What a denoising pass stores: its chunk, if later chunks run before it is finished."""
        # Chunks of a joint pass attend to each other directly, so the cache need not hold them.
        return "nothing" if self.offset is None or self.joint else "active"
