"""The history of one layer under a frame policy: one arena per tier, frames move between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harness.api import DROP, KEEP, POOL, Exact, FramePolicy, History, Placement, Split
from harness.api.method import tiers_of
from harness.cache.attention.base import Segment
from harness.cache.frame_attention import frame_mass
from harness.cache.layer import HIDDEN, Chunk, Context, Plan, demand_known
from harness.cache.pages import Arena, Pages
from harness.cache.stored_bytes import SINK

Frames = tuple[list[int], Tensor, Tensor]  # indices, keys and values [B, H, F, T, D]


@dataclass
class FrameLayer:
    """Stores frames in the tiers that a `FramePolicy` chooses.

    A sink that changes (`CacheSpec.sink_rate`) belongs to the model: it is stored exactly, and the
    policy does not see it.

    arenas: pages of each tier, by name; also POOL, and SINK for a sink that changes.
    placements: tier of each stored frame, without pooled frames.
    notes, noisy_notes: the policy's notes, by frame. note_bytes: bytes of both.
    first: first frame of the window; the sink stays stored before it.
    """

    context: Context
    policy: FramePolicy
    layer: int
    arenas: dict[str, Arena] = field(init=False)
    placements: dict[int, Placement] = field(default_factory=dict)
    notes: dict[int, Tensor] = field(default_factory=dict)
    noisy_notes: dict[int, Tensor] = field(default_factory=dict)
    note_bytes: int = 0
    first: int = 0

    def __post_init__(self) -> None:
        """Create empty arenas; each allocates memory when its first frames arrive."""
        context = self.context
        self.first = context.spec.sink
        self.arenas = {
            name: Arena(
                tier.key,
                tier.value,
                self.policy.max_frames(name, context.reach),
                context.write,
                context.backend.stage,
                tier.span,
            )
            for name, tier in tiers_of(context.method).items()
        }
        # Exact tensors need no codes, so these two arenas do without the backend's `write`.
        if context.spec.sink_rate:
            self.arenas[SINK] = Arena(Exact(), Exact(), context.spec.sink)
        self.arenas[POOL] = Arena(Exact(), Exact(), self.policy.max_frames(POOL, context.reach))

    def prepare(self, query_BHTD: Tensor, plan: Plan) -> None:
        """Do nothing: frame policies decide when a chunk is finished."""

    def make_room(self) -> None:
        """Do nothing: frame policies decide when a chunk is finished."""

    def segments(self, plan: Plan) -> list[Segment]:
        """Return the frames of each arena, with the rotations to the positions of the plan."""
        return [segment for name in self.arenas for _, segment in self._placed(name, plan)]

    def _placed(self, name: str, plan: Plan) -> list[tuple[tuple[int, ...], Segment]]:
        """Return the frames of one arena that a pass sees, and the segments that hold them."""
        arena, pooled, found = self.arenas[name], name == POOL, []
        # A pooled token stands for a whole frame: its logit grows by the log of the frame's tokens.
        log_count = math.log(self.context.spec.tokens_per_frame) if pooled else 0.0
        for frames, pages in arena.pages:
            frames, pages, hiding = _visible(frames, pages, arena.span, plan)
            if not frames:
                continue
            turns = self.context.turns_of(frames, plan, self.context.roped or pooled)
            quantizers = arena.key_quantizer, arena.value_quantizer
            segment = Segment(pages, *quantizers, turns, log_count, hiding, arena.span)
            found.append((frames, segment))
        return found

    def observe_noisy(self, chunk: Chunk, plan: Plan) -> None:
        """Let the policy note the noisy chunk, if it compares passes."""
        # Most policies do not compare passes, and a note costs a walk over keys and values.
        if self.policy.observes_noisy and plan.observed:
            self._observe(self.noisy_notes, chunk, plan)

    def commit(self, chunk: Chunk, plan: Plan) -> None:
        """Ask the policy, evict frames, move frames between tiers, and store the new ones.

        Raises  ValueError: a placement that is not allowed (`demand_known`), or a new tier for a
                frame that is already split.
        """
        # First, because the policy also decides by the new chunk's notes.
        self._observe(self.notes, chunk, plan)
        history = self._history(chunk, plan)
        # There are no frames to decide over while all belong to a changing sink.
        placements = dict(self.policy.decide(history)) if history.frames else {}
        demand_known(placements, {*self.placements, *plan.frames}, tiers_of(self.context.method))
        # A frame that stays in its tier is not touched: encoding it again would lose precision.
        changed = {
            f: placements[f]
            for f in self.placements
            if placements.get(f, self.placements[f]) != self.placements[f]
        }
        placements |= {f: SINK for f in plan.frames if self._is_in_sink(f)}
        # A split frame can only be dropped: the layer does not remember which of its tokens lie in
        # which tier.
        split = [f for f in changed if isinstance(self.placements[f], Split) and changed[f] != DROP]
        if split:
            raise ValueError(f"the retention policy moved frame {split[0]}, which is split")
        # Decode the frames that move before freeing any page: the next store reuses the pages.
        dtype = chunk.key.dtype
        moved = self._read([f for f, placement in changed.items() if placement != DROP], dtype)
        self._free_pages(changed)
        # Frames that the policy does not name: old ones stay, new ones go to KEEP.
        arriving = {**changed, **{f: placements.get(f, KEEP) for f in plan.frames}}
        k = self.context.roped_keys(chunk, plan) if self.context.roped else chunk.key
        k, v = (x.unflatten(2, (len(plan.frames), -1)) for x in (k, chunk.value))
        self._store(arriving, [*moved, (list(plan.frames), k, v)])

    def evict(self, first: int) -> None:
        """Evict frames after the model's sink and before `first`; mix them into a changing sink."""
        # Mix before the pages are freed.
        if self.context.spec.sink_rate:
            self._mix_into_sink(range(self.first, first))
        self.first = max(self.first, first)
        self._free(range(self.context.spec.sink, first))

    def renew(self, frames: range) -> None:
        """Free the newest frames, which are stored again."""
        self._free(frames)

    def _free(self, frames: range) -> None:
        """Free frames, whole or pooled."""
        self._free_pages([f for f in self.placements if f in frames])
        self.arenas[POOL].drop([f for f in self.arenas[POOL].places if f in frames])

    @property
    def ledger(self) -> dict[str, int]:
        """Bytes by component, summed over tiers; pooled frames and notes are listed separately."""
        # By part (codes, scale, ...), so that tiers of one quantizer add up in the trace. A plain
        # dict, as in the session: every phase of a video asks every layer.
        held: dict[str, int] = {"notes": self.note_bytes}
        for name, arena in self.arenas.items():
            if name == POOL:
                held["pooled"] = arena.ledger.total()
            else:
                for part, size in arena.ledger.items():
                    held[part] = held.get(part, 0) + size
        return held

    @property
    def nominal_bytes(self) -> int:
        """Bytes of all arenas without metadata, at the nominal bits per value."""
        return sum(arena.nominal_bytes for arena in self.arenas.values())

    @property
    def num_frames_held(self) -> float:
        """Number of stored frames, full or pooled."""
        return len(self.placements) + len(self.arenas[POOL].places)

    def stored(self) -> Frames:
        """Return the frames that are neither split nor pooled, decoded to fp32, oldest first."""
        whole = sorted(
            f for f, placement in self.placements.items() if not isinstance(placement, Split)
        )
        return _in_order(self._read(whole, torch.float32))

    def _observe(self, kept: dict[int, Tensor], chunk: Chunk, plan: Plan) -> None:
        """Add the policy's notes on a chunk to those of earlier frames."""
        k, v = (x.unflatten(2, (len(plan.frames), -1)) for x in (chunk.key, chunk.value))
        notes = self.policy.observe(k, v)
        if notes is None:
            return
        # Count here: the ledger is read often, and a long video has many notes.
        for frame, note in zip(plan.frames, notes, strict=True):
            self.note_bytes += note.nbytes - (kept[frame].nbytes if frame in kept else 0)
            kept[frame] = note

    def _history(self, chunk: Chunk, plan: Plan) -> History:
        """Return what the policy decides over: stored frames and the finished chunk."""
        spec = self.context.spec
        end = plan.frames.stop
        frames = sorted({*self.placements, *plan.frames})
        num_sink = sum(self._is_in_sink(f) for f in frames)
        mass: Mapping[int, float] = {}
        if self.policy.queries:
            # Without pooled frames, over which no policy decides.
            full = [x for name in self.arenas if name != POOL for x in self._placed(name, plan)]
            stage = self.context.backend.stage
            mass = frame_mass(full, chunk, plan, self.policy.queries, stage)
        return History(
            # The frames of a changing sink are the oldest; the policy does not decide over them.
            frames=frames[num_sink:],
            num_frames=(end if spec.window is None else min(end, spec.window)) - num_sink,
            notes=self.notes,
            noisy_notes=self.noisy_notes,
            tiers=self.placements,
            mass=mass,
            capacity=self.context.num_frames,
            layer=self.layer,
            num_layers=spec.num_layers,
        )

    def _is_in_sink(self, frame: int) -> bool:
        """Return whether a frame belongs to the model's changing sink, not to the policy."""
        return bool(self.context.spec.sink_rate) and frame < self.context.spec.sink

    def _mix_into_sink(self, leaving: range) -> None:
        """Mix the frames that leave the window into the sink, if a whole sink of them leaves.

        Frame i of those that leave goes into frame i of the sink: s = (1 - rate) * s + rate * x.

        Source  Reward Forcing (arXiv 2512.04678).
        """
        # Models with such a sink have chunks of its size, so a whole chunk leaves, or nothing while
        # the window fills.
        spec, arena = self.context.spec, self.arenas[SINK]
        if len(leaving) != spec.sink or not arena.places:
            return
        dtype = arena.packed[0].parts["exact"].dtype
        sink, rate = list(range(spec.sink)), spec.sink_rate
        keys, values = (x.to(dtype) for x in arena.read(sink))
        # A frame that the policy dropped or pooled earlier cannot be mixed: its tokens are gone.
        for frames, *parts in self._read([f for f in leaving if f in self.placements], dtype):
            index = [frame - leaving.start for frame in frames]
            for kept, old in zip((keys, values), parts, strict=True):
                kept[:, :, index] = (1 - rate) * kept[:, :, index] + rate * old
        arena.drop(sink)
        arena.store(sink, keys, values)

    def _read(self, frames: Sequence[int], dtype: torch.dtype) -> list[Frames]:
        """Return stored frames, decoded, one entry per tier."""
        found = []
        for name, arena in self.arenas.items():
            here = [f for f in frames if self.placements[f] == name]
            if here:
                k, v = arena.read(here)
                found.append((here, k.to(dtype), v.to(dtype)))
        return found

    def _free_pages(self, frames: Sequence[int] | Mapping[int, Placement]) -> None:
        """Free the pages of frames in all tiers; frames on the same pages are evicted with them."""
        full = [arena for name, arena in self.arenas.items() if name != POOL]
        for arena in full:
            arena.drop([f for f in frames if f in arena.places])
        # Ask the arenas: frames that shared a page with these are gone too.
        held = {f for arena in full for f in arena.places}
        self.placements = {f: placement for f, placement in self.placements.items() if f in held}

    def _store(self, arriving: Mapping[int, Placement], sources: Sequence[Frames]) -> None:
        """Store frames in their tiers, one call per tier, oldest first.

        arriving: placement of each frame. sources: keys and values of these frames.
        """
        for name, arena in self.arenas.items():
            arrivals = [part for source in sources for part in _part_of(name, source, arriving)]
            if not arrivals:
                continue
            # Store all of a tier at once, since an arena needs whole pages of `span` frames.
            frames, k, v = _in_order(arrivals)
            if name == POOL:
                # Keys get their positions before the mean: a mean of tokens has no place in the
                # frame, so it could not be rotated later. Pooled keys are therefore always stored
                # roped.
                if not self.context.roped:
                    k = self.context.positions.frames(frames).rotate(k)
                k, v = (x.float().mean(3, keepdim=True).to(x.dtype) for x in (k, v))
            arena.store(frames, k, v)
        for frame, placement in arriving.items():
            if isinstance(placement, Split):
                # Only the two tiers matter from now on: free the positions of the tokens.
                placement = replace(placement, tokens=placement.tokens.new_empty(0))
            if placement not in (DROP, POOL):
                self.placements[frame] = placement


