"""Interfaces of the network for the sampler, and of the cache session for the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from harness.cache.layer import Plan
    from harness.cache.positions import Positions

TextKV = list[tuple[Tensor, Tensor]]  # cross-attention (k, v) of every layer, each [B, H, T, D]


class Attends(Protocol):
    """The part of a cache session that the network uses: attention over history and chunk."""

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Return the self-attention of one layer [B, H, T, D], in the dtype of q.

        q and k are normed and un-rotated; k and v may have fewer heads (`CacheSpec.num_kv_heads`).
        """


@dataclass(frozen=True)
class TimeEmbedding:
    """What a network makes of the time of each frame, for one pass.

    embedded: [B, F, dim], for the head.
    modulation: scales, shifts and gates of the blocks [B, F, 6, dim].
    """

    embedded: Tensor
    modulation: Tensor


class Network(Protocol):
    """Predicts the flow v = noise - x0 of a chunk of latent frames.

    A pass calls `embed`, `run` and `finish`; a skipped pass leaves out `run`.
    """

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights and of the input latents."""

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""

    def positions(self, grid: tuple[int, int]) -> Positions:
        """Return the rotations of keys and queries for a grid of patches; the cache uses them."""

    def text_kv(self, text_BTE: Tensor) -> TextKV:
        """Compute the cross-attention keys and values of every layer for encoded prompts."""

    def embed(self, x_BFChw: Tensor) -> Tensor:
        """Embed a chunk [B, F, C, h, w] as tokens [B, F * T, dim], before the first block."""

    def embed_time(self, t_BF: Tensor, pace: float | None = None) -> TimeEmbedding:
        """Embed the time of each frame, 0..1000.

        pace: step size, for networks that are told it (`NoiseSchedule.pace`).
        """

    def modulated(self, tokens: Tensor, time: TimeEmbedding) -> Tensor:
        """Return the input of the first block's attention, of the shape of `tokens`."""

    def run(
        self, tokens: Tensor, time: TimeEmbedding, text_kv: TextKV, session: Attends, plan: Plan
    ) -> Tensor:
        """Run all blocks; tokens [B, F * T, dim] -> the same shape."""

    def finish(self, tokens: Tensor, time: TimeEmbedding, like_BFChw: Tensor) -> Tensor:
        """Compute the flow [B, F, C, h, w] from the tokens after the last block.

        like_BFChw: gives the shape of the flow.
        """
