"""What sampling asks of a network, and a network of the cache session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from harness.cache.layer import Plan
    from harness.cache.positions import Positions

TextKV = list[tuple[Tensor, Tensor]]  # cross-attention (k, v) of every layer, each [B, H, T, D]


class Attends(Protocol):
    """What the network asks of a cache session: attention over history and the current chunk."""

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Self-attention of one layer; output as q [B, H, T, D].

        q and k are normed and un-rotated; k and v may have fewer heads (`CacheSpec.num_kv_heads`).
        """


class Network(Protocol):
    """Predicts the flow v = noise - x0 of a chunk of latent frames.

    One pass is `embed`, `run`, `finish`; a pass that is reused leaves `run` out.
    """

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights, and of the latents that it takes."""

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""

    def positions(self, grid: tuple[int, int]) -> Positions:
        """How keys and queries of a grid of patches are turned, for the cache session."""

    def text_kv(self, text_BTE: Tensor) -> TextKV:
        """Compute the cross-attention keys and values of every layer for encoded prompts."""

    def embed(self, x_BFChw: Tensor) -> Tensor:
        """Embed a chunk [B, F, C, h, w] as tokens [B, F * T, dim], before the first block."""

    def embed_time(self, t_BF: Tensor) -> Tensor:
        """Embed the time of each frame, 0..1000: [B, F, dim]."""

    def run(
        self, tokens: Tensor, e_BFD: Tensor, text_kv: TextKV, session: Attends, plan: Plan
    ) -> Tensor:
        """Run all blocks; tokens [B, F * T, dim] -> the same shape."""

    def finish(self, tokens: Tensor, e_BFD: Tensor, like_BFChw: Tensor) -> Tensor:
        """Compute the flow [B, F, C, h, w] from the tokens behind the last block."""
