"""How many frames each tier holds over time: the policy itself, on made-up keys and values.

Nothing is estimated for a frame policy: it decides over every chunk of every layer, and pages are
taken and freed as the cache does it. Which frames matter is drawn at random, so a policy whose
number of frames depends on the video is one example of itself. A token policy is asked only for
the most that it keeps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

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

FAR = 160  # chunks
WINDOWS = 64  # places at which a made-up frame begins in the noise


@dataclass(frozen=True)
class Count:
    """Frames of one tier, mean over layers; a split frame counts the share of it that lies there.

    seen: by the passes of a chunk. held: when the chunk is stored. room: what is taken for them.
    stored: encoded in the commit. users: share of the layers that have ever stored here.
    """

    seen: float = 0.0
    held: float = 0.0
    room: float = 0.0
    stored: float = 0.0
    users: float = 0.0

    def with_each(self, other: Count, of: Callable[[float, float], float]) -> Count:
        """Every number as `of` makes it from both."""
        return Count(*(of(getattr(self, x.name), getattr(other, x.name)) for x in fields(Count)))


@dataclass(frozen=True)
class Moment:
    """One chunk; or, from `most`, the largest numbers of several, each by itself.

    frames: of the chunk. parts: tokens of a frame that lie in a tier, fewer where it is split.
    tokens: of history, as the layer sees them that sees the most. moved: frames read to be stored
    elsewhere, mean over layers.
    """

    frames: range
    tiers: Mapping[str, Count]
    parts: Mapping[str, int]
    tokens: float = 0.0
    moved: float = 0.0

    def held(self, tier: str) -> float:
        """Frames of one tier."""
        return self.tiers.get(tier, Count()).held

    @property
    def full(self) -> float:
        """Frames that are held, but not pooled."""
        return sum(count.held for tier, count in self.tiers.items() if tier != POOL)

    @property
    def pooled(self) -> float:
        """Frames that are held as one token."""
        return self.held(POOL)

    def with_each(self, other: Moment, of: Callable[[float, float], float]) -> Moment:
        """The later chunk; every number as `of` makes it from both."""
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
    """What must be allocated for these chunks."""
    largest = NOTHING
    for moment in moments:
        largest = largest.with_each(moment, max)
    return largest


def video(spec: CacheSpec, method: Method, num_frames: int, end: int | None = None) -> list[Moment]:
    """The chunks of a video of so many latent frames, the last one maybe partial.

    end: frames after which it ends all the same, in a cache that was made for num_frames.
    """
    course = Course(spec, method, num_frames)
    return [
        course.fitted(course.chunk(frames))
        for frames in chunks(end or num_frames, spec.chunk_frames)
    ]


class Course:
    """A video as one method holds it, chunk by chunk.

    All layers are alike until the policy asks in which layer it is; from then on each of them is
    simulated. `lengths`: whether it has asked how long the video will be.
    """

    def __init__(self, spec: CacheSpec, method: Method, num_frames: int) -> None:
        """Nothing is stored yet."""
        self.policy = sized(method, spec, num_frames)
        self.lengths = False
        self._spec, self._num_frames = spec, num_frames
        self._spans = {name: tier.span for name, tier in tiers_of(method).items()}
        own = {SINK: 1} if spec.sink_rate else {}
        self._layers = [_Layer({**self._spans, POOL: 1, **own})]
        self._notes: dict[int, Tensor] = {}
        self._noisy_notes: dict[int, Tensor] = {}
        self._num_tokens = 0

    def chunk(self, frames: range) -> Moment:
        """The next chunk; room is what is taken as frames come (see `fitted`)."""
        if isinstance(self.policy, TokenPolicy):
            return self._tokens(self.policy, frames)
        return self._frames(self.policy, frames)

    def fitted(self, moment: Moment, num_frames: int | None = None) -> Moment:
        """With the room that the policy bounds for a video of so many frames: taken at once."""
        policy, per_frame = self.policy, self._spec.tokens_per_frame
        if isinstance(policy, TokenPolicy):
            return moment
        reach = self._reach(num_frames or self._num_frames) - len(self._own)
        tiers = {}
        for name, counted in moment.tiers.items():
            bound = policy.max_frames(name, reach)
            if bound is not None:
                span = self._spans.get(name, 1)
                taken = counted.users * (bound // span * span) * moment.parts[name] / per_frame
                counted = replace(counted, room=max(counted.held, taken))
            tiers[name] = counted
        return replace(moment, tiers=tiers)

    def _tokens(self, policy: TokenPolicy, frames: range) -> Moment:
        """Everything, or the most that the policy keeps.

        The model's window reaches tokens where they are attended: it bounds what stays of those
        that are not moved.
        """
        per_frame = self._spec.tokens_per_frame
        seen, new = self._num_tokens, len(frames) * per_frame
        moves = type(policy).times is not TokenPolicy.times
        reach = frames.stop if moves else self._reach(frames.stop)
        bound = policy.max_tokens(reach * per_frame)
        self._num_tokens = held = min(seen + new, bound)
        counted = Count(seen / per_frame, held / per_frame, held / per_frame, len(frames), 1.0)
        return Moment(frames, {KEEP: counted}, {KEEP: per_frame}, float(seen))

    def _frames(self, policy: FramePolicy, frames: range) -> Moment:
        """As the cache does it: the window evicts, the policy decides, frames are stored."""
        spec = self._spec
        if spec.window is not None:
            first = frames.stop - spec.window + spec.sink
            for layer in self._layers:
                layer.evict(range(spec.sink, first))
        seen = [layer.counts(spec.tokens_per_frame) for layer in self._layers]
        self._observe(policy, frames)
        decisions = self._decisions(policy, frames)
        if len(decisions) > len(seen):  # the policy has just asked for the layer
            seen *= len(decisions)
        moved = [
            layer.settle(placements, frames, spec.tokens_per_frame)
            for layer, placements in zip(self._layers, decisions, strict=True)
        ]
        return _moment(frames, spec.tokens_per_frame, seen, self._layers, moved)

    def _decisions(self, policy: FramePolicy, frames: range) -> list[Mapping[int, Placement]]:
        """What becomes of frames in each layer, or in all of them where they are alike."""
        found: list[Mapping[int, Placement]] = []
        for number, layer in enumerate(self._layers):
            asked = self._history(policy, frames, layer, number)
            placements = policy.decide(asked) if asked.frames else {}
            found.append({**placements, **dict.fromkeys(set(frames) & self._own, SINK)})
            self.lengths |= "capacity" in asked.asked
            if len(self._layers) < self._spec.num_layers and "layer" in asked.asked:
                layers = range(self._spec.num_layers)
                self._layers = [layer.copy() for _ in layers]
                return self._decisions(policy, frames)
        return found

    def _history(self, policy: FramePolicy, frames: range, layer: _Layer, number: int) -> _Asked:
        stored = sorted({*layer.placements, *frames} - self._own)
        mass: dict[int, float] = {}
        if policy.queries:
            draws = {frame: _loudness(frame) for frame in stored}
            mass = {frame: draw / sum(draws.values()) for frame, draw in draws.items()}
        return _Asked(
            frames=stored,
            num_frames=self._reach(frames.stop) - len(self._own & set(range(frames.stop))),
            notes=self._notes,
            noisy_notes=self._noisy_notes,
            tiers=layer.placements,
            mass=mass,
            capacity=self._num_frames,
            layer=number,
            num_layers=self._spec.num_layers,
        )

    @property
    def _own(self) -> set[int]:
        """Frames of a sink that changes, which are not the policy's."""
        return set(range(self._spec.sink)) if self._spec.sink_rate else set()

    def _observe(self, policy: FramePolicy, frames: range) -> None:
        """Notes on made-up frames, the same in every layer."""
        if type(policy).observe is FramePolicy.observe:
            return
        for frame in frames:
            x = _made_up(frame, self._spec)
            passes = [(x, self._notes)]
            if policy.observes_noisy:  # noisier a pass before
                passes.append((x + 0.1 * _made_up(frame + 1, self._spec), self._noisy_notes))
            for (k, v), notes in passes:
                note = policy.observe(k, v)
                if note is not None:
                    notes[frame] = note

    def _reach(self, num_frames: int) -> int:
        """Frames that attention reaches, of so many."""
        window = self._spec.window
        return num_frames if window is None else min(num_frames, window)


