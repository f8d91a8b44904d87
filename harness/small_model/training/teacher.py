"""Teacher forcing: one pass over many chunks, each of which sees what it sees in the sampler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import CacheSpec, Stores
from harness.cache.layer import Plan, rotated
from harness.cache.positions import Rope


@dataclass(frozen=True)
class WindowPlan(Plan):
    """The plan of a pass in training, with its frames counted from the start of the window too.

    begin, count: first frame within the window, and number of frames.
    """

    # Compiled blocks read these two instead of `frames`. PyTorch recompiles a block for each new
    # value of a number that the block reads, and windows begin at many different frames.
    begin: int = 0
    count: int = 0

    def rotate(self, x_BHTD: Tensor) -> Tensor:
        """Apply the rotary embedding of this pass to queries or keys [B, H, count * T, D]."""
        return rotated(x_BHTD, self.turns, self.count)


class TeacherForcing:
    """Replaces a cache session in training; keys and values keep their gradients.

    A pass that stores `history` may cover many clean chunks. Each sees the history, the chunks
    before it and itself, and all of them become history. A pass that stores `nothing` may cover
    many noisy chunks. Each sees the history before its own frames and itself, but no other noisy
    chunk. So one clean pass and one noisy pass give what the sampler computes in many passes.

    first: the first frame of the window in its video. Earlier frames are no history.

    Source  arXiv 2412.15205, 2506.08009.

    Raises  ValueError: a model with a window, or frames that do not divide into chunks.
    """

    def __init__(self, spec: CacheSpec, device: torch.device, first: int = 0) -> None:
        # `end` below assumes that a chunk sees everything before it.
        if spec.window is not None:
            raise ValueError(f"model.window={spec.window}: training sees the whole history (null)")
        self._first = first
        self._chunk_frames = spec.chunk_frames
        self._frame_tokens = spec.tokens_per_frame
        self._rope = Rope(spec.head_dim, spec.grid, device)
        # Rotated keys and values by layer, with their gradients: errors of the noisy pass train the
        # clean pass too.
        self._history: dict[int, tuple[Tensor, Tensor]] = {}

    def plan(self, frames: range, stores: Stores) -> WindowPlan:
        """Return the plan of a pass over the chunks of `frames`.

        Raises  ValueError: frames that are not whole chunks.
        """
        if frames.start % self._chunk_frames or len(frames) % self._chunk_frames:
            raise ValueError(f"{frames} does not divide into chunks of {self._chunk_frames} frames")
        turns, begin = self._rope.frames(frames), frames.start - self._first
        return WindowPlan(frames, stores, 0, turns, begin=begin, count=len(frames))

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Return the attention of every chunk of the pass over what it may see [B, H, T, D]."""
        assert isinstance(plan, WindowPlan)
        # Autocast leaves normalized queries and keys in fp32. Cast once here rather than per chunk.
        q = plan.rotate(q_BHTD).to(v_BHTD.dtype)
        k = plan.rotate(k_BHTD).to(v_BHTD.dtype)
        past_k, past_v = self._history.get(layer, (k[:, :, :0], v_BHTD[:, :, :0]))
        stored = plan.stores == "history"
        if stored:
            # A repeated pass replaces the history from its first frame on.
            start = plan.begin * self._frame_tokens
            past_k = torch.cat([past_k[:, :, :start], k], dim=2)
            past_v = torch.cat([past_v[:, :, :start], v_BHTD], dim=2)
            self._history[layer] = past_k, past_v
        # A call per chunk without a mask, which is cheaper than one call with a mask: that would
        # compute the scores that it hides.
        out = []
        for frame in range(0, plan.count, self._chunk_frames):
            # `chunk`: its tokens in this pass. `end`: tokens of the history that it sees, which
            # include its own if it has just become history.
            begin = frame * self._frame_tokens
            chunk = slice(begin, begin + self._chunk_frames * self._frame_tokens)
            end = (plan.begin + frame + self._chunk_frames * stored) * self._frame_tokens
            keys, values = past_k[:, :, :end], past_v[:, :, :end]
            if not stored:
                keys = torch.cat([keys, k[:, :, chunk]], dim=2)
                values = torch.cat([values, v_BHTD[:, :, chunk]], dim=2)
            out.append(attention(q[:, :, chunk], keys, values))
        return torch.cat(out, dim=2)


def attention(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
    """Return softmax attention [B, H, T, D]."""
    if q_BHTD.device.type != "cpu":
        return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD)
    # PyTorch's kernel for CPUs takes two and a half times as long, forward and back (measured in
    # BF16 at 96 queries and 96 to 1344 keys). Training does not need its smaller memory.
    scores = (q_BHTD * q_BHTD.shape[-1] ** -0.5) @ k_BHSD.transpose(-1, -2)
    out: Tensor = scores.softmax(-1) @ v_BHSD
    return out
