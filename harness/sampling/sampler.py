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
from harness.sampling.guidance import Branch, Guided, Role, SameText, roles_of, running_branches
from harness.sampling.loop import Loop
from harness.sampling.network import Network, TextKV
from harness.sampling.noise import Noise
from harness.sampling.passes import Observer, Pass, chunks, with_recache
from harness.sampling.reuse import WINDOW, Inputs, Place, ReuseState
from harness.sampling.schedule import GRID, NoiseSchedule
from harness.sampling.solver import Solver

# Time of a chunk that waits to start, in passes over a whole window: pure noise, as the first step
# of `UniPCSchedule` shows it.
WAITING = 999.0


class SegmentDecoder(Protocol):
    """Decodes finished latents between two histories of one video."""

    def rejoin(self, overlap: int) -> Tensor:
        """Return the latents [B, overlap, C, h, w] that the next history starts from."""


@dataclass(frozen=True)
class Generation:
    """Inputs of one video while it is sampled.

    branches: one for each role of the model's guidance; a single one without guidance.
    num_frames: latent frames of the video, those of the prefix included.
    segments: decodes between two histories; only loops that restart histories need it.
    prefix: latents that the video begins with [B, F, C, h, w], or None. Whole chunks are stored as
        they are. If it ends inside a chunk, its frames replace the chunk's in every pass.
    recached: first frames of the chunks whose text is new. Before such a chunk, the history is
        stored again under the new text.
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
    solver: None for given chunks and for finished ones.
    has_begun: whether its first step is done.
    is_given: whether its latents come from the previous history, or from a prefix.
    skipped: denoising passes skipped since the newest one that ran.
    pinned: first frames of the chunk, if a prefix gives them [B, F, C, h, w].
    finite: one entry for each pass: whether the latents after it are finite [] bool, on the device.
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
    """The history that is being sampled, and the state of its passes.

    video, reuse: inputs of the video, and the state of its reuse policy, if it has one.
    number: number of the history in the video, from 0.
    length: frames of the history.
    begin: its first frame in the video.
    chunks: by first frame in the history.
    prefix_draw: the newest row that showed a noisy start, and that noise [B, overlap, C, h, w].
    rewritten: row and frames of the newest commit of a branch that shares its history.
    renewed: the newest chunk for which the history was freed, to be stored again.
    """

    video: Generation
    reuse: ReuseState | None
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
        # For benches, checks and training, which have a session and no preset's guidance.
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
        # The network does not know chunks: attention hides the later ones of the pass.
        if each.causal:
            plan = replace(plan, causal_frames=self.chunk_frames)
        # With a reuse policy, an earlier pass may be the last that runs before the commit.
        if self.reuse is None and not each.precedes_commit:
            plan = replace(plan, observed=False)
        tokens_out = self.network.run(inputs.tokens, inputs.time, text_kv, session, plan)
        # Self-attention is counted by the session; the network's other work is counted here.
        tokens = inputs.tokens.shape[1] * len(text_kv.layers)
        session.arithmetic.tokens += tokens
        session.arithmetic.text_pairs += tokens * text_kv.layers[0][0].shape[2]
        return tokens_out, inputs.finish(tokens_out)

    @property
    def roles(self) -> tuple[Role, ...]:
        """Roles of the branches of a pass: which text and which cache each of them uses."""
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
        # The first history is the longest, so caches of its size serve the later ones.
        lengths = self.loop.histories(video.num_frames)
        # Policies are stateless: their state belongs to one video.
        reuse = None if self.reuse is None else ReuseState(self.reuse)
        history = HistoryState(video, reuse, 0, lengths[0])
        num_given = 0
        if video.prefix is not None:
            # Whole chunks only: the chunk in which the prefix ends is denoised, see `pinned`.
            num_given = video.prefix.shape[1] // self.chunk_frames
            for part in chunks(num_given * self.chunk_frames, self.chunk_frames):
                latents = self.to_network(video.prefix[:, part.start : part.stop])
                history.chunks[part.start] = ChunkState(part, part, latents, is_given=True)
        passes = self.loop.passes(self.schedule, video.num_frames, self.chunk_frames, num_given)
        spec = video.branches[0].session.spec
        for each in with_recache(passes, video.recached, spec):
            if each.history > history.number:
                history = self._restart(history, lengths[each.history])
            self._make_room(history, each)
            if each.step is None:
                self._commit(history, each)
            else:
                self._denoise(history, each)
            for start in range(each.completes.start, each.completes.stop, self.chunk_frames):
                chunk = history.chunks[start]
                self._demand_finite(history, chunk)
                # Free the solver and the reuse state now: they hold tensors as large as the chunk.
                # Its latents stay, because the next history may start from them.
                chunk.solver = None
                if reuse is not None:
                    reuse.free(start)
                yield chunk.latents

    def _restart(self, old: HistoryState, length: int) -> HistoryState:
        """Free the history, and start one of `length` frames from the newest frames of the old."""
        video, overlap = old.video, self.loop.overlap
        # The overlap is in both histories, so the new one begins before the old one's end.
        begin = old.begin + old.length - overlap
        new = HistoryState(video, old.reuse, old.number + 1, length, begin)
        # Free the caches first: the decoder needs the memory.
        for branch in video.branches:
            branch.session.restart()
        # CausVid begins with a picture that was decoded and encoded again, and decodes each history
        # as a video of its own; SkyReels-V2 takes the latents over.
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
        if new.reuse is not None:
            new.reuse.restart()
        return new

    def _make_room(self, history: HistoryState, each: Pass) -> None:
        """Free cache entries that the next pass must not see."""
        for role, branch in zip(self.roles, history.video.branches, strict=True):
            if each.needs_room and role.cache == "own" and isinstance(branch.session, Session):
                branch.session.make_room()
            # From the next row on, a branch that shares its history reads the owner's version of
            # the finished chunk (see `_commit`).
            if history.rewritten is None or history.rewritten[0] == each.row:
                continue
            if role.cache == "shared":
                assert isinstance(branch.session, Session)
                branch.session.forget(history.rewritten[1])
                history.rewritten = None

    def _denoise(self, history: HistoryState, each: Pass) -> None:
        """Run or skip a pass in every branch, and advance the solvers of its chunks by one step."""
        assert each.step is not None
        video, reuse, roles, advances = history.video, history.reuse, self.roles, each.advancing
        index = (advances.start + history.begin) // self.chunk_frames
        inputs: Inputs | None = None
        flows: list[Tensor | None] = [None] * len(roles)
        # A new chunk gets its solver inside the timed phase of the first branch. So ask the
        # schedule for the time here: the solver may not exist yet.
        times = self.schedule.times(first_chunk=advances.start + history.begin == 0)
        numbers = running_branches(self.guidance, each, times[each.step])
        for number in numbers:
            with video.observer.phase("denoise", index, each.step, number):
                # All branches show the same latents, so they share the embedded inputs. The first
                # branch makes them inside its phase, so that their time is counted.
                inputs = inputs or self._inputs(history, each, each.frames)
                flows[number], skips = self._branch_flow(history, each, number, inputs)
                chunk = history.chunks[advances.start]
                # One branch is enough: the age of stored keys is counted in passes, not in calls.
                if number == numbers[0]:
                    chunk.skipped = chunk.skipped + 1 if skips else 0
                if each.stores == "history" and roles[number].cache == "own":
                    video.observer.stored(chunk.skipped)
                # The last branch's phase also times guidance and solver.
                if number == numbers[-1]:
                    starts = range(advances.start, advances.stop, self.chunk_frames)
                    moving = [history.chunks[start] for start in starts]
                    if reuse is not None and reuse.policy.payload == "displacement":
                        self._move(history, each, chunk, flows, skips)
                    else:
                        self._step(video, each, moving, flows)
        if each.stores == "history":
            for role, branch in zip(roles, video.branches, strict=True):
                if role.cache == "own":
                    name = self._describe(moving[0].frames)
                    branch.session.watch.demand_finite(name, branch.session)
        if self.loop.joint:
            # Read the answer in every pass: a joint pass mixes its chunks, so a chunk that is not
            # finite spoils the others in the next pass.
            finite = are_finite(*(chunk.solver.clean for chunk in moving if chunk.solver))
            where = f"the window from {self._describe(moving[0].frames)} on"
            demand_finite_passes([finite], where, video.branches[0].session)

    def _evaluate_branch(
        self, history: HistoryState, each: Pass, number: int, inputs: Inputs
    ) -> tuple[Tensor, Tensor]:
        """Run a pass in one branch; return what `evaluate` returns."""
        branch = history.video.branches[number]
        # It borrows another branch's session, which must neither show nor keep anything.
        if self.roles[number].cache == "none":
            each = replace(each, sees=range(0), stores="nothing")
        text_kv = branch.texts.of(self._chunk_number(history, each), each.step is None)
        return self.evaluate(inputs, text_kv, branch.session, each)

    def _branch_flow(
        self, history: HistoryState, each: Pass, number: int, inputs: Inputs
    ) -> tuple[Tensor | None, bool]:
        """Return the flow of a pass in one branch [B, F, C, h, w], and whether it was skipped.

        There is no flow if a displacement replaces the step.
        """
        reuse, observer = history.reuse, history.video.observer
        if reuse is None:
            return self._evaluate_branch(history, each, number, inputs)[1], False
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

        # A policy with scope=window compares the whole window, also where a pass has one chunk.
        # Embedding the window costs time, so the policy calls this only when it compares.
        def compared() -> Inputs:
            window = each.row_frames or range(history.length)
            if reuse.policy.scope == "chunk" or each.row is None or each.frames == window:
                return inputs
            return self._inputs(history, each, window)

        decision = reuse.decide(place, compared)
        if decision.drift is not None and decision.accumulated is not None:
            observer.drifted(decision.drift, decision.accumulated)
        if decision.skips:
            observer.reused()
            if each.stores == "history" and self.roles[number].cache == "own":
                # No pass computes the chunk's keys, so the history gets those of an earlier pass.
                session = history.video.branches[number].session
                assert isinstance(session, Session)
                session.promote(each.frames)
            return reuse.flow(place, inputs), True
        tokens_out, flow_BFChw = self._evaluate_branch(history, each, number, inputs)
        reuse.evaluated(place, inputs, tokens_out, flow_BFChw)
        return flow_BFChw, False

    def _inputs(self, history: HistoryState, each: Pass, frames: range) -> Inputs:
        """Return latents and times of some frames of the history as a pass shows them.

        Chunks that have no state yet start here, from the video's noise.
        """
        shown: list[Tensor] = []
        times: list[float] = []
        for start in range(frames.start, frames.stop, self.chunk_frames):
            chunk = self._chunk(history, start)
            # A finished or given chunk is shown as it is, at the time of clean latents.
            x_BFChw, time = chunk.latents, self.schedule.clean_time
            if chunk.is_given and each.prefix_noise:
                # One draw per row, which all branches and all given chunks share.
                if history.prefix_draw is None or history.prefix_draw[0] != each.row:
                    history.prefix_draw = each.row, history.video.noise.fresh(self.loop.overlap)
                noise = history.prefix_draw[1][:, start : chunk.placed.stop].to(x_BFChw)
                share = each.prefix_noise / GRID
                x_BFChw, time = (1 - share) * x_BFChw + share * noise, each.prefix_noise
            elif chunk.solver is not None and each.step is not None:
                runs = each.advancing if each.row_frames is None else each.row_frames
                is_waiting = not chunk.has_begun and start not in runs
                time = WAITING if is_waiting else chunk.solver.time
            elif chunk.solver is not None and not chunk.solver.finished:
                # The commit of a joint loop shows an unfinished chunk as it would be without noise.
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

    def _chunk(self, history: HistoryState, start: int) -> ChunkState:
        """Return the chunk at frame `start` of the history; a new one starts from noise."""
        if start not in history.chunks:
            video = history.video
            placed = range(start, min(start + self.chunk_frames, history.length))
            frames = range(placed.start + history.begin, placed.stop + history.begin)
            is_first, pinned = frames.start == 0, None
            # The prefix ends inside this chunk: its whole chunks have their state from the start.
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

    def _step(
        self,
        video: Generation,
        each: Pass,
        chunks: Sequence[ChunkState],
        flows_BFChw: Sequence[Tensor | None],
    ) -> None:
        """Combine the flows of all branches, and advance chunks of a pass by one step."""
        flow_BFChw = flows_BFChw[0]
        # Chunks of a joint pass have different times. The guidances that look at the time are
        # MAGI-1's, whose passes have one chunk.
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
        history: HistoryState,
        each: Pass,
        chunk: ChunkState,
        flows_BFChw: Sequence[Tensor | None],
        skips: bool,
    ) -> None:
        """Advance a chunk by one step; a skipped step repeats the displacement of the last one."""
        assert chunk.solver is not None and history.reuse is not None
        displacements, start = history.reuse.displacements, chunk.placed.start
        # Of the latents, and not of the flow: a displacement holds guidance and step length too.
        before = chunk.latents
        if skips:
            chunk.latents = before + displacements[start]
            chunk.solver.skip()
            chunk.finite.append(are_finite(chunk.latents))
        else:
            self._step(history.video, each, [chunk], flows_BFChw)
            displacements[start] = chunk.latents - before

    def _commit(self, history: HistoryState, each: Pass) -> None:
        """Run a pass that advances no chunk: it stores a finished or a given chunk.

        Raises  NotFinite: latents that are not finite; new or stored keys or values that are not.
        """
        video, chunk = history.video, history.chunks[each.frames.start]
        # With a joint loop the commit also runs on unfinished latents, as in the original code, but
        # stores nothing: the next commit would replace it before a pass reads it.
        self._demand_finite(history, chunk)
        index = self._chunk_number(history, each)
        inputs: Inputs | None = None
        branches = running_branches(self.guidance, each, self.schedule.clean_time)
        # The first pass that stores the history again frees all of it, so that no pass attends to
        # keys of the old text.
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
                inputs = inputs or self._inputs(history, each, each.frames)
                self._evaluate_branch(history, each, number, inputs)
            if role.cache == "shared":
                # As in MAGI-1's code, a branch that shares another's history reads its own keys of
                # a finished chunk until the end of the row, and the owner's from then on.
                history.rewritten = each.row, each.frames
            else:
                session.watch.demand_finite(self._describe(chunk.frames), session)

    def _chunk_number(self, history: HistoryState, each: Pass) -> int:
        """Return the number of the chunk whose text a pass reads, from the video's start.

        This is the chunk of the pass, or the one for which the pass stores an earlier chunk again.
        """
        frames = each.frames if each.recached_for is None else each.recached_for
        return (frames.start + history.begin) // self.chunk_frames

    def _demand_finite(self, history: HistoryState, chunk: ChunkState) -> None:
        """Raise NotFinite if the latents after one of a chunk's steps were not finite.

        Called once a chunk: reading the answer makes the host wait for the device.
        """
        if chunk.finite:
            where, session = self._describe(chunk.frames), history.video.branches[0].session
            demand_finite_passes(chunk.finite, where, session)
            chunk.finite.clear()

    def _describe(self, frames: range) -> str:
        """Name a chunk in a message by its number and its frames in the video, from 0."""
        number = frames.start // self.chunk_frames
        return f"chunk {number} (frames {frames.start} to {frames.stop - 1})"
