"""Replaces denoising passes that a reuse policy skips by the residual of an earlier pass."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from harness.api import Reuse


class Residual:
    """State of a reuse policy for the passes of one chunk and branch.

    It keeps the tokens before the first block of the newest pass, and the residual of the newest
    pass that ran: tokens after the last block minus tokens before the first.

    drift, accumulated: numbers of the decision on the newest pass (see
        `harness.sampling.passes.Observer.drifted`); None in the first pass, which always runs.
    """

    def __init__(self, policy: Reuse, num_steps: int, reused: Callable[[], None]) -> None:
        """Start before the first of `num_steps` passes; call `reused` for each skipped one."""
        self._policy = policy
        self._num_steps = num_steps
        self._reused = reused
        self._step = 0
        self.drift: float | None = None
        self.accumulated: float | None = None
        self._drifts: list[float] = []  # since the last pass that ran
        self._before: Tensor | None = None
        self._added: Tensor | None = None

    def through(self, tokens: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """Run or skip the next pass; return the tokens after the last block [B, T, dim].

        tokens: before the first block, same shape. run: runs the blocks on them.
        """
        if self._skips(tokens):
            assert self._added is not None
            self._reused()
            behind = tokens + self._added
        else:
            behind = run(tokens)
            self._added = behind - tokens
            self._drifts.clear()
        self._before = tokens
        self._step += 1
        return behind

    def _skips(self, tokens: Tensor) -> bool:
        if self._before is None:  # there is nothing to reuse in the first pass
            return False
        change = (tokens.float() - self._before.float()).abs().mean()
        # `item` waits for the device: the host must know whether to run the pass.
        self.drift = (change / self._before.float().abs().mean()).item()
        self._drifts.append(self.drift)
        self.accumulated = sum(self._drifts)
        return self._policy.skips(self._step, self._num_steps, self._drifts)
