"""Teacher forcing: many chunks in one pass, each seeing what it sees when they come one by one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import CacheSpec, Stores
from harness.cache.layer import Plan
from harness.cache.positions import Rope


class TeacherForcing:
    """Stands in for a cache session while training; keys and values keep their gradients.

    A committing pass may cover many chunks of clean frames: each sees the history, the chunks
    before it and itself, and all of them become history. A pass that does not commit may cover
    many chunks of noisy frames: each sees the history before its own frames and itself, but no
    other noisy chunk. So a clean pass and a noisy one give what a sampler gets in one pass after
    the other (arXiv 2412.15205, 2506.08009). Every chunk is one attention call without a mask,
    which is cheaper than one call with a mask for all.

    Raises  ValueError: a model with a window, or frames that do not divide into chunks.
    """

    def __init__(self, spec: CacheSpec, device: torch.device) -> None:
        if spec.window is not None:
            raise ValueError(f"model.window={spec.window}: training sees the whole history (null)")
        self._chunk_frames = spec.chunk_frames
        self._frame_tokens = spec.tokens_per_frame
        self._rope = Rope(spec.head_dim, spec.grid, device)
        self._history: dict[int, tuple[Tensor, Tensor]] = {}

    def plan(self, frames: range, stores: Stores) -> Plan:
        """Place a pass over the chunks of `frames`."""
        if frames.start % self._chunk_frames or len(frames) % self._chunk_frames:
            raise ValueError(f"{frames} does not divide into chunks of {self._chunk_frames} frames")
        return Plan(frames, stores, 0, self._rope.frames(frames))

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Attention of every chunk of the pass over what it may see [B, H, T, D]."""
        # Autocast leaves normed queries and keys in fp32: one cast here saves one a chunk.
        q = plan.rotate(q_BHTD).to(v_BHTD.dtype)
        k = plan.rotate(k_BHTD).to(v_BHTD.dtype)
        past_k, past_v = self._history.get(layer, (k[:, :, :0], v_BHTD[:, :, :0]))
        stored = plan.stores == "history"
        if stored:
            start = plan.frames.start * self._frame_tokens
            past_k = torch.cat([past_k[:, :, :start], k], dim=2)
            past_v = torch.cat([past_v[:, :, :start], v_BHTD], dim=2)
            self._history[layer] = past_k, past_v
        out = []
        for first in plan.frames[:: self._chunk_frames]:
            chunk = self._tokens(first - plan.frames.start)
            end = (first + self._chunk_frames * stored) * self._frame_tokens
            keys, values = past_k[:, :, :end], past_v[:, :, :end]
            if not stored:
                keys = torch.cat([keys, k[:, :, chunk]], dim=2)
                values = torch.cat([values, v_BHTD[:, :, chunk]], dim=2)
            out.append(attention(q[:, :, chunk], keys, values))
        return torch.cat(out, dim=2)

    def _tokens(self, frame: int) -> slice:
        """Where the chunk that begins at a frame of the pass lies."""
        start = frame * self._frame_tokens
        return slice(start, start + self._chunk_frames * self._frame_tokens)


def attention(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
    """Softmax attention [B, H, T, D]; on a CPU written out.

    PyTorch's kernel for CPUs takes two and a half times as long forward and back (measured in BF16
    at 96 queries and 96 to 1344 keys); training does not need its smaller memory.
    """
    if q_BHTD.device.type != "cpu":
        return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD)
    scores = (q_BHTD * q_BHTD.shape[-1] ** -0.5) @ k_BHSD.transpose(-1, -2)
    out: Tensor = scores.softmax(-1) @ v_BHSD
    return out
