"""Samples a video: runs the passes of a loop with one network, schedule and cache per branch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from harness.api import Reuse, Stores
from harness.cache.integration import CacheSession
from harness.cache.numerics import are_finite, demand_finite_passes
from harness.cache.session import Session
from harness.sampling.guidance import Branch, Guided, Role, SameText, roles_of, running
from harness.sampling.loop import Loop
from harness.sampling.network import Network, TextKV
from harness.sampling.noise import Noise
from harness.sampling.passes import Observer, Pass, chunks, with_recache
from harness.sampling.reuse import WINDOW, Inputs, Place, ReuseState
from harness.sampling.schedule import GRID, NoiseSchedule
from harness.sampling.solver import Solver

WAITING = 999.0  # time of a chunk that waits to start, in passes over a whole window


class SegmentDecoder(Protocol):
    """Decodes finished latents between two histories of one video."""

    def rejoin(self, overlap: int) -> Tensor:
        """Return the latents [B, overlap, C, h, w] that the next history starts from."""


@dataclass(frozen=True)
class Generation:
    """Inputs of one video while it is sampled.

    branches: one, or those that the model's guidance names.
    num_frames: latent frames of the video, those of the prefix included.
    segments: needed only if the loop restarts histories.
    prefix: latents that the video begins with [B, F, C, h, w], or None. Whole chunks are stored as
        they are. Frames of a chunk that is only partly given replace its own in every pass.
    recached: first frames of the chunks before which the history is stored again under their text.
    """

    branches: tuple[Branch, ...]
    noise: Noise
    num_frames: int
    observer: Observer
    segments: SegmentDecoder | None = None
    prefix: Tensor | None = None
    recached: Sequence[int] = ()


@dataclass
class ChunkState:
    """A chunk of the current history.

    frames: its frames in the video.
    placed: its frames in the current history.
    latents: [B, F, C, h, w]: noise before the first step, final after the last.
    num_steps: denoising steps.
    solver: None for chunks that the history before gives, and for finished ones.
    has_begun: whether its first step is done.
    is_given: whether it comes from the history before, or from a prefix.
    skipped: denoising passes that were skipped since the newest that ran.
    pinned: its first frames that a prefix gives [B, F, C, h, w]; None if it gives none.
    finite: for each pass so far, whether its latents were finite [] bool, on the device.
    """

    frames: range
    placed: range
    latents: Tensor
    num_steps: int = 0
    solver: Solver | None = None
    has_begun: bool = False
    is_given: bool = False
    skipped: int = 0
    pinned: Tensor | None = None
    finite: list[Tensor] = field(default_factory=list)


@dataclass
class HistoryState:
    """The history that is being sampled.

    length: its frames. begin: its first frame in the video.
    chunks: by first frame in the history.
    prefix_draw: the newest row that showed a noisy start, and that noise [B, overlap, C, h, w].
    rewritten: the row of the newest commit, and its frames.
    renewed: the newest chunk for which the history was freed, to be stored again.
    """

    number: int
    length: int
    begin: int = 0
    chunks: dict[int, ChunkState] = field(default_factory=dict)
    prefix_draw: tuple[int | None, Tensor] | None = None
    rewritten: tuple[int | None, range] | None = None
    renewed: range | None = None


@dataclass(frozen=True)
class Sampler:
    """Generates latents with one network, schedule and order of passes.

    chunk_frames: latent frames of a chunk.
    reuse: decides which denoising passes are skipped; None runs all.
    guidance: combines the branches of every pass; None runs one.
    """

    network: Network
    schedule: NoiseSchedule
    chunk_frames: int
    reuse: Reuse | None = None
    loop: Loop = field(default_factory=Loop)
    guidance: Guided | None = None

    def sample(
        self,
        session: CacheSession,
        text_kv: TextKV,
        noise: Noise,
        num_frames: int,
        observer: Observer,
        segments: SegmentDecoder | None = None,
    ) -> Iterator[Tensor]:
        """Yield the latents of a video without guidance, as `run` does."""
        branches = (Branch(session, SameText(text_kv)),)
        return self.run(Generation(branches, noise, num_frames, observer, segments))

    def flow(
        self,
        x_BFChw: Tensor,
        t_BF: Tensor,
        text_kv: TextKV,
        session: CacheSession,
        frames: range,
        stores: Stores = "nothing",
    ) -> Tensor:
        """Run one pass and return the flow [B, F, C, h, w] at x_t for times t [B, F], 0 to 1000.

        frames: frames of x in the history.
        """
        inputs = Inputs(self.network, x_BFChw, t_BF)
        return self.evaluate(inputs, text_kv, session, Pass(0, frames, stores=stores))[1]

    def evaluate(
        self, inputs: Inputs, text_kv: TextKV, session: CacheSession, each: Pass
    ) -> tuple[Tensor, Tensor]:
        """Run a pass; return the tokens after the last block, and the flow [B, F, C, h, w]."""
        plan = session.plan(each.frames, each.stores, each.sees)
        if each.causal:
            plan = replace(plan, causal_frames=self.chunk_frames)
        # With a reuse policy, an earlier pass may be the last that runs before the commit.
        if self.reuse is None and not each.precedes_commit:
            plan = replace(plan, observed=False)
        behind = self.network.run(inputs.tokens, inputs.time, text_kv, session, plan)
        tokens = inputs.tokens.shape[1] * len(text_kv.layers)
        session.arithmetic.tokens += tokens
        session.arithmetic.text_pairs += tokens * text_kv.layers[0][0].shape[2]
        return behind, self.network.finish(behind, inputs.time, inputs.x_BFChw)

    @property
    def roles(self) -> tuple[Role, ...]:
        """What each branch of a pass reads."""
        return roles_of(self.guidance)

    def to_network(self, x: Tensor) -> Tensor:
        """Return x on the network's device, in its dtype."""
        return x.to(self.network.device, self.network.dtype)

    @torch.inference_mode()
    def run(self, video: Generation) -> Iterator[Tensor]:
        """Yield the finished latents of each chunk [B, F, C, h, w] in the network's dtype.

        A chunk is yielded after the pass that stores it in the history, if there is one.

        Raises  NotFinite: latents, keys or values that are not finite.
        """
        assert len(video.branches) == len(self.roles), "one branch for each role"
        lengths = self.loop.histories(video.num_frames)
        history = HistoryState(0, lengths[0])
        given = self._give(video, history)
        reuse = None if self.reuse is None else ReuseState(self.reuse)
        passes = self.loop.passes(self.schedule, video.num_frames, self.chunk_frames, given)
        spec = video.branches[0].session.spec
        for each in with_recache(passes, video.recached, spec):
            if each.history > history.number:
                history = self._restart(video, history, lengths[each.history])
                if reuse is not None:
                    reuse.restart()
            self._make_room(video, history, each)
            if each.step is None:
                self._commit(video, history, each)
            else:
                self._denoise(video, history, each, reuse)
            for start in range(each.completes.start, each.completes.stop, self.chunk_frames):
                chunk = history.chunks[start]
                self._demand_finite(video, chunk)
                chunk.solver = None
                if reuse is not None:
                    reuse.free(start)
                yield chunk.latents

    def _give(self, video: Generation, history: HistoryState) -> int:
        """Start the chunks that a prefix gives whole; return their number."""
        if video.prefix is None:
            return 0
        num_given = video.prefix.shape[1] // self.chunk_frames
        for part in chunks(num_given * self.chunk_frames, self.chunk_frames):
            latents = self.to_network(video.prefix[:, part.start : part.stop])
            history.chunks[part.start] = ChunkState(part, part, latents, is_given=True)
        return num_given

    def _restart(self, video: Generation, old: HistoryState, length: int) -> HistoryState:
        """Free the history, and start one of `length` frames from the newest frames of the old."""
        overlap = self.loop.overlap
        new = HistoryState(old.number + 1, length, old.begin + old.length - overlap)
        for branch in video.branches:
            branch.session.restart()
        if self.loop.decodes_between:
            assert video.segments is not None, "a video of several histories needs a decoder"
            given_BFChw = video.segments.rejoin(overlap)
        else:
            latents = [old.chunks[start].latents for start in sorted(old.chunks)]
            given_BFChw = torch.cat(latents, dim=1)[:, -overlap:]
        for start in range(0, overlap, self.chunk_frames):
            placed = range(start, start + self.chunk_frames)
            frames = range(placed.start + new.begin, placed.stop + new.begin)
            own = given_BFChw[:, placed.start : placed.stop]
            new.chunks[start] = ChunkState(frames, placed, own, is_given=True)
        return new

    def _make_room(self, video: Generation, history: HistoryState, each: Pass) -> None:
        """Free cache entries that the next pass must not see."""
        for role, branch in zip(self.roles, video.branches, strict=True):
            if each.needs_room and role.cache == "own" and isinstance(branch.session, Session):
                branch.session.make_room()
            if history.rewritten is None or history.rewritten[0] == each.row:
                continue
            if role.cache == "shared":
                assert isinstance(branch.session, Session)
                branch.session.forget(history.rewritten[1])
                history.rewritten = None

    def _denoise(
        self, video: Generation, history: HistoryState, each: Pass, reuse: ReuseState | None
    ) -> None:
        """Run or skip a pass in every branch, and advance the solvers of its chunks by one step.

        The first branch starts new chunks and the last one combines the flows, both inside a timed
        phase.
        """
        advances, roles = each.advancing, self.roles
        index = (advances.start + history.begin) // self.chunk_frames
        inputs: Inputs | None = None
        flows: list[Tensor | None] = [None] * len(roles)
        # Chunks that have no state yet start inside the timed phase, so their solver is not asked.
        assert each.step is not None
        times = self.schedule.times(first_chunk=advances.start + history.begin == 0)
        numbers = running(self.guidance, each, times[each.step])
        for number in numbers:
            with video.observer.phase("denoise", index, each.step, number):
                # All branches show the same latents, so they share the embedded inputs.
                inputs = inputs or self._inputs(video, history, each, each.frames)
                flow_BFChw, skips = self._branch_flow(video, history, each, reuse, number, inputs)
                flows[number] = flow_BFChw
                chunk = history.chunks[advances.start]
                if number == numbers[0]:
                    chunk.skipped = chunk.skipped + 1 if skips else 0
                if each.stores == "history" and roles[number].cache == "own":
                    video.observer.stored(chunk.skipped)
                if number == numbers[-1]:
                    starts = range(advances.start, advances.stop, self.chunk_frames)
                    moving = [history.chunks[start] for start in starts]
                    if reuse is not None and reuse.policy.payload == "displacement":
                        self._move(video, each, moving[0], flows, reuse, skips)
                    else:
                        self._step(video, each, moving, flows)
        if each.stores == "history":
            for role, branch in zip(roles, video.branches, strict=True):
                if role.cache == "own":
                    name = self._name(moving[0].frames)
                    branch.session.watch.demand_finite(name, branch.session)
        if self.loop.joint:
            finite = are_finite(*(chunk.solver.clean for chunk in moving if chunk.solver))
            where = f"the window from {self._name(moving[0].frames)} on"
            demand_finite_passes([finite], where, video.branches[0].session)

    def _evaluate_as(
        self,
        role: Role,
        video: Generation,
        history: HistoryState,
        number: int,
        inputs: Inputs,
        each: Pass,
    ) -> tuple[Tensor, Tensor]:
        """Run a pass as its branch's role says; see `evaluate` for what it returns."""
        branch = video.branches[number]
        if role.cache == "none":
            each = replace(each, sees=range(0), stores="nothing")
        text_kv = branch.texts.of(self._number(history, each), each.step is None)
        return self.evaluate(inputs, text_kv, branch.session, each)

    def _branch_flow(
        self,
        video: Generation,
        history: HistoryState,
        each: Pass,
        reuse: ReuseState | None,
        number: int,
        inputs: Inputs,
    ) -> tuple[Tensor | None, bool]:
        """Return the flow of a pass in one branch [B, F, C, h, w], and whether it was skipped.

        There is no flow if a displacement replaces the step.
        """
        role, session = self.roles[number], video.branches[number].session
        if reuse is None:
            return self._evaluate_as(role, video, history, number, inputs, each)[1], False
        assert each.step is not None
        place = Place(
            branch=number,
            chunk=each.frames.start if each.advances is None else WINDOW,
            step=each.step,
            num_steps=history.chunks[each.advancing.start].num_steps,
            row=each.row,
            num_rows=each.num_rows,
            stores_history=each.stores == "history",
            row_frames=each.row_frames,
        )

        def watched() -> Inputs:
            window = each.row_frames or range(history.length)
            if reuse.policy.scope == "chunk" or each.row is None or each.frames == window:
                return inputs
            return self._inputs(video, history, each, window)

        decision = reuse.decide(place, watched)
        if decision.drift is not None and decision.accumulated is not None:
            video.observer.drifted(decision.drift, decision.accumulated)
        if decision.skips:
            video.observer.reused()
            if each.stores == "history" and role.cache == "own":
                assert isinstance(session, Session)
                session.promote(each.frames)
            return reuse.flow(place, inputs), True
        behind, flow_BFChw = self._evaluate_as(role, video, history, number, inputs, each)
        reuse.evaluated(place, inputs, behind, flow_BFChw)
        return flow_BFChw, False

    def _inputs(
        self, video: Generation, history: HistoryState, each: Pass, frames: range
    ) -> Inputs:
        """Return latents and times of some frames of the history as a pass shows them.

        Chunks that have no state yet start here, from the video's noise.
        """
        shown: list[Tensor] = []
        times: list[float] = []
        for start in range(frames.start, frames.stop, self.chunk_frames):
            chunk = self._chunk(video, history, start)
            x_BFChw, time = chunk.latents, self.schedule.clean_time
            if chunk.is_given and each.prefix_noise:
                x_BFChw, time = self._noisy_start(video, history, each, chunk), each.prefix_noise
            elif chunk.solver is not None and each.step is not None:
                runs = each.advancing if each.row_frames is None else each.row_frames
                is_waiting = not chunk.has_begun and start not in runs
                time = WAITING if is_waiting else chunk.solver.time
            elif chunk.solver is not None and not chunk.solver.finished:
                x_BFChw = chunk.solver.clean
            if chunk.pinned is not None:
                x_BFChw = torch.cat([chunk.pinned, x_BFChw[:, chunk.pinned.shape[1] :]], dim=1)
                if each.step is not None:  # a commit shows the given frames, but does not keep them
                    chunk.latents = x_BFChw
            shown.append(x_BFChw)
            times += [time] * len(chunk.placed)
        x_BFChw = torch.cat(shown, dim=1)
        t_BF = torch.tensor(times).expand(x_BFChw.shape[0], -1)
        return Inputs(self.network, x_BFChw, t_BF, self.schedule.pace(each.step))

    def _chunk(self, video: Generation, history: HistoryState, start: int) -> ChunkState:
        """Return a chunk of the history; one that has no state yet starts from the video's noise.

        start: its first frame in the history.
        """
        if start not in history.chunks:
            placed = range(start, min(start + self.chunk_frames, history.length))
            frames = range(placed.start + history.begin, placed.stop + history.begin)
            is_first, pinned = frames.start == 0, None
            if video.prefix is not None and frames.start < video.prefix.shape[1]:
                pinned = self.to_network(video.prefix[:, frames.start :])
            history.chunks[start] = ChunkState(
                frames,
                placed,
                latents=self.to_network(video.noise.initial(frames)),
                num_steps=len(self.schedule.times(is_first)),
                solver=self.schedule.solver(is_first),
                pinned=pinned,
            )
        return history.chunks[start]

    def _noisy_start(
        self, video: Generation, history: HistoryState, each: Pass, chunk: ChunkState
    ) -> Tensor:
        """Return a given chunk with the noise that the pass adds to it [B, F, C, h, w]."""
        # One draw per row, which all branches and all chunks of the start share.
        if history.prefix_draw is None or history.prefix_draw[0] != each.row:
            history.prefix_draw = each.row, video.noise.fresh(self.loop.overlap)
        noise = history.prefix_draw[1][:, chunk.placed.start : chunk.placed.stop].to(chunk.latents)
        share = each.prefix_noise / GRID
        return (1 - share) * chunk.latents + share * noise

    def _step(
        self,
        video: Generation,
        each: Pass,
        chunks: Sequence[ChunkState],
        flows_BFChw: Sequence[Tensor | None],
    ) -> None:
        """Combine the flows of all branches, and advance chunks of a pass by one step."""
        flow_BFChw = flows_BFChw[0]
        if self.guidance is not None:
            assert chunks[0].solver is not None
            flow_BFChw = self.guidance.combine(flows_BFChw, chunks[0].solver.time)
        assert flow_BFChw is not None
        for chunk in chunks:
            assert chunk.solver is not None
            chunk.has_begun = True
            own = slice(
                chunk.placed.start - each.frames.start, chunk.placed.stop - each.frames.start
            )

            # As in Rolling Forcing's code, each draw covers the whole pass and a chunk takes its
            # own part. The default argument binds the slice of this iteration.
            def fresh(own: slice = own) -> Tensor:
                return video.noise.fresh(len(each.frames))[:, own]

            chunk.latents = chunk.solver.step(chunk.latents, flow_BFChw[:, own], fresh)
            if not self.loop.joint:
                chunk.finite.append(are_finite(chunk.solver.clean))

    def _move(
        self,
        video: Generation,
        each: Pass,
        chunk: ChunkState,
        flows_BFChw: Sequence[Tensor | None],
        reuse: ReuseState,
        skips: bool,
    ) -> None:
        """Advance a chunk by one step; a skipped step repeats the displacement of the last one."""
        assert chunk.solver is not None
        before = chunk.latents
        if skips:
            chunk.latents = before + reuse.displacement(chunk.placed.start)
            chunk.solver.skip()
            chunk.finite.append(are_finite(chunk.latents))
        else:
            self._step(video, each, [chunk], flows_BFChw)
            reuse.moved(chunk.placed.start, chunk.latents - before)

    def _commit(self, video: Generation, history: HistoryState, each: Pass) -> None:
        """Run a pass that advances no chunk: a commit, or the given start.

        A branch that shares the history of another one keeps what it made of a finished chunk until
        the end of the row, as MAGI-1's code does, and reads the other's from then on.

        Raises  NotFinite: latents that are not finite; new or stored keys or values that are not.
        """
        chunk = history.chunks[each.frames.start]
        # Answers are read once a chunk, so that no denoising pass waits for the device. With a
        # joint loop the commit also runs on unfinished latents, as in the original code, but stores
        # nothing: the next commit would replace it before a pass reads it.
        self._demand_finite(video, chunk)
        index = self._number(history, each)
        inputs: Inputs | None = None
        branches = running(self.guidance, each, self.schedule.clean_time)
        if each.recached_for is not None and each.recached_for != history.renewed:
            for number in branches:
                session = video.branches[number].session
                assert isinstance(session, Session), "recaching demands integration=packed"
                session.renew(range(each.frames.start, each.recached_for.start))
            history.renewed = each.recached_for
        for number in branches:
            role = self.roles[number]
            if role.cache == "shared" and chunk.is_given:
                continue
            session = video.branches[number].session
            with video.observer.phase("commit", index, None, number):
                inputs = inputs or self._inputs(video, history, each, each.frames)
                self._evaluate_as(role, video, history, number, inputs, each)
            if role.cache == "shared":
                history.rewritten = each.row, each.frames
            else:
                session.watch.demand_finite(self._name(chunk.frames), session)

    def _number(self, history: HistoryState, each: Pass) -> int:
        """Return the number in the video of the chunk that a pass serves: its own, or the next."""
        frames = each.frames if each.recached_for is None else each.recached_for
        return (frames.start + history.begin) // self.chunk_frames

    def _demand_finite(self, video: Generation, chunk: ChunkState) -> None:
        """Raise NotFinite if the latents of one of a chunk's steps were not finite."""
        if chunk.finite:
            where = self._name(chunk.frames)
            demand_finite_passes(chunk.finite, where, video.branches[0].session)
            chunk.finite.clear()

    def _name(self, frames: range) -> str:
        """Name a chunk in a message by its number and its frames in the video, from 0."""
        number = frames.start // self.chunk_frames
        return f"chunk {number} (frames {frames.start} to {frames.stop - 1})"
