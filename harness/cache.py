"""The cache session: the only code that touches keys and values. One per video, for all layers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.api import CacheSpec, Exact, Fate, History, Method
from harness.arena import Arena
from harness.attention.base import Backend, Scratch, Segment
from harness.models.rope import Rope, Turns, rotate


@dataclass(frozen=True)
class Plan:
    """Where one pass stands in the video, the same for all layers.

    shift: how far the model's positions are moved back for every frame behind the sink.
    turns: rotation of the current chunk's queries and keys [F * T, D/2].
    """

    frames: range
    commit: bool
    shift: int
    turns: Tensor


@dataclass
class Layer:
    """The history of one layer: frames in full, pooled frames, the policy's notes."""

    full: Arena
    pooled: Arena
    notes: dict[int, Tensor] = field(default_factory=dict)
    notes_bytes: int = 0

    @property
    def arenas(self) -> tuple[Arena, Arena]:
        """Both forms of storage, in the order in which they are attended."""
        return self.full, self.pooled


class Session:
    """Keys and values of one video under one method.

    `plan` is called once a pass, `attend` by the network once a pass and layer. Noisy keys and
    values are never stored: only a commit pass, which attends to its own exact chunk first, stores
    it, each token once. Frames that the model's window no longer reaches leave at the first pass of
    a chunk; what the method's policy lets go leaves in the commit pass, before it encodes.
    """

    def __init__(
        self,
        spec: CacheSpec,
        method: Method,
        backend: Backend,
        num_frames: int,
        device: torch.device,
    ) -> None:
        """An empty cache for a video of `num_frames`.

        The method must have passed `method.check(spec)` and the backend its `resolve`.
        """
        self.spec = spec
        self.method = method
        self.peak_bytes = 0
        self._backend = backend
        self._rope = Rope(spec.head_dim, spec.grid, device)
        self._scratch = Scratch()
        self._turns: dict[tuple[int, ...], Turns] = {}  # of this pass, shared by its layers
        self._roped = method.keys_in(spec) == "roped"
        reach = num_frames if spec.window is None else min(num_frames, spec.window)
        kept = method.retention.most_kept(reach)
        rest = None if kept is None else max(1, reach - kept)
        self._layers = [
            Layer(
                Arena(method.key, method.value, kept, backend.write), Arena(Exact(), Exact(), rest)
            )
            for _ in range(spec.num_layers)
        ]
        self._end = 0  # frames of the video so far, the current chunk included

    def plan(self, frames: range, commit: bool) -> Plan:
        """Place a pass over the chunk `frames`; evicts if the chunk is new."""
        if frames.stop > self._end:
            self._end = frames.stop
            self._evict()
        if commit:  # the scratch of this chunk has its full size now, history has not grown yet
            self.ledger()
        self._turns.clear()
        shift = self._shift()
        turns = self._rope.frames([f - shift for f in frames]).view().flatten(0, 1)
        return Plan(frames, commit, shift, turns)

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Attention of the current chunk over the layer's history and itself [B, H, T, D]."""
        store = self._layers[layer]
        history = [s for arena in store.arenas for s in self._segments(store, arena, plan)]
        q, k = rotate(q_BHTD, plan.turns), rotate(k_BHTD, plan.turns)
        out = self._backend.attend(q, k, v_BHTD, history, self._scratch)
        if plan.commit:
            turned = k if plan.shift == 0 else None
            self._commit(store, k_BHTD, v_BHTD, plan, turned)
        return out

    def ledger(self) -> dict[str, int]:
        """Bytes of the tensors held now, by what they are; `scratch` is shared by all layers.

        `peak_bytes` is the largest sum it has seen: `plan` looks before each commit, and whoever
        runs the session after it.
        """
        held: Counter[str] = Counter()
        for layer in self._layers:
            held += layer.full.ledger
            held["pooled"] += layer.pooled.ledger.total()
            held["notes"] += layer.notes_bytes
        held["scratch"] = self._scratch.nbytes
        self.peak_bytes = max(self.peak_bytes, held.total())
        return {name: size for name, size in held.items() if size}

    @property
    def stored_bytes(self) -> int:
        """Bytes that history occupies: the ledger without scratch."""
        return sum(size for name, size in self.ledger().items() if name != "scratch")

    @property
    def nominal_bytes(self) -> int:
        """Bytes of the codes alone, as a bit width is usually quoted."""
        return sum(arena.nominal_bytes for layer in self._layers for arena in layer.arenas)

    @property
    def num_frames_held(self) -> float:
        """Frames that still have a place in the attention, full or pooled; mean over layers."""
        held = [len(arena.places) for layer in self._layers for arena in layer.arenas]
        return sum(held) / self.spec.num_layers

    def stored(self, layer: int) -> tuple[list[int], Tensor, Tensor]:
        """Full frames of a layer, decoded: their indices, keys and values [B, H, F, T, D] fp32."""
        full = self._layers[layer].full
        return full.frames, *full.read(full.frames)

    def _shift(self) -> int:
        """Frames by which relative positions lie behind absolute ones."""
        if self.spec.positions == "absolute" or self.spec.window is None:
            return 0
        return max(0, self._end - self.spec.window)

    def _evict(self) -> None:
        """Free what lies neither in the model's sink nor in its window."""
        if self.spec.window is None:
            return
        first = self._end - self.spec.window + self.spec.sink
        for layer in self._layers:
            for arena in layer.arenas:
                arena.drop([f for f in arena.places if self.spec.sink <= f < first])

    def _segments(self, layer: Layer, arena: Arena, plan: Plan) -> list[Segment]:
        """The frames of an arena as the pass sees them, turned to the positions of the plan."""
        pooled = arena is layer.pooled
        return [
            Segment(
                pages,
                arena.key_quantizer,
                arena.value_quantizer,
                self._turns_of(frames, plan.shift, self._roped or pooled),
                math.log(self.spec.tokens_per_frame) if pooled else 0.0,
            )
            for frames, pages in arena.pages
        ]

    def _turns_of(self, frames: tuple[int, ...], shift: int, roped: bool) -> Turns | None:
        """How stored keys turn on reading; layers that hold the same frames share the tables."""
        moved = tuple(0 if f < self.spec.sink else -shift for f in frames)
        if roped and not any(moved):
            return None
        places = moved if roped else tuple(f + m for f, m in zip(frames, moved, strict=True))
        if (roped, *places) not in self._turns:
            make = self._rope.shifts if roped else self._rope.frames
            self._turns[roped, *places] = make(places)
        return self._turns[roped, *places]

    def _commit(
        self, layer: Layer, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan, turned_BHTD: Tensor | None
    ) -> None:
        """Let the policy decide over the layer and the new chunk, then store what stays of it.

        turned: the keys at their absolute positions, if the pass has them.
        """
        k, v = (x.unflatten(2, (len(plan.frames), -1)) for x in (k_BHTD, v_BHTD))
        for i, frame in enumerate(plan.frames):
            note = self.method.retention.observe(k[:, :, i], v[:, :, i])
            if note is not None:
                layer.notes[frame] = note
                layer.notes_bytes += note.nbytes
        reach = self._end if self.spec.window is None else min(self._end, self.spec.window)
        history = History((*layer.full.places, *plan.frames), reach, layer.notes)
        fates = self.method.retention.decide(history)
        unknown = sorted(set(fates) - set(history.frames))
        if unknown:
            raise ValueError(f"the retention policy decided over frame {unknown[0]}, not stored")
        if self._roped and turned_BHTD is not None:
            k = turned_BHTD.unflatten(2, (len(plan.frames), -1))
        elif self._roped:
            k = rotate(k, self._rope.frames(plan.frames).view())
        going = [f for f in layer.full.places if fates.get(f, Fate.KEEP) is not Fate.KEEP]
        pooled = [f for f in going if fates[f] is Fate.POOL]
        if pooled:
            self._pool(layer, pooled, *layer.full.read(pooled), k.dtype)
        layer.full.drop(going)
        new: dict[Fate, list[int]] = {fate: [] for fate in Fate}
        for i, frame in enumerate(plan.frames):
            new[fates.get(frame, Fate.KEEP)].append(i)
        if new[Fate.POOL]:
            pool = new[Fate.POOL]
            self._pool(layer, [plan.frames[i] for i in pool], k[:, :, pool], v[:, :, pool], k.dtype)
        if len(new[Fate.KEEP]) < len(plan.frames):
            k, v = k[:, :, new[Fate.KEEP]], v[:, :, new[Fate.KEEP]]
        layer.full.store([plan.frames[i] for i in new[Fate.KEEP]], k, v)

    def _pool(
        self, layer: Layer, frames: Sequence[int], k: Tensor, v: Tensor, dtype: torch.dtype
    ) -> None:
        """Store one token a frame, the mean of the frame's tokens [B, H, F, T, D]."""
        if not self._roped:  # a mean has no place of its own: rotate first
            k = rotate(k, self._rope.frames(frames).view())
        k, v = (x.float().mean(3, keepdim=True).to(dtype) for x in (k, v))
        layer.pooled.store(frames, k, v)
