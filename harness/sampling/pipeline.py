"""The order of passes of MAGI-1: a pipeline of chunks with a limited view of earlier ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

from harness.api import Method, TokenPolicy
from harness.cache.integration import Integration
from harness.sampling.decoding import Decoder
from harness.sampling.guidance import Guided
from harness.sampling.loop import Loop
from harness.sampling.passes import Pass, chunks, most_active_frames, step_rows
from harness.sampling.schedule import NoiseSchedule

Commit = Literal["clean", "last_evaluated"]
GIVEN_REACH = 8  # chunks that a given chunk sees if the loop sets no number


@dataclass(frozen=True)
class Pipeline(Loop):
    """Denoises `chunks` chunks at a time; a new one starts when the oldest is finished.

    With S steps and W chunks, a chunk starts S / W rows after the one before. A row is one pass for
    each unfinished chunk, oldest first; a pass sees earlier chunks, finished or not. A finished
    chunk is encoded once more at the beginning of the next row, without noise and with the empty
    text; later passes see those keys and values.

    chunks: unfinished chunks at a time (W).
    reach: number of chunks that a pass sees, its own included, in each part of a chunk's steps. The
        steps are split evenly. null lets every pass see all earlier chunks.
    clean_reach: number of chunks that a pass sees which encodes a finished or given chunk, its own
        included; null takes the last entry of `reach`.
    commit: keys and values of a finished chunk in the history. `clean` encodes the chunk once more;
        `last_evaluated` stores those of its newest step that ran, as FlowCache does.

    Sources  MAGI-1 (arXiv 2505.13211), its released code; FlowCache (arXiv 2602.10825).
    Raises   ValueError: an unknown word, numbers below 1.
    """

    decodes_between: ClassVar[bool] = False

    chunks: int = 4
    reach: Sequence[int] | None = (5, 4, 3, 2)
    clean_reach: int | None = 1
    commit: Commit = "clean"

    def __post_init__(self) -> None:
        if self.offset is not None or self.joint or self.frames is not None or self.overlap:
            raise ValueError(
                "model.loop: offset, joint, frames and overlap belong to harness.sampling.Loop: "
                "choose chunks, reach, clean_reach and commit of harness.sampling.Pipeline"
            )
        if self.commit not in get_args(Commit):
            raise ValueError(
                f"model.loop.commit={self.commit}: choose {', '.join(get_args(Commit))}"
            )
        if self.reach is not None:
            object.__setattr__(self, "reach", tuple(self.reach))  # lists come from YAML
        # Null stands for all chunks, which needs no check.
        reach = (1,) if self.reach is None else self.reach
        clean = 1 if self.clean_reach is None else self.clean_reach
        counts = {"chunks": [self.chunks], "reach": list(reach), "clean_reach": [clean]}
        for name, numbers in counts.items():
            if not numbers or any(type(n) is not int or n < 1 for n in numbers):
                raise ValueError(
                    f"model.loop.{name}={getattr(self, name)}: give whole numbers from 1"
                )

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
        if reuse is not None and reuse.scope == "window" and reuse.payload != "displacement":
            raise ValueError(
                f"{name}.payload={reuse.payload} stands for a pass of one branch, but scope=window "
                "decides for all chunks and branches of harness.sampling.Pipeline: choose "
                "method.reuse.payload=displacement or method.reuse.scope=chunk"
            )
        retention = method.retention
        if not isinstance(retention, TokenPolicy):
            return
        if reuse is not None and reuse.allow_stale_commit and retention.trigger == "commit":
            raise ValueError(
                f"{type(retention).__name__}.trigger=commit reads the queries of the pass that "
                f"stores a chunk, but {name}.allow_stale_commit may skip it: choose "
                "method.retention.trigger=new_chunk"
            )
        if retention.trigger != "new_chunk":
            return
        if self.reach is not None:
            raise ValueError(
                f"model.loop.reach={list(self.reach)} counts whole chunks, of which "
                f"{type(retention).__name__} keeps single tokens (the released code then hides the "
                "tokens that it kept): choose model.loop.reach=null"
            )
        if guidance is not None and any(role.cache == "none" for role in guidance.roles):
            raise ValueError(
                f"{type(retention).__name__}.trigger=new_chunk reads the queries of the newest "
                f"pass, which {type(guidance).__name__} runs without history (in the released code "
                "it then attends to nothing): choose model.guidance=null"
            )

    def check_model(self, schedule: NoiseSchedule, window: int | None, chunk_frames: int) -> None:
        """Raise ValueError if the other settings of a preset do not fit this order."""
        self.check_steps(schedule)
        # The window frees what no pass sees any more; a shorter one would change the video.
        if window is None:
            return
        most = None if self.reach is None else max(*self.reach, self.chunks)
        if most is None or window < most * chunk_frames:
            wanted = "null" if most is None else f"{most * chunk_frames} or more, or null"
            raise ValueError(
                f"model.window={window} is shorter than what model.loop.reach and "
                f"model.loop.chunks={self.chunks} chunks of {chunk_frames} frames see: choose "
                f"model.window={wanted}"
            )

    def check_steps(self, schedule: NoiseSchedule) -> int:
        """Return the rows between the starts of two chunks.

        Raises  ValueError: steps that cannot be split into chunks under way, or into parts of
                `reach`.
        """
        steps = len(schedule.times(first_chunk=True))
        for name, parts in (("chunks", self.chunks), ("reach", len(self.reach or (1,)))):
            if steps % parts:
                raise ValueError(
                    f"model.schedule.num_steps={steps} cannot be split into {parts} equal parts "
                    f"(model.loop.{name}): choose a multiple of {parts}"
                )
        return steps // self.chunks

    def pass_frames(self, schedule: NoiseSchedule, chunk_frames: int) -> int:
        """Return the most frames of one pass."""
        return chunk_frames

    def under_way(self, schedule: NoiseSchedule, chunk_frames: int) -> int:
        """Return the most chunks that are unfinished at a time."""
        return self.chunks

    def active_frames(self, schedule: NoiseSchedule, num_frames: int, chunk_frames: int) -> int:
        """Return the most frames that the cache holds as active chunks."""
        # Once the pipeline is full, its stages repeat: a short video is enough.
        enough = min(num_frames, (self.chunks + 2) * chunk_frames)
        return most_active_frames(self.passes(schedule, enough, chunk_frames))

    def passes(
        self, schedule: NoiseSchedule, num_frames: int, chunk_frames: int, given: int = 0
    ) -> Iterator[Pass]:
        """Yield the passes of a video in order; a reuse policy may skip some of them.

        given: chunks that a prefix gives.
        """
        steps = len(schedule.times(first_chunk=True))
        # A new chunk starts in the row after the oldest is done.
        offset = self.check_steps(schedule)
        parts = chunks(num_frames, chunk_frames)
        new = parts[given:]
        rows = list(step_rows([steps] * len(new), offset))
        of_row = partial(Pass, 0, num_rows=len(rows))
        # Given chunks are stored in the first row, before any chunk is denoised.
        for part in parts[:given]:
            sees = _sees(part, self._clean_reach or GIVEN_REACH)
            yield of_row(part, row=0, stores="history", sees=sees)
        finished: range | None = None

        # At the beginning of the row after the chunk's last step, before any chunk attends to it.
        def commit(row: int) -> Iterator[Pass]:
            if finished is not None:
                seen = _sees(finished, None if self.reach is None else self._clean_reach)
                yield of_row(finished, row=row, stores="history", completes=finished, sees=seen)

        for row, under_way in enumerate(rows):
            yield from commit(row)
            finished = None
            # Neighbours: chunks start in order and finish in order.
            row_frames = range(new[under_way[0][0]].start, new[under_way[-1][0]].stop)
            for chunk, step in under_way:
                part, is_last = new[chunk], step + 1 == steps
                # With commit=last_evaluated the last denoising pass is the commit.
                commits = is_last and self.commit == "last_evaluated"
                reach = self.reach[step * len(self.reach) // steps] if self.reach else None
                yield of_row(
                    part,
                    step,
                    row=row,
                    row_frames=row_frames,
                    stores="history" if commits else "active",
                    completes=part if commits else range(0),
                    sees=_sees(part, reach),
                    is_oldest=chunk == under_way[0][0],
                    needs_room=chunk == under_way[0][0] and under_way[-1][1] == 0,
                )
                # Chunks start at least a row apart, so at most one finishes in a row.
                if is_last and not commits:
                    finished = part
        # The original skips the last commit, because no pass sees it. Run it all the same: with
        # every loop the cache holds the whole video at the end.
        yield from commit(len(rows))

    @property
    def _clean_reach(self) -> int | None:
        # The pass that encodes a finished chunk then sees as much as those of its last steps.
        if self.clean_reach is None and self.reach is not None:
            return self.reach[-1]
        return self.clean_reach


def _sees(part: range, reach: int | None) -> range | None:
    """Return the earlier frames that a pass over a chunk sees; `reach` includes the chunk."""
    # Chunks before the video do not exist; its first chunks see all that there are.
    if reach is None:
        return None
    return range(max(0, part.start - (reach - 1) * len(part)), part.start)
