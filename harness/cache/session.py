"""The cache session: the only code that touches keys and values. One per video, for all layers."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from harness.api import CacheSpec, FramePolicy, Method, Stores, TokenPolicy, VideoSize
from harness.cache.active import ActiveChunks
from harness.cache.attention.base import Backend, Scratch, attend_grouped
from harness.cache.frame_layer import FrameLayer
from harness.cache.layer import Chunk, Context, Layer, Plan
from harness.cache.numerics import KeyValueWatch, are_finite
from harness.cache.positions import Positions, Rope
from harness.cache.stored_bytes import frame_bytes
from harness.cache.token_layer import TokenLayer


class Session:
    """Keys and values of one video under one method.

    `plan` is called once a pass, `attend` by the network once a pass and layer. Only a pass that
    stores history encodes its chunk, each token once, after attending to the exact chunk. A pass
    that stores an active chunk keeps it exact until the chunk's next pass. The first pass of a
    chunk evicts the frames that the model's window no longer reaches; the pass that stores a chunk
    evicts what the method's policy drops, before it encodes.
    """

    def __init__(
        self,
        spec: CacheSpec,
        method: Method,
        backend: Backend,
        num_frames: int,
        device: torch.device,
        positions: Positions | None = None,
    ) -> None:
        """An empty cache for a video of `num_frames`.

        The method must have passed `method.check(spec)` and the backend its `resolve`. positions:
        the network's (`Network.positions`); those of the Wan networks if none are given.
        """
        self.spec = spec
        self.method = method
        self.peak_bytes = 0
        self.watch = KeyValueWatch()
        self._backend = backend
        self._scratch = Scratch()
        self._context = Context(
            spec=spec,
            method=method,
            retention=sized(method, spec, num_frames),
            backend=backend,
            num_frames=num_frames,
            positions=positions or Rope(spec.head_dim, spec.grid, device),
            roped=method.keys_in(spec) == "roped",
        )
        self._layers = [layer_of(self._context, layer) for layer in range(spec.num_layers)]
        self._active = [ActiveChunks(self._context) for _ in range(spec.num_layers)]
        self._end = 0  # frames of the video so far, the current chunk included

    def plan(self, frames: range, stores: Stores, sees: range | None = None) -> Plan:
        """Place a pass over the chunk `frames`; evicts if the chunk is new.

        sees: the earlier frames that the pass may attend to, finished or active, of those that are
        held; an empty range leaves it its own chunk, None shows all that the window allows.
        """
        end = min(frames.stop, frames.start + self.spec.chunk_frames)  # the rest is not history yet
        if end > self._end:
            self._end = end
            self._evict()
        if (
            stores == "history"
        ):  # the scratch of this chunk has its full size now, history has not grown yet
            self.ledger()
        self._context.turns.clear()
        shift = self._shift()
        turns = self._context.positions.frames([f - shift for f in frames])
        if self.spec.positions != "anchored" or self.spec.window is None:
            return Plan(frames, stores, shift, turns, sees=sees)
        lift, hidden = anchored(self.spec, frames, stores == "history")
        return Plan(frames, stores, shift, turns, lift, hidden, sees)

    def restart(self) -> None:
        """Forget everything: the next pass begins a history at frame 0."""
        self.ledger()
        self._layers = [layer_of(self._context, layer) for layer in range(self.spec.num_layers)]
        self._active = [ActiveChunks(self._context) for _ in range(self.spec.num_layers)]
        self._scratch = Scratch()
        self._end = 0

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Attention of the current chunk over the layer's history and itself [B, H, T, D].

        q has the model's heads, k and v its KV heads; q and k normed and un-rotated.
        """
        store = self._layers[layer]
        if plan.stores == "history":
            self.watch.note(layer, False, are_finite(k_BHTD, v_BHTD))
            self._scratch.finite = []
        q, k = plan.rotate(q_BHTD), plan.rotate(k_BHTD)
        active = self._active[layer]
        seen = store.segments(plan) + active.segments(plan)
        out = attend_grouped(self._backend, q, k, v_BHTD, seen, self._scratch)
        if self._scratch.finite is not None:
            self.watch.note(layer, True, *self._scratch.finite)
            self._scratch.finite = None
        chunk = Chunk(k_BHTD, v_BHTD, rotated_query=q, rotated_key=k)
        if plan.stores == "history":
            active.free(plan.frames)
            store.commit(chunk, plan)
            return out
        store.observe_noisy(chunk, plan)
        if plan.stores == "active":
            active.store(chunk, plan)
        return out

    def ledger(self) -> dict[str, int]:
        """Bytes of the tensors held now, by what they are; `scratch` is shared by all layers.

        `peak_bytes` is the largest sum it has seen: `plan` looks before each commit, and whoever
        runs the session after it.
        """
        held: Counter[str] = Counter()
        for layer in self._layers:
            held += layer.ledger
        held["active"] = sum(active.nbytes for active in self._active)
        held["scratch"] = self._scratch.nbytes
        self.peak_bytes = max(self.peak_bytes, held.total())
        return {name: size for name, size in held.items() if size}

    @property
    def stored_bytes(self) -> int:
        """Bytes that history occupies: the ledger without scratch and chunks under way."""
        apart = ("active", "scratch")
        return sum(size for name, size in self.ledger().items() if name not in apart)

    @property
    def nominal_bytes(self) -> int:
        """Bytes of the codes alone, as a bit width is usually quoted."""
        return sum(layer.nominal_bytes for layer in self._layers)

    @property
    def num_frames_held(self) -> float:
        """Frames that still have a place in the attention, full or pooled; mean over layers."""
        return sum(layer.num_frames_held for layer in self._layers) / self.spec.num_layers

    def stored(self, layer: int) -> tuple[list[int], Tensor, Tensor]:
        """What a layer holds in full, decoded: frames, keys and values [B, H, F, T, D] fp32."""
        return self._layers[layer].stored()

    def _shift(self) -> int:
        """Frames by which relative positions lie behind absolute ones."""
        if self.spec.positions != "relative" or self.spec.window is None:
            return 0
        return max(0, self._end - self.spec.window)

    def _evict(self) -> None:
        """Free what lies neither in the model's sink nor in its window."""
        if self.spec.window is None:
            return
        first = self._end - self.spec.window + self.spec.sink
        for layer in self._layers:
            layer.evict(first)


