"""The cache of FlowCache's program on SkyReels-V2: full buffers with keys in FP32.

Every layer of every guidance branch allocates room for all frames of a window at its first pass and
keeps it until the window ends. Compression shortens what attention reads, but frees no memory.

Source  FlowCache (arXiv 2602.10825), its release for SkyReels-V2: keys are stored in FP32 and
        values in the model's dtype; attention rounds keys and queries, the scores do not. Its
        network also leaves keys unrounded after their norm; ours rounds them there, so FP32 adds
        precision to the rotation only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import CacheSpec, Exact, FramePolicy, Method, Packed, Revision, TokenPolicy, Tokens
from harness.cache.active import ActiveChunks
from harness.cache.attention.base import Backend, Scratch, Segment
from harness.cache.integration import Integration
from harness.cache.layer import Chunk, Plan
from harness.cache.positions import Positions
from harness.cache.session import Session
from harness.cache.token_layer import StoredTokens, TokenLayer

KEY_BYTES = 4  # FP32, whatever the model's dtype


@dataclass(frozen=True)
class FullBuffers(Integration):
    """Keeps exact history in buffers of the whole window, as FlowCache's program does."""

    # Memory as in the release: history stays during the decode of the whole video.
    free_before_decode: bool = False
    stream_decode: bool = False
    keep_previous: bool = True
    name: ClassVar[str] = "published_flowcache"
    shows_active: ClassVar[bool] = True
    restarts: ClassVar[bool] = True

    def check(self, spec: CacheSpec, method: Method) -> None:
        """Raise ValueError if the method encodes keys or values, or decides over whole frames."""
        policy = method.retention
        exact = isinstance(method.key, Exact) and isinstance(method.value, Exact)
        whole = isinstance(policy, FramePolicy) and not policy.keeps_all
        if not exact or whole or method.tiers or spec.window is not None:
            raise ValueError(
                f"integration={self.name} stores exact keys and values of all frames of a window, "
                "or of the tokens that a policy over tokens keeps: choose method=flowcache_slow, "
                "flowcache_cut or another without a quantizer, model.window=null, or "
                "integration=packed"
            )

    def history_bytes(self, spec: CacheSpec, num_frames: int) -> int:
        """Return the bytes of the buffers of one branch, for a window of `num_frames` frames."""
        # A BF16 frame has a key and a value of 2 bytes each for every number that is counted here.
        numbers = spec.bf16_frame_bytes // 4
        return num_frames * numbers * (KEY_BYTES + 2)

    def session(
        self,
        spec: CacheSpec,
        method: Method,
        backend: Backend,
        num_frames: int,
        device: torch.device,
        positions: Positions | None = None,
    ) -> BufferSession:
        """Return an empty cache; its buffers are allocated by the first pass."""
        return BufferSession(spec, method, Rounding(backend), num_frames, device, positions)


class BufferSession(Session):
    """A session whose history and unfinished chunks lie in one buffer per layer."""

    def start(self) -> None:
        """Begin an empty history with buffers of its own."""
        super().start()
        # Layers of tokens serve methods that keep all frames too, so that one kind of layer knows
        # the buffers.
        policy = self._context.retention
        if not isinstance(policy, TokenPolicy):
            policy = Everything()
        size = self._context.num_frames * self.spec.tokens_per_frame
        buffers = [Buffers(size) for _ in range(self.spec.num_layers)]
        self._layers = [
            BufferLayer(self._context, policy, layer, buffers=each)
            for layer, each in enumerate(buffers)
        ]
        self._active = [BufferedChunks(self._context, buffers=each) for each in buffers]

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Return the attention of one layer; see `Session.attend`."""
        # Widen before the rotation: positions and scores are computed in FP32, and `Rounding`
        # brings queries and keys back to the values' dtype for attention itself.
        return super().attend(layer, q_BHTD.float(), k_BHTD.float(), v_BHTD, plan)


@dataclass
class Buffers:
    """Keys [B, H, num_tokens, D] fp32 and values for the whole window of one layer."""

    num_tokens: int
    key: Tensor | None = None
    value: Tensor | None = None

    def put(self, key: Packed, value: Packed, first: int) -> tuple[Packed, Packed]:
        """Copy exact keys and values [B, H, F, T, D] to token `first`; return them as views."""
        keys, values = key.parts["exact"], value.parts["exact"]
        # For the whole window at the first pass, as the release does.
        if self.key is None or self.value is None:
            batch, heads, _, _, width = keys.shape
            shape = batch, heads, self.num_tokens, width
            self.key, self.value = keys.new_zeros(shape), values.new_zeros(shape)
        frames, tokens = keys.shape[2:4]
        place = slice(first, first + frames * tokens)
        own_keys = self.key[:, :, place].unflatten(2, (frames, tokens)).copy_(keys)
        own_values = self.value[:, :, place].unflatten(2, (frames, tokens)).copy_(values)
        return replace(key, parts={"exact": own_keys}), replace(value, parts={"exact": own_values})

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return sum(x.nbytes for x in (self.key, self.value) if x is not None)


@dataclass
class BufferLayer(TokenLayer):
    """History whose tokens lie together in the buffers, just before the place `end`.

    end: place after the newest finished chunk, in tokens.
    """

    buffers: Buffers = field(kw_only=True)
    end: int = 0

    def keep(self, held: StoredTokens) -> None:
        """Move the tokens that stay to the places before `end`."""
        # Unfinished chunks have their own places after `end`. A prefix that is shown in every pass
        # stays unfinished, and has its own places before the history.
        self.end = max(self.end, int(held.origin.max()) + 1)
        first = self.end - held.origin.shape[2]
        key, value = self.buffers.put(held.key, held.value, first)
        self.held = replace(held, key=key, value=value)

    @property
    def ledger(self) -> Counter[str]:
        """Bytes of the buffers, filled or not, and of origins, counts and notes of the tokens."""
        found = super().ledger
        del found["exact"]  # lies in the buffers
        found["buffers"] = self.buffers.nbytes
        return found


@dataclass
class BufferedChunks(ActiveChunks):
    """Unfinished chunks, each at the place of its frames in the buffers."""

    buffers: Buffers = field(kw_only=True)

    def store(self, chunk: Chunk, plan: Plan) -> None:
        """Store a chunk's keys, rotated to absolute positions, and its values."""
        super().store(chunk, plan)
        first = plan.frames.start * self.context.spec.tokens_per_frame
        self.held[plan.frames] = self.buffers.put(*self.held[plan.frames], first)

    @property
    def nbytes(self) -> int:
        """No bytes: the layer counts the buffers."""
        return 0


class Everything(TokenPolicy):
    """Keeps all tokens, in the order in which they came."""

    def revise(self, tokens: Tokens) -> Revision:
        """Return all tokens."""
        *heads, num_tokens = tokens.frame.shape
        return Revision(torch.arange(num_tokens, device=tokens.frame.device).expand(*heads, -1))


@dataclass(frozen=True)
class Rounding(Backend):
    """Attention by another backend, with queries and keys in the dtype of the values."""

    backend: Backend
    name: ClassVar[str] = "rounding"

    def describe(self, device: torch.device) -> str:
        """Return the other backend's description."""
        return self.backend.describe(device)

    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        """Attend in the dtype of the values; stored keys are rounded as they are read."""
        # The other backend decodes history into the dtype of these keys.
        q, k = q_BHTD.to(v_BHTD.dtype), k_BHTD.to(v_BHTD.dtype)
        return self.backend.attend(q, k, v_BHTD, history, scratch)
