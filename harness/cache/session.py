"""The cache session: the only code that touches keys and values. One per video, for all layers."""

from __future__ import annotations

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
from harness.cache.traffic import Arithmetic, Traffic


class Session:
    """Keys and values of one video under one method.

    The sampler calls `plan` once per pass, the network calls `attend` once per pass and layer. Only
    a pass that stores history encodes its chunk: once per token, after attending to the exact
    chunk. A pass that stores an active chunk keeps it exact until the chunk's next pass. The first
    pass of a chunk evicts frames that have left the model's window; the pass that stores a chunk
    evicts the frames or tokens that the method's policy drops.
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
        """Create an empty cache for a video of `num_frames`.

        Call `method.check(spec)` and the backend's `resolve` before.

        positions: the network's (`Network.positions`); None for those of the Wan networks.
        """
        traffic = Traffic()
        context = Context(
            spec=spec,
            method=method,
            retention=sized(method, spec, num_frames),
            backend=backend,
            num_frames=num_frames,
            positions=positions or Rope(spec.head_dim, spec.grid, device),
            roped=method.keys_in(spec) == "roped",
            traffic=traffic,
        )
        self._open(context, traffic)

    def _open(self, context: Context, traffic: Traffic) -> None:
        """Set all fields, and begin an empty history.

        traffic: counts the history that this session attends to; `context.traffic` counts what its
            layers encode.
        """
        self._context, self._backend = context, context.backend
        self.spec, self.method = context.spec, context.method
        self.peak_bytes = 0
        self.traffic = traffic
        self.watch = KeyValueWatch()
        self.arithmetic = Arithmetic()
        self.start()

    def start(self) -> None:
        """Begin an empty history; the caller's next pass is at frame 0."""
        num_layers = self.spec.num_layers
        self._layers: list[Layer] = [layer_of(self._context, i) for i in range(num_layers)]
        self._active: list[ActiveChunks] = [ActiveChunks(self._context) for _ in range(num_layers)]
        self._scratch = Scratch()  # a new one, so that the old buffer is freed with the history
        self._end = 0  # frames of the video so far, the current chunk included

    def plan(self, frames: range, stores: Stores, sees: range | None = None) -> Plan:
        """Place a pass over the chunk `frames`; evict frames if the chunk is new.

        sees: earlier frames, finished or active, that the pass may attend to; an empty range leaves
            only its own chunk, None allows all that the window reaches.
        """
        # The window moves by the oldest chunk of a pass only: a joint pass covers more chunks, but
        # they are stored in later passes.
        end, window = min(frames.stop, frames.start + self.spec.chunk_frames), self.spec.window
        # Only the first pass of a chunk moves the window; later ones find it where it is.
        if end > self._end:
            self._end = end
            if window is not None:
                # The sink takes part of the window, so the other frames share the rest.
                for layer in self._layers:
                    layer.evict(end - window + self.spec.sink)
        if stores == "history":
            # Measure the peak here: the denoising passes have grown the scratch to its full size,
            # and this pass may evict frames.
            self.ledger()
        # Keep the rotations of one pass only: positions move on, and old tables would pile up.
        self._context.turns.clear()
        # Relative positions start at 0 with the oldest frame of the window.
        shift = 0
        if self.spec.positions == "relative" and window is not None:
            shift = max(0, self._end - window)
        # Queries and keys of the chunk share one table: all of its layers use it.
        turns = self._context.positions.frames([f - shift for f in frames])
        if self.spec.positions != "anchored" or window is None:
            return Plan(frames, stores, shift, turns, sees=sees)
        # The sink moves with the window, see `anchored`.
        lift, hidden = anchored(self.spec, frames, stores == "history")
        return Plan(frames, stores, shift, turns, lift, hidden, sees)

    def restart(self) -> None:
        """Free the history; the next pass starts a new one at frame 0."""
        self.ledger()  # updates `peak_bytes` before the memory is freed
        self.start()

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Return the attention of the current chunk over history and itself [B, H, T, D].

        q [B, H, T, D] has the model's query heads, k and v its KV heads; q and k are normed and
        un-rotated.
        """
        store = self._layers[layer]
        # Check numbers in passes that store history only: each chunk has one, so all are checked.
        if plan.stores == "history":
            self.watch.note(layer, False, are_finite(k_BHTD, v_BHTD))
            self._scratch.finite = []  # asks the backend to check what it decodes, too
        q, k = plan.rotate(q_BHTD), plan.rotate(k_BHTD)
        active = self._active[layer]
        # Before the history is read: a policy may choose tokens by the queries of this pass.
        store.prepare(q, plan)
        seen = store.segments(plan) + active.segments(plan)
        # Under a causal plan, one call per chunk with the keys up to it: no backend needs a mask.
        size = q.shape[2]
        if plan.causal_frames is not None:
            size = plan.causal_frames * self.spec.tokens_per_frame
        parts, end = [], 0
        for query in q.split(size, 2):
            end += query.shape[2]
            own = k[:, :, :end], v_BHTD[:, :, :end]
            parts.append(attend_grouped(self._backend, query, *own, seen, self._scratch))
            self.traffic.attended(seen)  # each call decodes the history
            self.arithmetic.attended(own[0], seen, query.shape[2])
        out = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        if self._scratch.finite is not None:
            self.watch.note(layer, True, *self._scratch.finite)
            self._scratch.finite = None
        chunk = Chunk(k_BHTD, v_BHTD, rotated_query=q, rotated_key=k)
        if plan.stores == "history":
            # Store after attention, so that the chunk attends to its own exact keys. Free the exact
            # copy first: exact and encoded keys of a chunk are never allocated together.
            active.free(plan.frames)
            store.commit(chunk, plan)
            return out
        # A noisy pass leaves the history as it is.
        store.observe_noisy(chunk, plan)
        if plan.stores == "active":
            active.store(chunk, plan)
        return out

    def promote(self, frames: range) -> None:
        """Move an unfinished chunk into the history, with the keys and values of its newest pass.

        Raises  ValueError: the method stores keys without their positions, which are not kept.
        """
        if not self._context.roped:
            raise ValueError(
                "allow_stale_commit stores keys as an earlier pass rotated them, but the method "
                "stores keys without positions: choose model.keys=roped and a method that keeps it"
            )
        plan = self.plan(frames, "history")
        for layer, store in enumerate(self._layers):
            key, value = self._active[layer].taken(frames)
            # The stored key is rotated already. Only methods that store keys without positions read
            # `Chunk.key`, and these were refused above.
            store.commit(Chunk(key, value, rotated_query=key[:, :, :0], rotated_key=key), plan)
            self.watch.note(layer, False, are_finite(key, value))

    def renew(self, frames: range) -> None:
        """Free the newest frames of the history; the next passes store them again."""
        self.ledger()  # updates `peak_bytes` before the memory is freed
        for layer in self._layers:
            layer.renew(frames)

    def make_room(self) -> None:
        """Let the policy evict tokens before a new chunk starts."""
        for layer in self._layers:
            layer.make_room()

    def forget(self, frames: range) -> None:
        """Free an unfinished chunk."""
        for active in self._active:
            active.free(frames)

    def ledger(self) -> dict[str, int]:
        """Return the bytes of the tensors that are allocated now, by component.

        `scratch` is shared by all layers. Each call updates `peak_bytes`: `plan` calls it before
        each commit, and the caller of the session should call it after.
        """
        # A plain dict: every phase of a video asks for the ledger, and `Counter.update` takes four
        # times as long as these additions.
        held: dict[str, int] = {}
        # Counted from the tensors each time, never from a formula.
        for layer in self._layers:
            for name, size in layer.ledger.items():
                held[name] = held.get(name, 0) + size
        # Layers run one after the other and share one scratch: count it once.
        held["active"] = sum(active.nbytes for active in self._active)
        held["scratch"] = self._scratch.nbytes
        self.peak_bytes = max(self.peak_bytes, sum(held.values()))
        return {name: size for name, size in held.items() if size}

    @property
    def stored_bytes(self) -> int:
        """Bytes of the history: the ledger without scratch and unfinished chunks."""
        ledger = self.ledger()
        return sum(size for name, size in ledger.items() if name not in ("active", "scratch"))

    @property
    def nominal_bytes(self) -> int:
        """Bytes of the history without metadata, at the nominal bits per value."""
        return sum(layer.nominal_bytes for layer in self._layers)

    @property
    def num_frames_held(self) -> float:
        """Frames that attention still reads, full or pooled; mean over layers."""
        return sum(layer.num_frames_held for layer in self._layers) / self.spec.num_layers

    def stored(self, layer: int) -> tuple[list[int], Tensor, Tensor]:
        """Return the whole frames of a layer, and their decoded keys and values.

        Shapes  keys and values [B, H, F, T, D] fp32. Under a token policy all tokens form one
                frame, number 0.
        """
        return self._layers[layer].stored()


def anchored(spec: CacheSpec, frames: range, commit: bool) -> tuple[int, range]:
    """Return how many frames a pass moves the sink forward, and which stored frames it hides.

    The commit pass sees the newest frames at their own positions. A denoising pass sees the sink
    and the newest stored frames that fit into the window with it; the sink moves to just before
    them.

    Source  Rolling Forcing (arXiv 2509.25161).
    """
    assert spec.window is not None
    # The window counts the frames to keep; a pass attends to fewer (24 and 21 in the released
    # model), its own frames and the sink included.
    reach = spec.window - spec.sink
    if commit:
        return 0, range(max(0, frames.stop - reach))
    # Negative while the video is shorter than the sink, or if the pass alone fills the window.
    shown = max(0, min(frames.start - spec.sink, reach - spec.sink - len(frames)))
    first = max(spec.sink, frames.start - shown)
    return first - spec.sink, range(spec.sink, first)


def sized(method: Method, spec: CacheSpec, num_frames: int) -> FramePolicy | TokenPolicy:
    """Return the method's policy for one video, with its budget (if any) counted in tokens."""
    room = VideoSize(
        tokens_per_frame=spec.tokens_per_frame,
        num_frames=num_frames,
        frame_bytes=frame_bytes(method, spec),
        bf16_frame_bytes=spec.bf16_frame_bytes,
        chunk_frames=spec.chunk_frames,
        under_way=spec.under_way,
    )
    policy = method.retention.sized(room)
    assert isinstance(policy, FramePolicy | TokenPolicy)
    return policy


def layer_of(context: Context, layer: int) -> Layer:
    """Return empty storage for one layer: by frames or by tokens, depending on the policy."""
    policy = context.retention
    if isinstance(policy, TokenPolicy):
        return TokenLayer(context, policy, layer)
    assert isinstance(policy, FramePolicy)
    return FrameLayer(context, policy, layer)
