"""Weights of tokens by their place in storage, one formula per class; stateless."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import Tokens

FLOOR = 0.1  # weight of the lowest place


class Weighting(ABC):
    """Multiplies scores by a weight of each token's place.

    Source  FlowCache (arXiv 2602.10825), its release for MAGI-1.
    """

    @abstractmethod
    def weights(self, num_tokens: int) -> Tensor:
        """Return the weights of all places in storage order [N] fp32."""

    def apply(self, score_BHN: Tensor, tokens: Tokens) -> Tensor:
        """Return weighted scores [B, H, N] fp32."""
        # Weights need positive scores, so the lowest of a head becomes 0 first.
        least = score_BHN.masked_fill(tokens.count == 0, torch.inf).amin(2, keepdim=True)
        return (score_BHN - least) * self.weights(score_BHN.shape[2]).to(score_BHN.device)


@dataclass(frozen=True)
class Polynomial(Weighting):
    """weight = 0.1 + 0.9 p^power, for places p from 0 to 1.

    Raises  ValueError: a power that is not above 0.
    """

    power: float = 3

    def __post_init__(self) -> None:
        _demand_power(self, self.power)

    def weights(self, num_tokens: int) -> Tensor:
        """Return weights that rise slowly, then fast."""
        return FLOOR + (1 - FLOOR) * _places(num_tokens) ** self.power


@dataclass(frozen=True)
class Exponential(Weighting):
    """weight = 0.1 + 0.9 (1 - e^(-rate p)) / (1 - e^(-rate)), for places p from 0 to 1.

    Raises  ValueError: a rate that is not above 0.
    """

    rate: float = 2

    def __post_init__(self) -> None:
        _demand_power(self, self.rate)

    def weights(self, num_tokens: int) -> Tensor:
        """Return weights that rise fast, then slowly."""
        risen = torch.expm1(-self.rate * _places(num_tokens)) / math.expm1(-self.rate)
        return FLOOR + (1 - FLOOR) * risen


@dataclass(frozen=True)
class UpperConvex(Weighting):
    """weight = 2 (1 - (1 - p)^power), for places p from 0 to 1; the first place gets 0.

    Raises  ValueError: a power that is not above 0.
    """

    power: float = 3

    def __post_init__(self) -> None:
        _demand_power(self, self.power)

    def weights(self, num_tokens: int) -> Tensor:
        """Return weights that rise fast, then slowly."""
        return 2 * (1 - (1 - _places(num_tokens)) ** self.power)


@dataclass(frozen=True)
class Gaussian(Weighting):
    """weight = 0.1 + 0.9 (e - e_last) / (1 - e_last) with e = e^(-8 p^2).

    Here p is the place over the number of tokens.
    """

    def weights(self, num_tokens: int) -> Tensor:
        """Return weights that fall from 1 to 0.1."""
        # The first places count most, as in FlowCache's code.
        # A normal curve whose deviation is a quarter of the tokens.
        bell = torch.exp(-8 * (torch.arange(num_tokens) / num_tokens) ** 2)
        return FLOOR + (1 - FLOOR) * (bell - bell[-1]) / (1 - bell[-1])


@dataclass(frozen=True)
class FirstOut(Weighting):
    """Ranks the tokens in the places of the first chunk below all others."""

    def weights(self, num_tokens: int) -> Tensor:
        """Return ones: `apply` does not use weights."""
        return torch.ones(num_tokens)

    def apply(self, score_BHN: Tensor, tokens: Tokens) -> Tensor:
        """Return scores [B, H, N] fp32, 1e6 lower at the places of a chunk."""
        # 1e6 is more than scores differ: they are shares, ranks, or numbers of deviations.
        first = tokens.spec.chunk_frames * tokens.spec.tokens_per_frame
        lowered = score_BHN.clone()
        lowered[:, :, :first] -= 1e6
        return lowered


def _places(num_tokens: int) -> Tensor:
    """Return the relative place of every token, 0 to 1 [N] fp32."""
    return torch.arange(num_tokens, dtype=torch.float32) / max(1, num_tokens - 1)


def _demand_power(owner: object, power: object) -> None:
    is_number = isinstance(power, int | float) and not isinstance(power, bool)
    if not is_number or not 0 < float(power) < math.inf:  # type: ignore[arg-type]
        raise ValueError(f"{type(owner).__name__}: found {power}, give a number above 0")
