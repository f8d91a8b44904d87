"""A tiny network and geometry, with which a whole video takes a moment."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from harness.api import CacheSpec, Reuse
from harness.cache.integration import CacheSession
from harness.models.wan import Wan, WanDims, init_weights
from harness.sampling.network import TextKV
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule

CPU = torch.device("cpu")
# Heads of 32 channels and frames of 32 tokens: groups of 16, which most methods have, divide both.
# Two layers, since some policies treat layers differently.
DIMS = WanDims(
    dim=64, num_layers=2, num_heads=2, ffn_dim=96, latent_channels=4, text_dim=8, freq_dim=16
)
GRID = (4, 8)
FEW = Schedule(steps=(1000, 500))  # more denoising passes would not test the cache any further


def spec(**changes: Any) -> CacheSpec:
    """Return the tiny geometry: 32 tokens of 2 x 32 channels, chunks of 3 frames; with changes."""
    base = {"num_layers": 2, "num_heads": 2, "head_dim": 32, "grid": GRID, "chunk_frames": 3}
    return CacheSpec(**{**base, **changes})


def network(dtype: torch.dtype = torch.float32) -> Wan:
    """Return the tiny network with seeded weights."""
    net = Wan(DIMS)
    init_weights(net, 0)
    return net.eval().requires_grad_(False).to(dtype)


def text_kv(net: Wan, seed: int = 0, batch: int = 1) -> TextKV:
    """Return cross-attention keys and values of a random prompt; `seed` selects it."""
    rows = torch.randn(batch, 6, DIMS.text_dim, generator=torch.Generator().manual_seed(seed))
    return net.text_kv(rows.to(net.dtype))


class Draws:
    """Seeded noise of `batch` videos; implements the sampler's `Noise`."""

    def __init__(self, seed: int, num_frames: int, batch: int = 1) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        # A patch covers 2 x 2 latents.
        self._shape = (DIMS.latent_channels, 2 * GRID[0], 2 * GRID[1])
        self._batch = batch
        self._video = self.fresh(num_frames)

    def initial(self, frames: range) -> Tensor:
        """Return a chunk's part of the noise [B, F, C, h, w]."""
        return self._video[:, frames.start : frames.stop]

    def fresh(self, num_frames: int) -> Tensor:
        """Return new noise [B, F, C, h, w]."""
        return torch.randn(self._batch, num_frames, *self._shape, generator=self._generator)


def video(
    session: CacheSession,
    num_frames: int,
    seed: int = 0,
    batch: int = 1,
    reuse: Reuse | None = None,
) -> Tensor:
    """Generate a short video in BF16 with a session; return its latents [B, F, C, h, w].

    seed: of the prompt and of the noise.
    """
    # One network for all videos of a process: it has no state.
    net = _shared()
    # With two steps a reuse policy would have nothing to skip.
    schedule = FEW if reuse is None else Schedule()
    sampler = Sampler(net, schedule, session.spec.chunk_frames, reuse)
    noise = Draws(seed, num_frames, batch)
    chunks = sampler.sample(session, text_kv(net, seed, batch), noise, num_frames, NullObserver())
    return torch.cat(list(chunks), dim=1)


@cache
def _shared() -> Wan:
    return network(torch.bfloat16)
