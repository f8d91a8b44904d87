"""Reuse policies: which denoising passes of a chunk are not run."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Reuse(ABC):
    """Lets the residual of an earlier pass stand in for the network. Without state.

    A pass that is skipped adds the residual of the chunk's last evaluated pass (tokens behind the
    last block minus tokens before the first) to the new tokens; the head runs. The first pass of a
    chunk and its commit are never skipped.
    """

    @abstractmethod
    def skips(self, step: int, num_steps: int, drifts: list[float]) -> bool:
        """Whether pass `step` (from 1) of a chunk is skipped.

        drifts: relative L1 change of the patch embedding against the pass before, one for every
        pass since the last evaluated one, this pass included.
        """
