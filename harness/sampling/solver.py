"""Solvers: compute the latents of one chunk from one denoising step to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from harness.sampling.schedule import Schedule


class Solver(Protocol):
    """Denoising state of one chunk. It draws no random numbers itself.

    clean: estimate of the finished latents after the newest step.
    """

    clean: Tensor

    @property
    def time(self) -> float:
        """Time of the next pass, 0 to 1000, as the network takes it."""

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""

    def step(self, x_BFChw: Tensor, flow_BFChw: Tensor, fresh: Callable[[], Tensor]) -> Tensor:
        """Return the latents of the next pass, or the finished ones after the last step.

        fresh: draws Gaussian noise [B, F, C, h, w], for solvers that add noise.
        """


class Renoise:
    """Estimates the clean latents at every step, then adds noise up to the level of the next time.

    Source  Self-Forcing (arXiv 2506.08009) and its few-step family: x0 = x_t - s v in float64.
    """

    def __init__(self, schedule: Schedule, times: Sequence[float]) -> None:
        """Start at the first of `times`."""
        self._schedule = schedule
        self._times = times
        self._step = 0

    @property
    def time(self) -> float:
        """Time of the next pass."""
        return self._times[self._step]

    @property
    def finished(self) -> bool:
        """Whether all times are used."""
        return self._step == len(self._times)

    def step(self, x_BFChw: Tensor, flow_BFChw: Tensor, fresh: Callable[[], Tensor]) -> Tensor:
        """Return the latents at the next time; after the last step the clean ones."""
        sigma = self._sigma(self.time).double().to(x_BFChw.device)
        # In float64 as in the original code; another dtype would give other last bits.
        self.clean = (x_BFChw.double() - sigma * flow_BFChw.double()).to(x_BFChw.dtype)
        self._step += 1
        if self.finished:
            return self.clean
        sigma_next = self._sigma(self.time).item()
        return (1 - sigma_next) * self.clean + sigma_next * fresh().to(x_BFChw)

    def _sigma(self, time: float) -> Tensor:
        return self._schedule.sigma(torch.tensor(time))
