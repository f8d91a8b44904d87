"""Softmax attention in fp64, and the error of a result against it."""

from __future__ import annotations

import math

from torch import Tensor


def exactly(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return attention [B, H, T, D] and its log-sum-exp; bias broadcasts to [B, H, N]."""
    logits = q.double() @ k.double().mT / math.sqrt(q.shape[-1])
    if bias is not None:
        logits = logits + bias[:, :, None].double()
    return logits.softmax(-1) @ v.double(), logits.logsumexp(-1)


def relative(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of the error over that of what is wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())
