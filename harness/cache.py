"""The cache session: the only code that touches keys and values. One per video, for all layers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.api import CacheSpec, Exact, Fate, History, Method, Packed, Quantizer
from harness.attention import Scratch, Segment, attend
from harness.models.rope import Rope, rotate


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
class Block:
    """Frames of one layer that are stored in the same form, oldest first."""

    key_quantizer: Quantizer
    value_quantizer: Quantizer
    tokens: int
    roped: bool
    count: int = 1
    width: int = 0  # values of one token, over batch, heads and channels
    frames: list[int] = field(default_factory=list)
    key: Packed | None = None
    value: Packed | None = None

    def append(self, frames: list[int], k_BHFTD: Tensor, v_BHFTD: Tensor) -> None:
        """Encode new frames behind those that are here."""
        self.width = k_BHFTD.shape[0] * k_BHFTD.shape[1] * k_BHFTD.shape[4]
        key, value = self.key_quantizer.encode(k_BHFTD), self.value_quantizer.encode(v_BHFTD)
        self.key = key if self.key is None else self.key.append(key)
        self.value = value if self.value is None else self.value.append(value)
        self.frames += frames

    def read(self, frames: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of some of the frames, decoded [B, H, F, T, D]."""
        assert self.key is not None and self.value is not None
        index = self._index(frames, self.key)
        k = self.key_quantizer.decode(self.key.frames(index), dtype)
        return k, self.value_quantizer.decode(self.value.frames(index), dtype)

    @property
    def packed(self) -> list[Packed]:
        """Keys and values as they are held; nothing while the block is empty."""
        return [packed for packed in (self.key, self.value) if packed is not None]

    @property
    def nominal_bytes(self) -> int:
        """Bytes of the codes alone."""
        values = len(self.frames) * self.tokens * self.width
        return sum(values * packed.bits // 8 for packed in self.packed)

    def keep(self, frames: list[int]) -> None:
        """Free every frame but these."""
        if frames == self.frames:
            return
        if not frames:
            self.key = self.value = None
        elif self.key is not None and self.value is not None:
            index = self._index(frames, self.key)
            self.key, self.value = self.key.frames(index), self.value.frames(index)
        self.frames = frames

    def _index(self, frames: list[int], packed: Packed) -> Tensor:
        device = next(iter(packed.parts.values())).device
        return torch.tensor([self.frames.index(f) for f in frames], device=device)


@dataclass
class Layer:
    """The history of one layer: frames in full, pooled frames, the policy's notes."""

    full: Block
    pooled: Block
    notes: dict[int, Tensor] = field(default_factory=dict)

    @property
    def blocks(self) -> tuple[Block, Block]:
        """Both forms of storage, in the order in which they are attended."""
        return self.full, self.pooled


class Session:
    """Keys and values of one video under one method.

    `plan` is called once a pass, `attend` by the network once a pass and layer. Noisy keys and
    values are never stored: only a commit pass, which attends to its own exact chunk first, stores
    it. Frames that the model's window no longer reaches leave at the first pass of a chunk, what
    the method's policy lets go leaves right after the commit.
    """

    def __init__(self, spec: CacheSpec, method: Method, device: torch.device) -> None:
        """An empty cache; the method must have passed `method.check(spec)`."""
        self.spec = spec
        self.method = method
        self.peak_bytes = 0
        self._rope = Rope(spec.head_dim, spec.grid, device)
        self._scratch = Scratch()
        self._turns: dict[tuple[int, ...], Tensor] = {}  # of this pass, shared by its layers
        roped = (spec.keys if method.keys == "model" else method.keys) == "roped"
        tokens = spec.tokens_per_frame
        self._layers = [
            Layer(
                full=Block(method.key, method.value, tokens, roped),
                pooled=Block(Exact(), Exact(), 1, roped=True, count=tokens),
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
        turns = self._rope.frames([f - shift for f in frames]).flatten(0, 1)
        return Plan(frames, commit, shift, turns)

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Attention of the current chunk over the layer's history and itself [B, H, T, D]."""
        store = self._layers[layer]
        history = [self._segment(block, plan) for block in store.blocks if block.frames]
        q, k = rotate(q_BHTD, plan.turns), rotate(k_BHTD, plan.turns)
        out = attend(q, k, v_BHTD, history, self._scratch)
        if plan.commit:
            self._commit(store, k_BHTD, v_BHTD, plan)
        return out

    def ledger(self) -> dict[str, int]:
        """Bytes of the tensors held now, by what they are; `scratch` is shared by all layers.

        `peak_bytes` is the largest sum it has seen: `plan` looks before each commit, and whoever
        runs the session after it.
        """
        held: Counter[str] = Counter()
        for layer in self._layers:
            for block in layer.blocks:
                for packed in block.packed:
                    for name, part in packed.parts.items():
                        held["pooled" if block is layer.pooled else name] += part.nbytes
            held["notes"] += sum(note.nbytes for note in layer.notes.values())
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
        return sum(block.nominal_bytes for layer in self._layers for block in layer.blocks)

    @property
    def num_frames_held(self) -> float:
        """Frames that still have a place in the attention, full or pooled; mean over layers."""
        held = [len(block.frames) for layer in self._layers for block in layer.blocks]
        return sum(held) / self.spec.num_layers

    def stored(self, layer: int) -> tuple[list[int], Tensor, Tensor]:
        """Full frames of a layer, decoded: their indices, keys and values [B, H, F, T, D] fp32."""
        block = self._layers[layer].full
        return block.frames, *block.read(block.frames, torch.float32)

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
            for block in layer.blocks:
                block.keep([f for f in block.frames if f < self.spec.sink or f >= first])

    def _segment(self, block: Block, plan: Plan) -> Segment:
        """A block as the pass sees it: rotated to the positions of the plan."""
        assert block.key is not None and block.value is not None
        moved = [0 if f < self.spec.sink else -plan.shift for f in block.frames]
        turns = None
        if not block.roped:
            turns = self._places(tuple(f + m for f, m in zip(block.frames, moved, strict=True)))
        elif any(moved):
            turns = self._rope.shifts(moved)
        return Segment(
            block.key,
            block.value,
            block.key_quantizer,
            block.value_quantizer,
            num_tokens=len(block.frames) * block.tokens,
            turns=turns,
            log_count=math.log(block.count),
        )

    def _places(self, positions: tuple[int, ...]) -> Tensor:
        """Rotations of whole frames; layers that hold the same frames share them."""
        if positions not in self._turns:
            self._turns[positions] = self._rope.frames(positions)
        return self._turns[positions]

    def _commit(self, layer: Layer, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan) -> None:
        """Store the chunk of a commit pass, then let the policy decide over the layer."""
        frames = list(plan.frames)
        k, v = (x.unflatten(2, (len(frames), -1)) for x in (k_BHTD, v_BHTD))
        for i, frame in enumerate(frames):
            note = self.method.retention.observe(k[:, :, i], v[:, :, i])
            if note is not None:
                layer.notes[frame] = note
        if layer.full.roped:
            k = rotate(k, self._rope.frames(frames))
        layer.full.append(frames, k, v)
        reach = self._end if self.spec.window is None else min(self._end, self.spec.window)
        history = History(tuple(layer.full.frames), reach, layer.notes)
        self._apply(layer, self.method.retention.decide(history), k_BHTD.dtype)

    def _apply(self, layer: Layer, fates: dict[int, Fate], dtype: torch.dtype) -> None:
        """Carry out the policy's decision.

        Raises  ValueError: it is about a frame that is not stored in full.
        """
        unknown = sorted(set(fates) - set(layer.full.frames))
        if unknown:
            raise ValueError(f"the retention policy decided over frame {unknown[0]}, not stored")
        pooled = sorted(f for f, fate in fates.items() if fate is Fate.POOL)
        if pooled:
            k, v = layer.full.read(pooled, torch.float32)
            if not layer.full.roped:  # a mean has no place of its own: rotate first
                k = rotate(k, self._rope.frames(pooled))
            k, v = (x.mean(3, keepdim=True).to(dtype) for x in (k, v))
            layer.pooled.append(pooled, k, v)
        layer.full.keep([f for f in layer.full.frames if fates.get(f, Fate.KEEP) is Fate.KEEP])
