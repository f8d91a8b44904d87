"""R-KV: keeps important tokens and evicts all but the newest of a set of duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import Tokens
from methods.retention.tokens.attention import Importance, each_head
from methods.retention.tokens.likeness import mean_cosine, newest_twin, unit


@dataclass(frozen=True, kw_only=True)
class RKV(Importance):
    """score = weight * I - (1 - weight) * R.

    I is SnapKV's importance. R is the softmax over tokens of the mean over rows i of cos(k_i, k_j).
    The mean excludes the diagonal and, in every row i, the newest token j whose cosine is above
    `threshold`. The newest of a set of duplicates is therefore not redundant.

    weight: weight of I, 0 to 1.
    threshold: cosine above which keys are duplicates, 0 to 1.

    Source  R-KV (arXiv 2505.24133) and its release: threshold 0.5, weight 0.07 (0.1 in the README).
    The release's 8 observing queries do not attend to their own keys; here they do, see
    `Observing`.
    Raises  ValueError: a weight or threshold outside 0..1; see also `Importance`.
    """

    weight: float = 0.07
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weight", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"RKV.{name}={getattr(self, name)}: choose a number from 0 to 1")

    def score(self, tokens: Tokens) -> Tensor:
        """Return scores [B, H, N] fp32."""
        redundancy = torch.empty_like(tokens.count)
        for b, h in each_head(tokens):
            live = tokens.count[b, h] > 0
            likeness = self.likeness(tokens.rotated[b, h].float(), live)
            redundancy[b, h] = likeness.masked_fill(~live, -torch.inf).softmax(0)
        return self.weight * self.importance(tokens) - (1 - self.weight) * redundancy

    def likeness(self, key_ND: Tensor, live_N: Tensor) -> Tensor:
        """Return the mean cosine of each key to the others [N] fp32, without excluded entries."""
        # Exact without the matrix of all pairs: the sum over rows is linear, and `newest_twin`
        # finds the excluded entries. Only if no keys are alike does it compute all N * N cosines.
        keys = unit(key_ND) * live_N[:, None]
        twin, cosine = newest_twin(keys, self.threshold)
        # A row without a duplicate (-1) excludes nothing. In the release it loses its entry for
        # token 0, an accidental sink.
        # Sort and sum segments instead of scattering: a GPU adds scattered values in any order.
        rows = twin.argsort(stable=True)
        spared = torch.segment_reduce(
            cosine[rows], "sum", lengths=torch.bincount(twin + 1, minlength=len(twin) + 1)
        )
        # Without the segment of the rows that exclude nothing.
        return mean_cosine(keys, live_N) - spared[1:] / live_N.sum()
