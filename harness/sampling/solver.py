"""Solvers: compute the latents of one chunk from one denoising step to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from harness.system.errors import UserError


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

    def skip(self) -> None:
        """Advance by a step without a flow, because a reuse policy moved the latents itself."""


class _Steps:
    """Base of solvers: the times of a chunk's steps, and the number of steps that are done."""

    def __init__(self, times: Sequence[float]) -> None:
        self._times = times
        self._step = 0

    @property
    def time(self) -> float:
        """Time of the next pass, 0 to 1000."""
        return self._times[self._step]

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self._step == len(self._times)

    def skip(self) -> None:
        """Advance by a step without a flow; `clean` stays the estimate of the newest flow."""
        self._step += 1


class Renoise(_Steps):
    """Estimates the clean latents at every step, then adds noise up to the level of the next time.

    Source  Self-Forcing (arXiv 2506.08009) and its few-step family: x0 = x_t - s v in float64.
    """

    def __init__(self, times: Sequence[float], sigmas: Sequence[Tensor]) -> None:
        """Start at the first step.

        sigmas: noise level of each time, [] fp32.
        """
        super().__init__(times)
        self._sigmas = sigmas

    def step(self, x_BFChw: Tensor, flow_BFChw: Tensor, fresh: Callable[[], Tensor]) -> Tensor:
        """Return the latents at the next time; after the last step the clean ones."""
        sigma = self._sigmas[self._step].double().to(x_BFChw.device)
        # In float64 as in the original code; another dtype would give other last bits.
        self.clean = (x_BFChw.double() - sigma * flow_BFChw.double()).to(x_BFChw.dtype)
        self._step += 1
        if self.finished:
            return self.clean
        sigma_next = self._sigmas[self._step].item()
        return (1 - sigma_next) * self.clean + sigma_next * fresh().to(x_BFChw)


class Euler(_Steps):
    """First-order solver for networks whose flow points from noise to clean latents.

    Source  MAGI-1 (arXiv 2505.13211), its released code: x = x + v (t_next - t).
    """

    def __init__(self, times: Sequence[float]) -> None:
        """Start at the first step.

        times: time of each step and the end, rising from 0 to 1.
        """
        super().__init__(times[:-1])
        self._ends = times[1:]

    def step(self, x_BFChw: Tensor, flow_BFChw: Tensor, fresh: Callable[[], Tensor]) -> Tensor:
        """Return the latents after the next step; it draws no noise."""
        # The times are fp32 numbers, so subtract them in fp32: float64 gives other last bits.
        length = np.float32(self._ends[self._step]) - np.float32(self._times[self._step])
        self.clean = x_BFChw + flow_BFChw * float(length)
        self._step += 1
        return self.clean


class UniPC(_Steps):
    """UniPC of order 2 for flows, with its corrector; one instance per chunk.

    It wraps the scheduler of diffusers, with the noise levels of the released code of SkyReels-V2.
    Latents and flows are converted to fp32 for a step.

    Source  UniPC (arXiv 2302.04867), B(h) of the second kind.
    """

    def __init__(self, num_steps: int, shift: float, overwrites: bool) -> None:
        """Start at the first of `num_steps` steps.

        shift: of the noise levels. overwrites: see `UniPCSchedule`.
        Raises  UserError: diffusers is missing.
        """
        # Import here: diffusers takes a second to import, and other models do not need it.
        try:
            from diffusers import UniPCMultistepScheduler
        except ImportError as error:
            raise UserError(
                "the UniPC solver needs diffusers, which is not here: type "
                "pip install 'diffusers>=0.37'"
            ) from error

        self._scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        )
        # Give the levels: the scheduler's own grid differs from the released one by up to 6e-3.
        self._scheduler.set_timesteps(sigmas=np.linspace(0.999, 0, num_steps + 1)[:-1])
        super().__init__([float(time) for time in self._scheduler.timesteps])
        self._overwrites = overwrites

    def step(self, x_BFChw: Tensor, flow_BFChw: Tensor, fresh: Callable[[], Tensor]) -> Tensor:
        """Return the latents after the next step; it draws no noise."""
        # One scheduler per chunk: it keeps the flows of earlier steps.
        scheduler = self._scheduler
        time = scheduler.timesteps[self._step]
        flow, x = flow_BFChw.float(), x_BFChw.float()
        moved: Tensor = scheduler.step(flow, time, x, return_dict=False)[0]
        self.clean = scheduler.model_outputs[-1].to(x_BFChw.dtype)
        # The corrector of the second step starts from `last_sample`, see `UniPCSchedule`.
        if self._step == 0 and self._overwrites:
            scheduler.last_sample = moved
        self._step += 1
        return moved.to(x_BFChw.dtype)

    def skip(self) -> None:
        """Advance by a step without a flow; the next step is of first order."""
        super().skip()
        # After it the solver goes on as at its first step.
        # The order 2 step and the corrector compare flows of neighbouring steps. This step has no
        # flow, so start the multistep method anew. diffusers has no public way to do so.
        self._scheduler._step_index = self._step
        self._scheduler.last_sample = None
        self._scheduler.lower_order_nums = 0
