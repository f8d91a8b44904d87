"""Interfaces of the network for the sampler, and of the cache session for the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from harness.cache.layer import Plan
    from harness.cache.positions import Positions


@dataclass(frozen=True)
class TextKV:
    """What a network makes of a text, once for all of its passes.

    layers: cross-attention (k, v) of every layer, each [B, H, T, D].
    condition: part of the blocks' condition that belongs to the text and not to the time
        [B, width]; None for networks that read the text by cross-attention only.
    """

    layers: list[tuple[Tensor, Tensor]]
    condition: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        condition = 0 if self.condition is None else self.condition.nbytes
        return condition + sum(x.nbytes for pair in self.layers for x in pair)


# Smaller than `CacheSession`: a network may not look at positions or sizes of the cache, and
# training replaces it by attention without a cache.
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

    embedded: [B, F, width], for the head; in MAGI-1 for the condition of the blocks.
    modulation: scales, shifts and gates of the blocks [B, F, 6, width]. In MAGI-1 every block makes
        its gates from the condition, so this is the embedding again [B, F, 1, width].
    """

    embedded: Tensor
    modulation: Tensor


class Network(Protocol):
    """Predicts the flow of a chunk of latent frames.

    Times and flow have the direction in which the network was trained, and the schedule and solver
    of its presets use the same: the Wan networks take times from 1000 (noise) to 0 and return
    noise - x0; MAGI-1 takes times from 0 (noise) to 1 and returns x0 - noise.
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

    # A pass calls `embed`, `run` and `finish`; a skipped one may leave out `run`, which holds
    # nearly all of the work.

    def embed(self, x_BFChw: Tensor) -> Tensor:
        """Embed a chunk [B, F, C, h, w] as tokens [B, F * T, dim], before the first block."""

    def embed_time(self, t_BF: Tensor, pace: float | None = None) -> TimeEmbedding:
        """Embed the time of each frame, in the network's direction.

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
