"""Decides for each pass of a video whether to skip it, and replaces the passes that are skipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from harness.api import PassInputs, Reuse
from harness.sampling.network import Network, TimeEmbedding

WINDOW = -1  # stands for a chunk's first frame in the key of the state of a whole window


# Of the kind `PassInputs`, which policies see: they never get the network itself.
class Inputs:
    """Inputs of a pass: latents, times, and their embeddings before the network's first block.

    Each part is computed on first use and then kept, because a policy may read it before the pass
    runs, or instead of the pass.
    """

    def __init__(
        self, network: Network, x_BFChw: Tensor, t_BF: Tensor, pace: float | None = None
    ) -> None:
        """Store latents [B, F, C, h, w], times [B, F] and step size, as the network takes them."""
        self._network = network
        self.x_BFChw = x_BFChw
        self.t_BF = t_BF
        self.pace = pace

    @cached_property
    def time(self) -> TimeEmbedding:
        """Embedding of the times."""
        return self._network.embed_time(self.t_BF.to(self.x_BFChw.device), self.pace)

    @cached_property
    def tokens(self) -> Tensor:
        """Tokens before the first block [B, F * T, dim]."""
        return self._network.embed(self.x_BFChw)

    def finish(self, tokens_out: Tensor) -> Tensor:
        """Return the flow [B, F, C, h, w] of tokens after the last block."""
        return self._network.finish(tokens_out, self.time, self.x_BFChw)

    @property
    def time_embedding(self) -> Tensor:
        """Embedding of each frame's time [B, F, dim]."""
        return self.time.embedded

    @property
    def time_modulation(self) -> Tensor:
        """Modulation of the blocks by the time [B, F, 6, dim]."""
        return self.time.modulation

    @property
    def modulated_tokens(self) -> Tensor:
        """Input of the first block's attention [B, F * T, dim]."""
        return self._network.modulated(self.tokens, self.time)


@dataclass(frozen=True)
class Place:
    """Branch, chunk and step of a denoising pass.

    branch: number of the guidance branch.
    chunk: first frame of its chunk; WINDOW for a pass over a whole window.
    step, num_steps: step of the oldest chunk that advances, and its number of steps.
    row, num_rows, row_frames: as in `harness.sampling.passes.Pass`.
    stores_history: whether the pass stores its chunk in the history; such a pass always runs,
        unless the policy allows a stale commit.
    """

    branch: int
    chunk: int
    step: int
    num_steps: int
    row: int | None = None
    num_rows: int = 0
    stores_history: bool = False
    row_frames: range | None = None


@dataclass
class Watched:
    """State of one chunk, or of one window, in one branch.

    feature: feature of the pass that the next pass is compared with.
    frames: frames of that feature, if the chunks of a window change from pass to pass.
    drifts: drift of every pass since the newest one that ran.
    """

    feature: Tensor | None = None
    frames: range | None = None
    drifts: list[float] = field(default_factory=list)


@dataclass
class Decision:
    """Whether a pass is skipped, and the numbers that decided it; None without a comparison."""

    skips: bool = False
    drift: float | None = None
    accumulated: float | None = None