def _visible(
    frames: tuple[int, ...], pages: Pages, span: int, plan: Plan
) -> tuple[tuple[int, ...], Pages, Tensor | None]:
    """Return the pages with a frame that the pass may see, all frames on these pages, and a bias.

    The bias [B, H, tokens] fp32 hides the other frames of these pages; it is None if there are
    none.
    """
    if plan.sees is None and not plan.hidden:
        return frames, pages, None
    shown = [plan.shows(frame) for frame in frames]
    if all(shown):
        return frames, pages, None
    # A page is decoded as a whole: keep it if the pass sees any of its frames.
    kept = [n for n in range(len(pages.slots)) if any(shown[n * span : (n + 1) * span])]
    inside = [i for n in kept for i in range(n * span, (n + 1) * span)]
    seen = Pages(pages.key, pages.value, tuple(pages.slots[n] for n in kept))
    hiding = None
    if not all(shown[i] for i in inside):
        by_frame = torch.tensor([0.0 if shown[i] else HIDDEN for i in inside])
        row = by_frame.to(pages.key.device).repeat_interleave(pages.key.page[0] // span)
        hiding = row.expand(*pages.key.shape[:2], -1)
    return tuple(frames[i] for i in inside), seen, hiding


def _part_of(name: str, source: Frames, arriving: Mapping[int, Placement]) -> Iterator[Frames]:
    """Yield the frames, and the tokens of split frames, that go to the tier `name`."""
    frames, k, v = source
    whole = [i for i, frame in enumerate(frames) if arriving[frame] == name]
    # Avoid a copy in the usual case: all frames go to one tier.
    if len(whole) == len(frames):
        yield source
    elif whole:
        yield [frames[i] for i in whole], k[:, :, whole], v[:, :, whole]
    for i, frame in enumerate(frames):
        placement = arriving[frame]
        if isinstance(placement, Split) and name in (placement.first, placement.rest):
            tokens = placement.tokens
            if name == placement.rest:
                is_rest = torch.ones(k.shape[3], dtype=torch.bool, device=tokens.device)
                is_rest[tokens] = False
                tokens = is_rest.nonzero()[:, 0]
            yield [frame], k[:, :, i : i + 1, tokens], v[:, :, i : i + 1, tokens]


def _in_order(arrivals: Sequence[Frames]) -> Frames:
    """Join frames from several sources, oldest first."""
    if len(arrivals) == 1:
        return arrivals[0]
    frames = [frame for part, _, _ in arrivals for frame in part]
    order = sorted(range(len(frames)), key=frames.__getitem__)
    k, v = (
        torch.cat(parts, 2)[:, :, order]
        for parts in ([part[1] for part in arrivals], [part[2] for part in arrivals])
    )
    return [frames[i] for i in order], k, v
