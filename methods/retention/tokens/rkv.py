"""R-KV: important tokens stay, duplicates go, the newest of a set of duplicates excepted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import Tokens
from methods.retention.tokens.attention import Importance, heads
from methods.retention.tokens.likeness import mean_cosine, newest_twin, unit


@dataclass(frozen=True, kw_only=True)
class RKV(Importance):
    """score = weight * I - (1 - weight) * R.

    I is SnapKV's importance. R is the softmax over tokens of the mean over rows i of cos(k_i, k_j),
    without the diagonal, and without the entry of the newest token j of every row i whose cosine is
    above `threshold`: so the newest of a set of duplicates is not redundant.

    Exact, head by head, without the matrix: the sum over all rows is linear, and the entries to be
    left out are searched from the newest key backwards (`newest_twin`). Worst case, where no keys
    are alike, are all N * N cosines.

    Source  R-KV (arXiv 2505.24133) and its release: threshold 0.5, weight 0.07 (0.1 in the README).
    A row without a duplicate loses its entry for token 0 there, an accidental sink; not here. Its
    observing queries (8) do not attend to their own keys; here they do, see `Observing`.
    Raises  ValueError: a share outside 0..1, or see `Importance`.
    """

    weight: float = 0.07
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        super().__post_init__()
        for name in ("weight", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"RKV.{name}={getattr(self, name)}: choose a number from 0 to 1")

    def score(self, tokens: Tokens) -> Tensor:
        """Scores [B, H, N] fp32."""
        redundancy = torch.empty_like(tokens.count)
        for b, h in heads(tokens):
            live = tokens.count[b, h] > 0
            likeness = self.likeness(tokens.rotated[b, h].float(), live)
            redundancy[b, h] = likeness.masked_fill(~live, -torch.inf).softmax(0)
        return self.weight * self.importance(tokens) - (1 - self.weight) * redundancy

    def likeness(self, key_ND: Tensor, live_N: Tensor) -> Tensor:
        """The mean cosine of each key to the others, spared entries left out [N]."""
        keys = unit(key_ND) * live_N[:, None]
        twin, cosine = newest_twin(keys, self.threshold)
        # Sums over sorted rows instead of scattered ones: a GPU adds scattered ones in any order.
        rows = twin.argsort(stable=True)
        spared = torch.segment_reduce(
            cosine[rows], "sum", lengths=torch.bincount(twin + 1, minlength=len(twin) + 1)
        )
        return mean_cosine(keys, live_N) - spared[1:] / live_N.sum()
