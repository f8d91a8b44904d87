"""The order of passes of diffusion-forcing models: windows whose chunks have their own noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

from harness.api import Exact, Method, Stores
from harness.cache.integration import Integration
from harness.sampling.decoding import Decoder
from harness.sampling.guidance import Guided
from harness.sampling.loop import Loop
from harness.sampling.passes import Pass, most_active_frames, step_rows
from harness.sampling.schedule import GRID, NoiseSchedule, is_number

Execution = Literal["joint", "joint_causal", "chunk_causal"]
Commit = Literal["clean", "last_step"]
Prefix = Literal["every_row", "once", "once_late"]
ANY_NUMBER = 2**20  # more chunks than any video has, for a window as long as the video


@dataclass(frozen=True)
class DiffusionForcing(Loop):
    """Denoises the chunks of a window together, each `offset` steps behind the one before.

    A video longer than a window is a series of windows. Each window begins with the last `overlap`
    frames of the previous one, its prefix, and gets a new history, new solvers and positions from
    0.

    The three executions give three different videos from the same noise:

    `joint`: every row of the step matrix is one pass over all frames of the window, and all frames
        attend to each other. Nothing can be cached.
    `joint_causal`: the same, but a chunk attends to itself and to earlier chunks only. Nothing is
        cached: every row computes all keys and values again.
    `chunk_causal`: a row is one pass per unfinished chunk, with a cache of finished chunks. With
        commit=clean and prefix_noise=0 it gives the video of `joint_causal`.

    offset: rows between the starts of two chunks (the paper's ar_step); 0 starts all at once.
    frames: length of a window; null makes the whole video one window.
    overlap: frames that two neighbouring windows share.
    commit: keys and values of a finished chunk in the history. `clean` encodes the chunk once more
        at time 0; `last_step` stores those of its last step, as FlowCache does.
    prefix: when the keys and values of a noisy prefix are computed. `every_row`: again in every
        row. `once`: in the first row. `once_late`: in the first row, whose denoising passes do not
        see them, as in FlowCache's code with compression. Joint executions always compute them in
        every row.
    prefix_noise: noise that is added to the prefix in every pass, and its time, 0 to 1000; 0 shows
        it clean.

    Sources  SkyReels-V2 (arXiv 2504.13074), its released code; FlowCache (arXiv 2602.10825).
    Raises   ValueError: an unknown word; numbers that are negative or no whole numbers; an overlap
             that is not shorter than a window.
    """

    decodes_between: ClassVar[bool] = False

    offset: int = 0
    execution: Execution = "chunk_causal"
    commit: Commit = "clean"
    prefix: Prefix = "once"
    prefix_noise: float = 0

    def __post_init__(self) -> None:
        words = {"execution": Execution, "commit": Commit, "prefix": Prefix}
        for name, allowed in words.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"model.loop.{name}={getattr(self, name)}: choose "
                    f"{', '.join(get_args(allowed))}"
                )
        if type(self.offset) is not int or self.offset < 0:
            raise ValueError(f"model.loop.offset={self.offset}: give 0 rows or more")
        if self.joint:
            raise ValueError("model.loop.joint belongs to harness.sampling.Loop: choose execution")
        noise = self.prefix_noise
        if not (is_number(noise) and 0 <= noise < GRID):
            raise ValueError(f"model.loop.prefix_noise={noise}: give a time from 0 to below {GRID}")
        self.check_lengths()

    def check(
        self,
        integration: Integration,
        method: Method,
        decoder: Decoder,
        guidance: Guided | None = None,
    ) -> None:
        """Raise ValueError, before anything is generated, if a part cannot serve this order."""
        self.demand_active(integration)
        reuse, name = method.reuse, type(method.reuse).__name__
        if reuse is not None and (reuse.scope, reuse.payload) == ("window", "displacement"):
            raise ValueError(
                f"{name}.payload=displacement moves the latents of one chunk, but a window of "
                "harness.sampling.DiffusionForcing has many: choose method.reuse.scope=chunk"
            )
        if self.execution == "chunk_causal":
            return
        # Joint executions would run such a method without an error and without an effect.
        exact = isinstance(method.key, Exact) and isinstance(method.value, Exact)
        if not exact or method.tiers or not method.retention.keeps_all:
            raise ValueError(
                f"model.loop.execution={self.execution} computes all keys and values again in "
                "every row, so there is no history to compress: choose "
                "model.loop.execution=chunk_causal, or a method that stores BF16"
            )
        if reuse is not None and reuse.scope == "chunk":
            raise ValueError(
                f"{name}.scope=chunk skips the pass of one chunk, but model.loop.execution="
                f"{self.execution} denoises all chunks in one pass: choose "
                "method.reuse.scope=window or model.loop.execution=chunk_causal"
            )

    def pass_frames(self, schedule: NoiseSchedule, chunk_frames: int) -> int:
        """Return the most frames of one pass."""
        if self.execution == "chunk_causal":
            return chunk_frames
        # A window without a length is as long as the video, which is not known here.
        return self.frames or chunk_frames

    def under_way(self, schedule: NoiseSchedule, chunk_frames: int) -> int:
        """Return the most chunks that are unfinished at a time."""
        if self.offset:
            return super().under_way(schedule, chunk_frames)
        # Without an offset all chunks of a window start together.
        return ANY_NUMBER if self.frames is None else self.frames // chunk_frames

    @property
    def keeps_history(self) -> bool:
        """Whether finished chunks are stored in a cache."""
        return self.execution == "chunk_causal"

    def active_frames(self, schedule: NoiseSchedule, num_frames: int, chunk_frames: int) -> int:
        """Return the most frames that the cache holds as active chunks."""
        # The second window is the first with a prefix; later ones repeat it.
        enough = num_frames if self.frames is None else 2 * self.frames - self.overlap
        return most_active_frames(self.passes(schedule, min(num_frames, enough), chunk_frames))

    def passes(
        self, schedule: NoiseSchedule, num_frames: int, chunk_frames: int, given: int = 0
    ) -> Iterator[Pass]:
        """Yield the passes of a video in order; a reuse policy may skip some of them.

        given: chunks that a prefix gives; none can be.
        """
        self.refuse_prefix(given)
        # The schedule of these models has no steps of its own for the first chunk.
        steps = len(schedule.times(first_chunk=True))
        # A clean prefix looks the same in every row, so its keys and values need no second pass.
        once = self.prefix != "every_row" or self.prefix_noise == 0
        for number, length in enumerate(self.histories(num_frames)):
            parts, given = self.parts(number, length, chunk_frames)
            prefix, new = parts[:given], parts[given:]
            rows = list(step_rows([steps] * len(new), self.offset))
            finished: list[range] = []  # chunks that finished in the previous row
            for row, chunks in enumerate(rows):
                of_row = partial(
                    Pass, number, prefix_noise=self.prefix_noise, row=row, num_rows=len(rows)
                )
                under_way = [(new[chunk], step) for chunk, step in chunks]
                done = [part for part, step in under_way if step + 1 == steps]
                if self.execution != "chunk_causal":
                    # The pass covers the prefix and finished and waiting chunks too: without a
                    # cache, their keys exist only while they are shown.
                    yield of_row(
                        range(length),
                        under_way[0][1],
                        advances=range(under_way[0][0].start, under_way[-1][0].stop),
                        completes=range(done[0].start, done[-1].stop) if done else range(0),
                        causal=self.execution == "joint_causal",
                    )
                    continue
                for part in prefix if row == 0 or not once else ():
                    # Limit the view: in later rows the history holds chunks after this one.
                    sees = range(part.start)
                    yield of_row(part, stores="history" if once else "active", sees=sees)
                # Commit chunks before the row's denoising passes, which then see them clean.
                for part in finished:
                    yield of_row(part, stores="history", completes=part)
                finished = done if self.commit == "clean" else []
                # The whole row looks past the prefix then, to the chunks of the window alone.
                late = prefix and row == 0 and self.prefix == "once_late"
                shown = range(prefix[-1].stop, length) if late else None
                for part, step in under_way:
                    is_last = step + 1 == steps
                    commits = is_last and self.commit == "last_step"
                    # No chunk comes after the window's last one and sees its keys.
                    meanwhile: Stores = "nothing" if part == new[-1] else "active"
                    yield of_row(
                        part,
                        step,
                        stores="history" if commits else meanwhile,
                        completes=part if commits else range(0),
                        sees=shown,
                        is_oldest=part == under_way[0][0],
                        needs_room=part == under_way[0][0] and under_way[-1][1] == 0,
                    )
            # The last row has no row after it, in which its chunks would be stored.
            for part in finished:
                yield of_row(part, stores="history", completes=part)
