"""Simulates how many frames each tier holds over time, with the real policy and random tensors.

For a frame policy nothing is estimated: the policy decides on every chunk in every layer, and pages
are allocated and freed as in the cache. The importance of frames is random, so for a policy whose
number of frames depends on the video the result is one example. A token policy is asked only for
the maximum that it keeps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, lru_cache
from statistics import fmean
from typing import Any, TypeVar

import torch
from torch import Tensor

from harness.api import (
    DROP,
    KEEP,
    POOL,
    CacheSpec,
    FramePolicy,
    History,
    Method,
    Placement,
    Split,
    TokenPolicy,
)
from harness.api.method import tiers_of
from harness.cache.session import sized
from harness.cache.stored_bytes import SINK
from harness.sampling.passes import chunks

FAR = 160  # chunks that are simulated; longer videos are extrapolated
WINDOWS = 64  # offsets in the shared noise at which synthetic frames begin

Result = TypeVar("Result")


@dataclass(frozen=True)
class Count:
    """Frames of one tier, mean over layers; a split frame counts with the share stored in the tier.

    seen: attended by the passes of a chunk.
    held: stored after the commit.
    room: allocated.
    stored: encoded in the commit.
    users: share of the layers that have ever stored in this tier.
    """

    seen: float = 0.0
    held: float = 0.0
    room: float = 0.0
    stored: float = 0.0
    users: float = 0.0

    def with_each(self, other: Count, of: Callable[[float, float], float]) -> Count:
        """Combine every number of both by the function `of`."""
        return Count(*(of(getattr(self, x.name), getattr(other, x.name)) for x in fields(Count)))


@dataclass(frozen=True)
class Moment:
    """The state at one chunk; or, from `most`, the maximum of each number over several chunks.

    frames: frames of the chunk.
    tiers: counts by tier.
    parts: tokens of a frame that are stored in each tier; fewer than all if frames are split.
    tokens: history length in the layer that attends to most.
    moved: frames decoded to be stored in another tier, mean over layers.
    """

    frames: range
    tiers: Mapping[str, Count]
    parts: Mapping[str, int]
    tokens: float = 0.0
    moved: float = 0.0

    @property
    def full(self) -> float:
        """Frames held in all tiers except the pooled one."""
        return sum(count.held for tier, count in self.tiers.items() if tier != POOL)

    @property
    def pooled(self) -> float:
        """Frames held as one pooled token each."""
        return self.tiers[POOL].held if POOL in self.tiers else 0.0

    def with_each(self, other: Moment, of: Callable[[float, float], float]) -> Moment:
        """Combine every number of both by the function `of`; keep the frames of `other`."""
        names = dict.fromkeys([*self.tiers, *other.tiers])
        none = Count()
        return Moment(
            other.frames,
            {x: self.tiers.get(x, none).with_each(other.tiers.get(x, none), of) for x in names},
            {**self.parts, **other.parts},
            of(self.tokens, other.tokens),
            of(self.moved, other.moved),
        )


NOTHING = Moment(range(0), {}, {})


def most(moments: Iterable[Moment]) -> Moment:
    """Return the maximum of each number over some chunks, which must be allocated."""
    largest = NOTHING
    for moment in moments:
        largest = largest.with_each(moment, max)
    return largest


def video(spec: CacheSpec, method: Method, num_frames: int, end: int | None = None) -> list[Moment]:
    """Simulate a video of `num_frames` latent frames; return its chunks, the last maybe partial.

    end: stop after this many frames; the cache is still sized for `num_frames`.
    """
    simulation = Simulation(spec, method, num_frames)
    return [
        simulation.fitted(simulation.chunk(frames))
        for frames in chunks(end or num_frames, spec.chunk_frames)
    ]


class Simulation:
    """Simulates the cache of one method over a video, chunk by chunk.

    reads_length: whether the policy has read the length of the video so far.
    """

    def __init__(self, spec: CacheSpec, method: Method, num_frames: int) -> None:
        """Start with an empty cache for `num_frames` latent frames."""
        self.policy = sized(method, spec, num_frames)
        self.reads_length = False
        self._spec, self._num_frames = spec, num_frames
        self._spans = {name: tier.span for name, tier in tiers_of(method).items()}
        # A sink that is updated (`sink_rate`) belongs to the model: the policy never decides on it.
        self._sink = set(range(spec.sink)) if spec.sink_rate else set()
        own = {SINK: 1} if spec.sink_rate else {}
        # Most policies treat all layers alike, so one layer stands for all of them until the policy
        # reads the layer's number. From then on each layer is simulated.
        self._layers = [_Layer({**self._spans, POOL: 1, **own})]
        self._notes: dict[int, Tensor] = {}
        self._noisy_notes: dict[int, Tensor] = {}
        self._num_tokens = 0

    def chunk(self, frames: range) -> Moment:
        """Simulate the next chunk. `room` is what the stored frames need; see `fitted`."""
        policy = self.policy
        if isinstance(policy, FramePolicy):
            return self._frame_chunk(policy, frames)
        # A token policy is taken to keep its maximum number of tokens. The window evicts by the
        # position at which tokens are attended. A policy that moves tokens to other times can keep
        # them, so the window does not limit it.
        per_frame = self._spec.tokens_per_frame
        seen, new = self._num_tokens, len(frames) * per_frame
        moves = type(policy).times is not TokenPolicy.times
        reach = frames.stop if moves else self._reach(frames.stop)
        bound = policy.max_tokens(reach * per_frame)
        self._num_tokens = held = min(seen + new, bound)
        counted = Count(seen / per_frame, held / per_frame, held / per_frame, len(frames), 1.0)
        return Moment(frames, {KEEP: counted}, {KEEP: per_frame}, float(seen))

    def fitted(self, moment: Moment, num_frames: int | None = None) -> Moment:
        """Replace `room` by the policy's maximum for a video of `num_frames`, where it has one."""
        policy, per_frame = self.policy, self._spec.tokens_per_frame
        if isinstance(policy, TokenPolicy):
            return moment
        # The cache allocates a tier of known size at once, with its first frame, and only in the
        # layers that use it.
        reach = self._reach(num_frames or self._num_frames) - len(self._sink)
        tiers = {}
        for name, counted in moment.tiers.items():
            bound = policy.max_frames(name, reach)
            if bound is not None:
                span = self._spans.get(name, 1)
                taken = counted.users * (bound // span * span) * moment.parts[name] / per_frame
                counted = replace(counted, room=max(counted.held, taken))
            tiers[name] = counted
        return replace(moment, tiers=tiers)

    def _frame_chunk(self, policy: FramePolicy, frames: range) -> Moment:
        """Simulate a chunk of a frame policy; return means over layers."""
        # The order of the cache: the window evicts, the passes read what is left, the policy
        # decides, frames are stored.
        spec, per_frame = self._spec, self._spec.tokens_per_frame
        if spec.window is not None:
            # The sink takes part of the window, so the other frames share the rest.
            first = frames.stop - spec.window + spec.sink
            for layer in self._layers:
                layer.evict(range(spec.sink, first))
        seen = [layer.counts(per_frame) for layer in self._layers]
        self._observe(policy, frames)
        decisions = self._decisions(policy, frames)
        if len(decisions) > len(seen):  # the policy has just read the layer's number
            seen *= len(decisions)
        moved = [
            layer.settle(placements, frames, per_frame)
            for layer, placements in zip(self._layers, decisions, strict=True)
        ]
        held = [layer.counts(per_frame) for layer in self._layers]
        tiers, parts = {}, {}
        for name in dict.fromkeys(name for each in held for name in each):
            in_layers = [layer.tiers[name] for layer in self._layers]
            # A layer that has not used the tier yet does not know its share.
            parts[name] = max(tier.tokens for tier in in_layers)
            share = parts[name] / per_frame
            tiers[name] = Count(
                seen=fmean(each.get(name, 0.0) for each in seen),
                held=fmean(each.get(name, 0.0) for each in held),
                room=fmean(tier.room * share for tier in in_layers),
                stored=fmean(layer.stored.get(name, 0) * share for layer in self._layers),
                users=fmean(tier.used for tier in in_layers),
            )
        # The layer that attends to most needs the largest scratch, so no mean here.
        tokens = [
            sum(number * (1 if name == POOL else per_frame) for name, number in each.items())
            for each in seen
        ]
        return Moment(frames, tiers, parts, max(tokens), fmean(moved))

    def _decisions(self, policy: FramePolicy, frames: range) -> list[Mapping[int, Placement]]:
        """Return the policy's placements for each simulated layer."""
        found: list[Mapping[int, Placement]] = []
        for number, layer in enumerate(self._layers):
            stored = sorted({*layer.placements, *frames} - self._sink)
            mass: dict[int, float] = {}
            # Shares of attention, for policies that ask for them: no attention is computed here.
            if policy.queries:
                scales = {frame: _scale(frame) for frame in stored}
                mass = {frame: scale / sum(scales.values()) for frame, scale in scales.items()}
            history = _WatchedHistory(
                frames=stored,
                num_frames=self._reach(frames.stop) - len(self._sink & set(range(frames.stop))),
                notes=self._notes,
                noisy_notes=self._noisy_notes,
                tiers=layer.placements,
                mass=mass,
                capacity=self._num_frames,
                layer=number,
                num_layers=self._spec.num_layers,
            )
            # As in the cache: there is nothing to decide while all frames belong to the sink.
            placements = policy.decide(history) if history.frames else {}
            self.reads_length |= "capacity" in history.read
            if len(self._layers) < self._spec.num_layers and "layer" in history.read:
                # Layers differ from now on. Ask again, with a layer of its own for each number.
                self._layers = [layer.copy() for _ in range(self._spec.num_layers)]
                return self._decisions(policy, frames)
            found.append({**placements, **dict.fromkeys(set(frames) & self._sink, SINK)})
        return found

    def _observe(self, policy: FramePolicy, frames: range) -> None:
        """Let the policy write notes on synthetic frames, which are the same in every layer."""
        if type(policy).observe is FramePolicy.observe:  # it writes no notes
            return
        for frame in frames:
            x = _synthetic(frame, self._spec)
            passes = [(x, self._notes)]
            if policy.observes_noisy:  # the keys of an earlier pass still contain noise
                passes.append((x + 0.1 * _synthetic(frame + 1, self._spec), self._noisy_notes))
            for (k, v), notes in passes:
                written = policy.observe(k[:, :, None], v[:, :, None])
                if written is not None:
                    notes[frame] = written[0]

    def _reach(self, num_frames: int) -> int:
        """Return how many of `num_frames` frames attention can reach."""
        window = self._spec.window
        return num_frames if window is None else min(num_frames, window)


class Growth:
    """Finds what must be allocated for a video of any length.

    Up to FAR chunks are simulated: once if the policy does not depend on the length, else for each
    length. Beyond that, growth over the second half of them is extrapolated linearly and rounded
    up. This is exact for policies that keep a share or a number of frames, up to their own
    rounding.
    """

    def __init__(self, spec: CacheSpec, method: Method) -> None:
        self._spec, self._method = spec, method
        self._far = FAR * spec.chunk_frames
        self._simulation = Simulation(spec, method, self._far)
        # One simulation serves all lengths if the policy is the same for two lengths, and as long
        # as it does not read the length itself.
        half = sized(method, spec, self._far // 2)
        self._one = bool(half == self._simulation.policy)
        self._most = [NOTHING]  # running maximum, by number of chunks
        self._of_length: dict[int, Moment] = {}

    def held(self, num_frames: int) -> Moment:
        """Return the maximum over a video of `num_frames` latent frames."""
        if num_frames <= self._far:
            return self._near(num_frames)
        # Start the line at half the way, when windows and shares have settled.
        half, far = self._near(self._far // 2), self._near(self._far)
        beyond = (num_frames - self._far) / (self._far - self._far // 2)
        return half.with_each(far, lambda a, b: b + math.ceil((b - a) * beyond))

    def _near(self, num_frames: int) -> Moment:
        step = self._spec.chunk_frames
        # A search asks for many lengths: one simulation goes on where it stopped, and the running
        # maximum answers all shorter ones. A policy may read the length only in a later chunk.
        while self._one and len(self._most) <= -(-num_frames // step):
            start = (len(self._most) - 1) * step
            moment = self._simulation.chunk(range(start, start + step))
            self._most.append(self._most[-1].with_each(moment, max))
            self._one = not self._simulation.reads_length
        if self._one:
            return self._simulation.fitted(self._most[-(-num_frames // step)], num_frames)
        if num_frames not in self._of_length:
            self._of_length[num_frames] = most(video(self._spec, self._method, num_frames))
        return self._of_length[num_frames]


class Simulated:
    """Simulations that methods share: only the policy and the pages' spans decide the counts."""

    def __init__(self) -> None:
        # A list of pairs: policies can be compared but not hashed, since a user's own may hold a
        # list.
        self._known: list[tuple[Any, Any]] = []

    def video(
        self, spec: CacheSpec, method: Method, num_frames: int, end: int | None = None
    ) -> list[Moment]:
        """Return the chunks of a video, as the function `video` does."""
        key = self._key(spec, method, num_frames), end
        return self._shared(key, lambda: video(spec, method, num_frames, end))

    def growth(self, spec: CacheSpec, method: Method) -> Growth:
        """Return the `Growth` of a method on videos of any length."""
        # `Growth` sizes the policy for two lengths, and a budget in bytes depends on the method.
        far = FAR * spec.chunk_frames
        key = self._key(spec, method, far), self._key(spec, method, far // 2), "growth"
        return self._shared(key, lambda: Growth(spec, method))

    def _key(self, spec: CacheSpec, method: Method, num_frames: int) -> Any:
        """Return everything that a simulation depends on."""
        spans = {name: tier.span for name, tier in tiers_of(method).items()}
        return spec, sized(method, spec, num_frames), spans, num_frames

    def _shared(self, key: Any, simulate: Callable[[], Result]) -> Result:
        for known, result in self._known:
            if known == key:
                return result  # type: ignore[no-any-return]
        result = simulate()
        self._known.append((key, result))
        return result


@dataclass(frozen=True)
class _WatchedHistory(History):
    """A history that records in `read` whether the policy reads `layer` or `capacity`."""

    # A policy does not declare what it depends on, so watch what it reads.
    read: set[str] = field(default_factory=set)

    def __getattribute__(self, name: str) -> Any:
        if name in ("layer", "capacity"):
            self.read.add(name)
        return super().__getattribute__(name)


@dataclass(eq=False)
class _Slab:
    """Pages that were allocated together, and how many of them are in use."""

    pages: int
    used: int = 0


@dataclass
class _Tier:
    """The pages of one tier in one layer.

    span: frames in a page.
    places: slab and page of each frame.
    tokens: tokens of a frame that are stored here; 0 before the first frame.
    used: whether the tier has ever stored a frame.
    """

    span: int
    slabs: list[_Slab] = field(default_factory=list)
    places: dict[int, tuple[_Slab, tuple[int, ...]]] = field(default_factory=dict)
    tokens: int = 0
    used: bool = False

    def store(self, frames: Sequence[int]) -> None:
        """Store frames in free pages; allocate a new slab if there are too few."""
        if len(frames) % self.span:
            raise ValueError(f"{len(frames)} frames are no multiple of a page of {self.span}")
        groups = [tuple(frames[at : at + self.span]) for at in range(0, len(frames), self.span)]
        # As in the cache, the new slab has room for all groups, even if free pages could take some.
        if sum(slab.pages - slab.used for slab in self.slabs) < len(groups):
            self.slabs.append(_Slab(len(groups)))
        for slab in self.slabs:
            free = slab.pages - slab.used  # at most so many groups go here, the others further on
            for group in groups[:free]:
                self.places |= dict.fromkeys(group, (slab, group))
                slab.used += 1
            groups = groups[free:]
        self.used = True

    def drop(self, frames: Iterable[int]) -> None:
        """Free the pages of some frames, with all frames in them, and slabs that become empty."""
        here = [self.places[frame] for frame in frames if frame in self.places]
        # By page, since several of the frames may lie on the same page.
        for page, slab in {page: slab for slab, page in here}.items():
            slab.used -= 1
            for frame in page:
                del self.places[frame]
        self.slabs = [slab for slab in self.slabs if slab.used]

    @property
    def room(self) -> int:
        """Number of frames that all allocated pages can hold."""
        return self.span * sum(slab.pages for slab in self.slabs)


class _Layer:
    """Simulates `cache.frame_layer.FrameLayer` without keys and values.

    stored: number of frames encoded in the last commit, by tier.
    """

    def __init__(self, spans: Mapping[str, int]) -> None:
        self.placements: dict[int, Placement] = {}
        self.tiers = {name: _Tier(span) for name, span in spans.items()}
        self.stored: dict[str, int] = {}

    def copy(self) -> _Layer:
        """Return another layer in the same state."""
        # Placements are not copied: a `Split` equals only itself, so a copy would look like a
        # frame that the policy moves.
        other = _Layer({})
        other.placements = dict(self.placements)
        # All at once, so that the places of frames point to the copied slabs.
        other.tiers = copy.deepcopy(self.tiers)
        return other

    def evict(self, frames: range) -> None:
        """Drop frames that the model's window no longer reaches."""
        self._release([frame for frame in self.placements if frame in frames])
        # Pooled frames have no placement (see `settle`), so ask their tier.
        self.tiers[POOL].drop([frame for frame in self.tiers[POOL].places if frame in frames])

    def settle(self, placements: Mapping[int, Placement], new: range, num_tokens: int) -> int:
        """Apply placements to old and new frames; return the number of moved frames."""
        # A frame that stays in its tier is not encoded again.
        changed = {
            f: placements[f]
            for f in self.placements
            if placements.get(f, self.placements[f]) != self.placements[f]
        }
        coming = {**changed, **{f: placements.get(f, KEEP) for f in new}}
        # Before anything is stored: new frames take the pages that moved ones leave.
        self._release(changed)
        self.stored = {}
        for name, tier in self.tiers.items():
            arrivals = {
                f: _part(placement, name, num_tokens) for f, placement in sorted(coming.items())
            }
            frames = [frame for frame, part in arrivals.items() if part]
            if frames:
                tier.tokens = arrivals[frames[0]]
                tier.store(frames)
                self.stored[name] = len(frames)
        # A pooled frame has lost its tokens, so it cannot move again and has no placement.
        self.placements |= {
            f: placement for f, placement in coming.items() if placement not in (DROP, POOL)
        }
        return sum(placement != DROP for placement in changed.values())

    def counts(self, num_tokens: int) -> dict[str, float]:
        """Return the frames held by tier; split frames count with their share."""
        return {
            name: len(tier.places) * (tier.tokens / num_tokens)
            for name, tier in self.tiers.items()
            if tier.used
        }

    def _release(self, frames: Iterable[int]) -> None:
        full = [tier for name, tier in self.tiers.items() if name != POOL]
        for tier in full:
            tier.drop(frames)
        # Ask the tiers: frames that shared a page with the released ones are gone too.
        held = {frame for tier in full for frame in tier.places}
        self.placements = {
            frame: placement for frame, placement in self.placements.items() if frame in held
        }


def _part(placement: Placement, tier: str, num_tokens: int) -> int:
    """Return how many tokens of a frame with this placement are stored in a tier.

    A pooled frame counts with all its tokens.
    """
    if not isinstance(placement, Split):
        return num_tokens if placement == tier else 0
    if tier == placement.first:
        return len(placement.tokens)
    return num_tokens - len(placement.tokens) if tier == placement.rest else 0


@cache
def _noise(num_tokens: int, width: int) -> Tensor:
    """Return keys and values of one head [2, 1, 1, T, D], of which frames are slices."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 1, num_tokens + WINDOWS, width, generator=generator)


@cache
def _scales() -> list[float]:
    generator = torch.Generator().manual_seed(0)
    # A prime number of them, so that they do not repeat in step with chunks or windows.
    drawn: list[float] = (0.5 + torch.rand(1009, generator=generator)).tolist()
    return drawn


def _scale(frame: int) -> float:
    """Return the factor that scales a synthetic frame, and with it the frame's importance."""
    return _scales()[frame % len(_scales())]


@lru_cache(maxsize=2)  # the noise of a frame is the next frame, which is asked for again at once
def _synthetic(frame: int, spec: CacheSpec) -> Tensor:
    """Return synthetic keys and values of one head of a frame [2, 1, 1, T, D] fp32."""
    # Scaled slices of one tensor, so that noise is drawn once per geometry and not per frame.
    # 37 and WINDOWS share no factor, so that many frames in a row begin at different offsets.
    first = 37 * frame % WINDOWS
    noise = _noise(spec.tokens_per_frame, spec.head_dim)
    return noise[..., first : first + spec.tokens_per_frame, :] * _scale(frame)