class ReuseState:
    """State of a reuse policy over one video.

    The policy decides for each chunk or for the whole window, as its `scope` says. The tensor that
    replaces a skipped pass belongs to one chunk (or to the chunks of a joint pass) and one branch.

    displacements: how far the newest step that ran moved a chunk's latents [B, F, C, h, w], by the
        chunk's first frame. Branches share the latents.
    """

    def __init__(self, policy: Reuse) -> None:
        self.policy = policy
        self._watched: dict[tuple[int, int], Watched] = {}  # by branch and chunk, or by branch
        self._payloads: dict[tuple[int, int], Tensor] = {}  # by branch and chunk
        self.displacements: dict[int, Tensor] = {}
        self._rows: dict[int, tuple[int, bool]] = {}  # by branch: newest row, whether it is skipped
        self._count = 0  # decisions so far, for counter=shared
        self._chunk_skips = False  # decision of the newest pass's first branch

    def restart(self) -> None:
        """Clear all state at the start of a new history."""
        # Chunks are numbered from the start of a history, so an old state would be taken for that
        # of a new chunk.
        self._payloads.clear()
        self.displacements.clear()
        self._rows.clear()
        # counter=shared reproduces the released TeaCache, which keeps its state between windows.
        if self.policy.counter != "shared":
            self._watched.clear()

    def free(self, chunk: int) -> None:
        """Free the state of a finished chunk."""
        # The state of a window (WINDOW) stays: its other chunks go on.
        self.displacements.pop(chunk, None)
        for kept in (self._watched, self._payloads):
            for key in [key for key in kept if key[1] == chunk]:
                del kept[key]

    def decide(self, place: Place, inputs: Callable[[], PassInputs]) -> Decision:
        """Decide whether a pass is skipped.

        inputs: returns the inputs of the pass, or of the whole window if the policy's `scope` is
            the window. It is called only if the policy compares features in this pass.
        """
        policy = self.policy
        if policy.payload == "displacement" and place.branch > 0:
            # The displacement is that of the guided flow: all branches skip together.
            return Decision(self._chunk_skips)
        newest_row, row_skips = self._rows.get(place.branch, (-1, False))
        if policy.scope == "chunk" or place.row is None:
            is_end = place.row is not None and place.row == place.num_rows - 1
            guarded = policy.protect_end and is_end
            key = place.branch, place.chunk
            decision = self._test(key, place.step, place.num_steps, inputs, guarded=guarded)
        elif newest_row == place.row:
            # The first chunk of a row decides for all of its chunks.
            decision = Decision(row_skips)
        else:
            state, step = place.branch, place.row
            # The released TeaCache counts the calls of all branches with one counter, and takes
            # even and odd calls as the two branches, whatever branches there are.
            if policy.counter == "shared":
                state, step = self._count % 2, self._count
                self._count = (self._count + 1) % place.num_rows
            key = state, WINDOW
            decision = self._test(key, step, place.num_rows, inputs, place.row_frames)
            self._rows[place.branch] = place.row, decision.skips
        # In a chunk's first pass there is nothing to reuse yet.
        if policy.payload == "displacement":
            can_skip = place.chunk in self.displacements
        else:
            can_skip = (place.branch, place.chunk) in self._payloads
        decision.skips &= can_skip and (policy.allow_stale_commit or not place.stores_history)
        self._chunk_skips = decision.skips
        return decision

    def _test(
        self,
        key: tuple[int, int],
        step: int,
        num_steps: int,
        inputs: Callable[[], PassInputs],
        frames: range | None = None,
        guarded: bool = False,
    ) -> Decision:
        """Compare the pass with an earlier one, unless it is guarded, and update the state.

        key: chunk or window to which the state belongs, as in `_watched`.
        frames: frames of the inputs, if they change from pass to pass. Only frames that both passes
            have are compared.
        guarded: whether the pass must run.
        """
        policy, decision = self.policy, Decision()
        is_first = key not in self._watched
        watched = self._watched.setdefault(key, Watched())
        shared = None
        if frames is not None and watched.frames is not None:
            held = watched.frames
            shared = range(max(frames.start, held.start), min(frames.stop, held.stop))
            is_first |= not shared  # all chunks are new, so there is nothing to compare
        # Compute the feature also where the pass must run: the next pass is compared with it.
        now = None if policy.feature is None else policy.feature(inputs())
        if not is_first and not guarded and not policy.guards(step, num_steps):
            if now is not None and watched.feature is not None:
                before = _cut(watched.feature, watched.frames, shared)
                decision.drift = policy.drift(_cut(now, frames, shared), before)
                watched.drifts.append(decision.drift)
                decision.accumulated = policy.accumulated(watched.drifts)
            decision.skips = policy.skips(step, num_steps, watched.drifts)
        if not decision.skips:
            watched.drifts.clear()
        # reference=previous compares with the newest pass, also if that one was skipped; otherwise
        # the policy compares with the newest pass that ran.
        if policy.reference == "previous" or not decision.skips:
            watched.feature, watched.frames = now, frames
        return decision

    def evaluated(
        self, place: Place, inputs: Inputs, tokens_out: Tensor, flow_BFChw: Tensor
    ) -> None:
        """Keep the result of a pass that ran; it replaces later passes that are skipped.

        tokens_out: tokens after the last block [B, F * T, dim].
        """
        # By branch: with and without the prompt a network gives different flows.
        if self.policy.payload == "residual":
            self._payloads[place.branch, place.chunk] = tokens_out - inputs.tokens
        elif self.policy.payload == "velocity":
            self._payloads[place.branch, place.chunk] = flow_BFChw

    def flow(self, place: Place, inputs: Inputs) -> Tensor | None:
        """Return the flow of a skipped pass [B, F, C, h, w]; None if a displacement replaces it."""
        if self.policy.payload == "displacement":
            return None
        kept = self._payloads[place.branch, place.chunk]
        # A residual stands for the blocks: embedding and head still run, at the pass's own time.
        return inputs.finish(inputs.tokens + kept) if self.policy.payload == "residual" else kept


def _cut(feature: Tensor, frames: range | None, shared: range | None) -> Tensor:
    """Cut a feature of `frames` to the frames in `shared`, along dimension 1."""
    if frames is None or shared is None or frames == shared:
        return feature
    # Dimension 1 holds frames, or the tokens of all frames, so a frame may have several entries.
    size = feature.shape[1] // len(frames)
    start = (shared.start - frames.start) * size
    return feature[:, start : start + len(shared) * size]