def anchored(spec: CacheSpec, frames: range, commit: bool) -> tuple[int, range]:
    """How far a pass moves the sink forward, and which stored frames it does not see.

    The commit sees the newest frames at their own places. A denoising pass sees the sink, moved to
    just before the newest frames that still have a place beside it and the pass's own.

    Source  Rolling Forcing (arXiv 2509.25161).
    """
    assert spec.window is not None
    reach = spec.window - spec.sink
    if commit:
        return 0, range(max(0, frames.stop - reach))
    shown = max(0, min(frames.start - spec.sink, reach - spec.sink - len(frames)))
    first = max(spec.sink, frames.start - shown)
    return first - spec.sink, range(spec.sink, first)


def sized(method: Method, spec: CacheSpec, num_frames: int) -> FramePolicy | TokenPolicy:
    """The method's policy for a video: with its budget, if it has one, counted in tokens."""
    room = VideoSize(
        tokens_per_frame=spec.tokens_per_frame,
        num_frames=num_frames,
        frame_bytes=frame_bytes(method, spec),
        bf16_frame_bytes=spec.bf16_frame_bytes,
    )
    policy = method.retention.sized(room)
    assert isinstance(policy, FramePolicy | TokenPolicy)
    return policy


def layer_of(context: Context, layer: int) -> Layer:
    """Storage by frames or by tokens, as the policy decides."""
    policy = context.retention
    if isinstance(policy, TokenPolicy):
        return TokenLayer(context, policy, layer)
    assert isinstance(policy, FramePolicy)
    return FrameLayer(context, policy, layer)
