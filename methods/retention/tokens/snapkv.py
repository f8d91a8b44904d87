"""SnapKV: keeps the tokens that the newest queries attend to, and their neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.api import Tokens
from methods.retention.tokens.attention import Importance


@dataclass(frozen=True, kw_only=True)
class SnapKV(Importance):
    """score_j = max over the neighbours i of j of (mean over queries of softmax_i(q . k_i)).

    Source  SnapKV (arXiv 2404.14469), section 4. The paper's observation window always stays; here
    `Scored.recent` protects those frames. The paper's softmax also includes the window's own keys.
    """

    def score(self, tokens: Tokens) -> Tensor:
        """Return the importance [B, H, N] fp32."""
        # Pooled, since neighbours of what is attended to are kept with it.
        return self.importance(tokens)
