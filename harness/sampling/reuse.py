"""What stands in for a denoising pass that a reuse policy skips."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from harness.api import Reuse


class Residual:
    """The passes of one chunk under a reuse policy; gone with the chunk.

    Keeps the tokens before the first block of the last pass, and what the blocks added to them in
    the last pass that was run. drift, accumulated: what the decision on the latest pass was made by
    (`harness.sampling.passes.Observer.drifted`); None in the first pass, on which nothing is
    decided.
    """

    def __init__(self, policy: Reuse, num_steps: int, reused: Callable[[], None]) -> None:
        """Nothing has run; `reused` is told of every pass that is skipped."""
        self._policy = policy
        self._num_steps = num_steps
        self._reused = reused
        self._step = 0
        self.drift: float | None = None
        self.accumulated: float | None = None
        self._drifts: list[float] = []  # since the last pass that was run
        self._before: Tensor | None = None
        self._added: Tensor | None = None

    def through(self, tokens: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """The next pass: tokens [B, T, dim] behind the last block, run or not."""
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
        self.drift = (change / self._before.float().abs().mean()).item()
        self._drifts.append(self.drift)
        self.accumulated = sum(self._drifts)
        return self._policy.skips(self._step, self._num_steps, self._drifts)
