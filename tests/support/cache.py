"""Helpers for tests of the cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.cache.layer import Plan
from harness.cache.positions import Rope, rotate
from harness.sampling.sampler import Sampler
from tests.support.geometry import CPU, GRID


class Dense:
    """Attention without a cache: all frames at once under a block-causal mask."""

    def __init__(self, num_frames: int, chunk: int) -> None:
        tokens = GRID[0] * GRID[1]
        of_chunk = torch.arange(num_frames).repeat_interleave(tokens) // chunk
        self.mask = of_chunk[:, None] >= of_chunk[None, :]
        self.turns = Rope(32, GRID, CPU).frames(range(num_frames)).view().flatten(0, 1)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, plan: Plan | None) -> Tensor:
        q, k = rotate(q, self.turns), rotate(k, self.turns)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)


class Recording(Sampler):
    def evaluate(self, inputs, text_kv, session, each):
        behind, flow = super().evaluate(inputs, text_kv, session, each)
        self.passes.append((each.frames, inputs.x_BFChw, inputs.t_BF, flow))
        return behind, flow

    @property
    def passes(self):
        return self.__dict__.setdefault("_passes", [])
