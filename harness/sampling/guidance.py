"""Classifier-free guidance: combines the flows of a pass with the prompt and one without it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from harness.cache.integration import CacheSession
from harness.sampling.network import TextKV

BRANCHES = ("cond", "uncond")  # names in the trace


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: `model.guidance` of a preset.

    Every pass runs in two branches, with the prompt (`cond`) and with `negative` (`uncond`). Each
    branch has its own cache session; both share latents and solver.

    scale: flow = uncond + scale * (cond - uncond). At 1 the second branch would have no effect.
    negative: text of the branch without the prompt.

    Source  classifier-free guidance (arXiv 2207.12598), in the form that video models use.
    Raises  ValueError: a scale that is not a finite number, or 1; a negative that is not a text.
    """

    scale: float
    negative: str = ""

    def __post_init__(self) -> None:
        """Refuse a scale that is not a finite number, and a negative that is not a text."""
        # bool is a subclass of int.
        is_number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if not is_number or not math.isfinite(self.scale):
            raise ValueError(
                f"model.guidance.scale={self.scale}: give a number, published models have 3 to 8"
            )
        if self.scale == 1:
            raise ValueError(
                "model.guidance.scale=1 gives the flow of the prompt alone, at the cost of two "
                "passes: choose another scale, or model.guidance=null"
            )
        if not isinstance(self.negative, str):
            raise ValueError(f"model.guidance.negative={self.negative}: give a text")

    def combine(self, cond_BFChw: Tensor, uncond_BFChw: Tensor) -> Tensor:
        """Return the guided flow [B, F, C, h, w] in the branches' dtype, computed in fp32."""
        cond, uncond = cond_BFChw.float(), uncond_BFChw.float()
        return (uncond + self.scale * (cond - uncond)).to(cond_BFChw.dtype)


@dataclass(frozen=True)
class Branch:
    """State of one branch of a video: its cache session, and its text's keys and values."""

    session: CacheSession
    text_kv: TextKV
