"""Reuse policies: which denoising passes of a chunk are skipped."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Reuse(ABC):
    """Policy that replaces the blocks of the network by the residual of an earlier pass; stateless.

    A skipped pass adds the residual of the chunk's last evaluated pass (tokens after the last
    block minus tokens before the first) to the new tokens, and then runs the head. The first pass
    of a chunk and its commit pass always run.
    """

    @abstractmethod
    def skips(self, step: int, num_steps: int, drifts: list[float]) -> bool:
        """Return whether to skip pass `step` of a chunk, counted from 0; it is never 0.

        num_steps: denoising passes of the chunk.
        drifts: relative L1 change of the patch embedding from one pass to the next, one value for
            every pass since the last evaluated one, this pass included.
        """
