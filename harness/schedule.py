"""Noise schedule of few-step flow-matching models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

GRID = 1000  # training timesteps


@dataclass(frozen=True)
class Schedule:
    """Times of a few-step flow-matching sampler.

    steps: the published list, e.g. 1000, 750, 500, 250. warp: read an entry as an index into the
    shifted schedule, else use it as the time itself. shift: s = shift * u / (1 + (shift - 1) * u).

    Source  Self-Forcing (arXiv 2506.08009): x_t = (1 - s) x0 + s n, v = n - x0.
    Raises  ValueError: an empty list, or steps that do not fall from 1000 towards 0.
    """

    steps: tuple[int, ...] = (1000, 750, 500, 250)
    first_steps: tuple[int, ...] | None = None
    shift: float = 5.0
    warp: bool = True

    def __post_init__(self) -> None:
        """Refuse lists that are no descent."""
        for name in ("steps", "first_steps"):
            steps = getattr(self, name)
            if steps is None:
                continue
            object.__setattr__(self, name, tuple(steps))  # lists come from YAML
            falling = all(a > b for a, b in pairwise(steps))
            if not steps or not falling or not all(0 < s <= GRID for s in steps):
                raise ValueError(f"schedule.{name}={list(steps)}: give falling times in 1..{GRID}")

    @cached_property
    def _sigmas(self) -> Tensor:
        u = 1 - torch.arange(GRID, dtype=torch.float64) / GRID
        return (self.shift * u / (1 + (self.shift - 1) * u)).float()

    def times(self, first_chunk: bool) -> list[float]:
        """Times of the denoising passes of a chunk, in 0..1000."""
        steps = self.first_steps if first_chunk and self.first_steps else self.steps
        if not self.warp:
            return [float(step) for step in steps]
        return [(self._sigmas[GRID - step] * GRID).item() for step in steps]

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level of the grid entry nearest to each time t [...]; fp32."""
        grid = self._sigmas * GRID
        return self._sigmas[(t.cpu().float()[..., None] - grid).abs().argmin(-1)].to(t.device)