class Growth:
    """What must be allocated for a video of any length.

    FAR chunks are simulated: once where the policy is the same for every length, else for each
    length that is asked for. A longer video is taken to grow on as it did over the second half of
    them, rounded up: exact for policies that keep a share or a number of frames, up to their own
    rounding.
    """

    def __init__(self, spec: CacheSpec, method: Method) -> None:
        """Nothing is simulated yet."""
        self._spec, self._method = spec, method
        self._far = FAR * spec.chunk_frames
        self._course = Course(spec, method, self._far)
        half = sized(method, spec, self._far // 2)
        self._one = bool(half == self._course.policy)  # one policy for all lengths
        self._most = [NOTHING]  # by number of chunks
        self._of_length: dict[int, Moment] = {}

    def held(self, num_frames: int) -> Moment:
        """For so many latent frames."""
        if num_frames <= self._far:
            return self._near(num_frames)
        half, far = self._near(self._far // 2), self._near(self._far)
        beyond = (num_frames - self._far) / (self._far - self._far // 2)
        return half.with_each(far, lambda a, b: b + math.ceil((b - a) * beyond))

    def _near(self, num_frames: int) -> Moment:
        step = self._spec.chunk_frames
        while self._one and len(self._most) <= -(-num_frames // step):
            start = (len(self._most) - 1) * step
            moment = self._course.chunk(range(start, start + step))
            self._most.append(self._most[-1].with_each(moment, max))
            self._one = not self._course.lengths
        if self._one:
            return self._course.fitted(self._most[-(-num_frames // step)], num_frames)
        if num_frames not in self._of_length:
            self._of_length[num_frames] = most(video(self._spec, self._method, num_frames))
        return self._of_length[num_frames]


@dataclass(frozen=True)
class _Asked(History):
    """Remembers what of it was read."""

    asked: set[str] = field(default_factory=set)

    def __getattribute__(self, name: str) -> Any:
        if name in ("layer", "capacity"):
            self.asked.add(name)
        return super().__getattribute__(name)


@dataclass(eq=False)
class _Slab:
    """Pages that were taken together, and how many of them hold frames."""

    pages: int
    used: int = 0


@dataclass
class _Tier:
    """One arena of one layer: which frames share a page, and which pages a slab.

    tokens: of a frame, as it lies here.
    """

    span: int
    slabs: list[_Slab] = field(default_factory=list)
    places: dict[int, tuple[_Slab, tuple[int, ...]]] = field(default_factory=dict)
    tokens: int = 0
    used: bool = False

    def store(self, frames: Sequence[int]) -> None:
        """Into free pages, else into a slab of their own."""
        if len(frames) % self.span:
            raise ValueError(f"{len(frames)} frames are no multiple of a page of {self.span}")
        groups = [tuple(frames[at : at + self.span]) for at in range(0, len(frames), self.span)]
        if sum(slab.pages - slab.used for slab in self.slabs) < len(groups):
            self.slabs.append(_Slab(len(groups)))
        for slab in self.slabs:
            free = slab.pages - slab.used
            for group in groups[:free]:
                self.places |= dict.fromkeys(group, (slab, group))
                slab.used += 1
            groups = groups[free:]
        self.used = True

    def drop(self, frames: Iterable[int]) -> None:
        """Free their pages, with all that lies in them; an empty slab goes."""
        here = [self.places[frame] for frame in frames if frame in self.places]
        for page, slab in {page: slab for slab, page in here}.items():
            slab.used -= 1
            for frame in page:
                del self.places[frame]
        self.slabs = [slab for slab in self.slabs if slab.used]

    @property
    def room(self) -> int:
        """Frames that the pages could hold."""
        return self.span * sum(slab.pages for slab in self.slabs)


class _Layer:
    """Where the frames of one layer lie; as `cache.frame_layer.FrameLayer`, without values."""

    def __init__(self, spans: Mapping[str, int]) -> None:
        self.placements: dict[int, Placement] = {}
        self.tiers = {name: _Tier(span) for name, span in spans.items()}
        self.stored: dict[str, int] = {}

    def copy(self) -> _Layer:
        """Another layer in the same state; what a policy gave as a placement stays that object."""
        other = _Layer({})
        other.placements = dict(self.placements)
        other.tiers = copy.deepcopy(self.tiers)
        return other

    def evict(self, frames: range) -> None:
        """The model's window no longer reaches them."""
        self._release([frame for frame in self.placements if frame in frames])
        self.tiers[POOL].drop([frame for frame in self.tiers[POOL].places if frame in frames])

    def settle(self, placements: Mapping[int, Placement], new: range, num_tokens: int) -> int:
        """Let frames go and store what comes; how many were moved."""
        changed = {
            f: placements[f]
            for f in self.placements
            if placements.get(f, self.placements[f]) != self.placements[f]
        }
        coming = {**changed, **{f: placements.get(f, KEEP) for f in new}}
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
        self.placements |= {
            f: placement for f, placement in coming.items() if placement not in (DROP, POOL)
        }
        return sum(placement != DROP for placement in changed.values())

    def counts(self, num_tokens: int) -> dict[str, float]:
        """Frames by tier; of split ones their share."""
        return {name: len(tier.places) * _share(tier, num_tokens) for name, tier in self._used()}

    def _used(self) -> list[tuple[str, _Tier]]:
        return [(name, tier) for name, tier in self.tiers.items() if tier.used]

    def _release(self, frames: Iterable[int]) -> None:
        full = [tier for name, tier in self.tiers.items() if name != POOL]
        for tier in full:
            tier.drop(frames)
        held = {frame for tier in full for frame in tier.places}
        self.placements = {
            frame: placement for frame, placement in self.placements.items() if frame in held
        }


def _part(placement: Placement, tier: str, num_tokens: int) -> int:
    """Tokens of a frame so placed that lie in a tier; a pooled one counts all of its own."""
    if not isinstance(placement, Split):
        return num_tokens if placement == tier else 0
    if tier == placement.first:
        return len(placement.tokens)
    return num_tokens - len(placement.tokens) if tier == placement.rest else 0


def _share(tier: _Tier, num_tokens: int) -> float:
    return tier.tokens / num_tokens


def _moment(
    frames: range,
    num_tokens: int,
    seen: Sequence[Mapping[str, float]],
    layers: Sequence[_Layer],
    moved: Sequence[int],
) -> Moment:
    """The mean over layers, and the most that one of them sees."""
    held = [layer.counts(num_tokens) for layer in layers]
    tiers, parts = {}, {}
    for name in dict.fromkeys(name for each in held for name in each):
        own = [layer.tiers[name] for layer in layers]
        share = max(_share(tier, num_tokens) for tier in own)
        parts[name] = max(tier.tokens for tier in own)
        tiers[name] = Count(
            seen=_mean(each.get(name, 0.0) for each in seen),
            held=_mean(each.get(name, 0.0) for each in held),
            room=_mean(tier.room * share for tier in own),
            stored=_mean(layer.stored.get(name, 0) * share for layer in layers),
            users=_mean(tier.used for tier in own),
        )
    tokens = [sum(n * (1 if x == POOL else num_tokens) for x, n in of.items()) for of in seen]
    return Moment(frames, tiers, parts, max(tokens), _mean(moved))


def _mean(numbers: Iterable[float]) -> float:
    found = list(numbers)
    return sum(found) / len(found)


@cache
def _noise(num_tokens: int, width: int) -> Tensor:
    """Keys and values of one head [2, 1, 1, tokens, D]; frames are windows of it."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 1, num_tokens + WINDOWS, width, generator=generator)


@cache
def _loudnesses() -> list[float]:
    generator = torch.Generator().manual_seed(0)
    drawn: list[float] = (0.5 + torch.rand(1009, generator=generator)).tolist()
    return drawn


def _loudness(frame: int) -> float:
    """How much of everything a made-up frame has."""
    drawn = _loudnesses()
    return drawn[frame % len(drawn)]


def _made_up(frame: int, spec: CacheSpec) -> Tensor:
    """Keys and values of a frame, one head of it [2, 1, 1, T, D] fp32."""
    first = 37 * frame % WINDOWS
    noise = _noise(spec.tokens_per_frame, spec.head_dim)
    return noise[..., first : first + spec.tokens_per_frame, :] * _loudness(frame)
